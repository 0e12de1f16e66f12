"""The load: streams of prepared messages over mutual TLS, and the latency of each."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Final, NamedTuple

import grpc
from google.rpc.code_pb2 import Code

from otahsm.client.rpc_errors import Ending, from_rpc
from otahsm.errors import OtahsmError
from otahsm.line import make_device_key
from otahsm.pki.csr import derive_request_id
from otahsm.v1 import issuance_pb2, issuance_pb2_grpc

_IN_FLIGHT: Final = 1024  # requests, of all streams together
_PREFIX: Final = "bench-"


class BenchMessage(NamedTuple):
    """One encoded message."""

    message: issuance_pb2.IssueCertificatesRequest
    ids: tuple[str, ...]


def make_csrs(count: int) -> list[bytes]:
    """Return CSRs of new devices, with P-256 keys that are discarded."""
    return [make_device_key(f"{_PREFIX}{uuid.uuid4()}", "ec-p256").csr for _ in range(count)]


def make_messages(csrs: Sequence[bytes], size: int, profile: str) -> list[BenchMessage]:
    """Pack CSRs into messages of `size` requests."""
    messages = []
    for at in range(0, len(csrs), size):
        part = csrs[at : at + size]
        ids = tuple(derive_request_id(profile, csr) for csr in part)
        requests = [
            issuance_pb2.CertificateRequest(request_id=name, profile=profile, csr=csr)
            for name, csr in zip(ids, part, strict=True)
        ]
        messages.append(BenchMessage(issuance_pb2.IssueCertificatesRequest(requests=requests), ids))
    return messages


async def stream_all(
    channel: grpc.aio.Channel, target: str, messages: Sequence[BenchMessage], streams: int
) -> list[float]:
    """Send messages over concurrent streams to a target; return the seconds that each message took.

    Raises:
        OtahsmError: a certificate was refused, or the daemon refused, or can't be reached.
    """
    size = max((len(message.ids) for message in messages), default=1)
    window = max(1, _IN_FLIGHT // (size * streams))
    runs = (_stream(channel, target, messages[number::streams], window) for number in range(streams))
    return [seconds for run in await asyncio.gather(*runs) for seconds in run]


async def _stream(
    channel: grpc.aio.Channel, target: str, messages: Sequence[BenchMessage], at_once: int
) -> list[float]:
    window = asyncio.Semaphore(at_once)
    sent: dict[str, int] = {}
    began = [0.0] * len(messages)
    left = [len(message.ids) for message in messages]
    took = [0.0] * len(messages)
    call = issuance_pb2_grpc.IssuanceServiceStub(channel).IssueCertificates()
    ending = Ending(call)

    async def send() -> None:
        for number, message in enumerate(messages):
            await window.acquire()
            began[number] = time.perf_counter()
            sent.update(dict.fromkeys(message.ids, number))
            await call.write(message.message)
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
    except grpc.aio.AioRpcError as error:
        if failure := await ending.of(error, target):
            raise failure from None
    finally:
        sending.cancel()
        call.cancel()
    if any(left):
        raise OtahsmError("the daemon ended a stream before it had answered all requests")
    return took


def _check(result: issuance_pb2.IssueResult) -> None:
    if not result.HasField("certificate"):
        error = result.error
        raise OtahsmError(
            f"the daemon refused a CSR of the bench: {Code.Name(error.code)}: {error.message}",
            hint="Check that the profile accepts P-256 keys, and device ids like bench-<UUID>.",
        )


async def ask_one_by_one(
    channel: grpc.aio.Channel, target: str, messages: Sequence[BenchMessage]
) -> list[float]:
    """Request certificates one by one with the unary call; return the seconds that each took.

    Raises:
        OtahsmError: it was refused, or the daemon can't be reached.
    """
    ask = issuance_pb2_grpc.IssuanceServiceStub(channel).IssueCertificate
    took = []
    for message in messages:
        (request,) = message.message.requests
        began = time.perf_counter()
        try:
            await ask(issuance_pb2.IssueCertificateRequest(request=request))
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, target) from None
        took.append(time.perf_counter() - began)
    return took
