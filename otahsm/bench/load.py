"""The load: streams of messages that were made before, over mutual TLS, and how long each took."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import grpc
from google.rpc.code_pb2 import Code

from otahsm.errors import OtahsmError
from otahsm.line import make_device_key
from otahsm.pki import derive_request_id
from otahsm.v1 import issuance_pb2, issuance_pb2_grpc

_IN_HAND: Final = 1024  # requests, of all streams together
_PREFIX: Final = "bench-"


class Order(NamedTuple):
    """One message, ready to be sent."""

    message: issuance_pb2.IssueCertificatesRequest
    ids: tuple[str, ...]


def make_csrs(count: int, *, progress: Callable[[int], None] = lambda _: None) -> list[bytes]:
    """Make CSRs of as many new devices, with P-256 keys that nobody keeps."""
    csrs = []
    for number in range(count):
        csrs.append(make_device_key(f"{_PREFIX}{uuid.uuid4()}", "ec-p256").csr)
        progress(number + 1)
    return csrs


def make_orders(csrs: Sequence[bytes], size: int, profile: str) -> list[Order]:
    """Pack CSRs into messages of `size` requests."""
    orders = []
    for at in range(0, len(csrs), size):
        part = csrs[at : at + size]
        ids = tuple(derive_request_id(profile, csr) for csr in part)
        requests = [
            issuance_pb2.CertificateRequest(request_id=name, profile=profile, csr=csr)
            for name, csr in zip(ids, part, strict=True)
        ]
        orders.append(Order(issuance_pb2.IssueCertificatesRequest(requests=requests), ids))
    return orders


async def stream_all(channel: grpc.aio.Channel, orders: Sequence[Order], streams: int) -> list[float]:
    """Send messages over so many streams at once; return how long each message took, in seconds.

    Raises:
        OtahsmError: a certificate was refused.
        AioRpcError: the daemon can't be reached.
    """
    size = max((len(order.ids) for order in orders), default=1)
    window = max(1, _IN_HAND // (size * streams))
    runs = (_stream(channel, orders[number::streams], window) for number in range(streams))
    return [seconds for run in await asyncio.gather(*runs) for seconds in run]


async def _stream(channel: grpc.aio.Channel, orders: Sequence[Order], at_once: int) -> list[float]:
    window = asyncio.Semaphore(at_once)
    sent: dict[str, int] = {}
    began = [0.0] * len(orders)
    left = [len(order.ids) for order in orders]
    took = [0.0] * len(orders)
    call = issuance_pb2_grpc.IssuanceServiceStub(channel).IssueCertificates()

    async def send() -> None:
        for number, order in enumerate(orders):
            await window.acquire()
            began[number] = time.perf_counter()
            sent.update(dict.fromkeys(order.ids, number))
            await call.write(order.message)
        await call.done_writing()

    sending = asyncio.create_task(send())
    try:
        async for response in call:
            now = time.perf_counter()
            for result in response.results:
                _check(result)
                number = sent.pop(result.request_id)
                left[number] -= 1
                if not left[number]:
                    took[number] = now - began[number]
                    window.release()
        await sending
    finally:
        sending.cancel()
        call.cancel()
    if any(left):
        raise OtahsmError("the daemon ended a stream before it had answered all of it")
    return took


def _check(result: issuance_pb2.IssueResult) -> None:
    if not result.HasField("certificate"):
        error = result.error
        raise OtahsmError(
            f"the daemon refused a CSR of the bench: {Code.Name(error.code)}: {error.message}",
            hint="Is the profile one that takes P-256 keys, and device ids like bench-<UUID>?",
        )


async def ask_one_by_one(channel: grpc.aio.Channel, orders: Sequence[Order]) -> list[float]:
    """Ask for one certificate after another with the unary call; return how long each took, in seconds.

    Raises:
        AioRpcError: it was refused, or the daemon can't be reached.
    """
    ask = issuance_pb2_grpc.IssuanceServiceStub(channel).IssueCertificate
    took = []
    for order in orders:
        (request,) = order.message.requests
        began = time.perf_counter()
        await ask(issuance_pb2.IssueCertificateRequest(request=request))
        took.append(time.perf_counter() - began)
    return took
