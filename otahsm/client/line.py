"""The line: device ids or CSRs in, device folders out, one report for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from otahsm.client.chunks import chunks_of
from otahsm.client.folders import DeviceFolders, load_csr
from otahsm.client.issuing import IssuingClient
from otahsm.client.keys import make_device_key
from otahsm.client.orders import Order
from otahsm.client.values import CertificateRequest, IssuedCertificate, Refusal, Result
from otahsm.config import KeyType
from otahsm.errors import ConfigError, RequestRefusedError
from otahsm.pki import check_device_id

_BATCH: Final = 64
_ANY: Final = ".*"  # the profile's own pattern is the daemon's to apply; what is unsafe is refused here


@dataclass(frozen=True, slots=True)
class Done:
    """A device that has its certificate.

    Attributes:
        name: its id.
        folder: where its files are.
        serial: the certificate's; None if the folder was complete before.
        replayed: the certificate had been issued before, and was returned again.
    """

    name: str
    folder: Path
    serial: int | None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A device without one.

    Attributes:
        name: its id, or the path of its CSR.
        refusal: why.
        remembered: an earlier run was refused, and this one did not ask again.
    """

    name: str
    refusal: Refusal
    remembered: bool = False


async def issue_devices(
    client: IssuingClient,
    folders: DeviceFolders,
    device_ids: Iterable[str],
    *,
    key_type: KeyType = "ec-p256",
    profile: str = "",
    order: Order | None = None,
) -> AsyncIterator[Done | Failed]:
    """Make keys, have certificates issued, write folders; yield one report for each device id.

    A folder that is complete is left alone, and one that was begun goes on with the key it has. So the
    same call again finishes what an earlier one left. With an `order`, what was refused is remembered too,
    and so is a device whose complete folder was taken away meanwhile.

    Raises:
        FolderError: folders can't be written.
        OtahsmError: the daemon can't be reached.
    """
    order = order or Order()
    reports: deque[Done | Failed] = deque()
    requests = _requests_for(folders, iter(device_ids), key_type, order, reports)
    async for results in chunks_of(client.issue(requests, profile=profile), _BATCH):
        await asyncio.to_thread(_settle, folders, order, results)
        for result in results:
            if isinstance(result, Refusal):
                yield Failed(result.request.device_id, result)
            else:
                yield _done(folders, result)
        while reports:
            yield reports.popleft()
    while reports:
        yield reports.popleft()


def _requests_for(
    folders: DeviceFolders,
    device_ids: Iterator[str],
    key_type: KeyType,
    order: Order,
    reports: deque[Done | Failed],
) -> Iterator[CertificateRequest]:
    """Begin folders, a batch at a time; what needs no request is reported at once."""
    while batch := list(islice(device_ids, _BATCH)):
        csrs: dict[str, bytes] = {}
        keys = {}
        complete = []
        for device_id in batch:
            request = CertificateRequest(b"", device_id)
            try:
                check_device_id(device_id, _ANY)
                if order.is_done(folders, request):
                    complete.append(device_id)
                    continue
                if refusal := order.refusal(request):
                    reports.append(Failed(device_id, refusal, remembered=True))
                    continue
                saved = folders.saved_csr(device_id)
            except RequestRefusedError as error:
                reports.append(Failed(device_id, Refusal.from_error(request, error)))
                continue
            if saved is None:
                keys[device_id] = make_device_key(device_id, key_type)
            csrs[device_id] = saved or keys[device_id].csr
        order.record_complete(complete)
        reports.extend(Done(device_id, folders.path(device_id), None) for device_id in complete)
        folders.begin(keys)
        for device_id, csr in csrs.items():
            yield CertificateRequest(csr, device_id)


async def sign_csrs(
    client: IssuingClient,
    folders: DeviceFolders,
    paths: Iterable[Path],
    *,
    profile: str = "",
    order: Order | None = None,
) -> AsyncIterator[Done | Failed]:
    """Have CSRs signed that exist already, and write the devices' folders, without keys.

    Each of `paths` is a PEM or DER file with one CSR. With an `order`, only CSRs are asked for that have no
    answer yet.

    Raises:
        FolderError: folders can't be written.
        OtahsmError: the daemon can't be reached.
    """
    order = order or Order()
    reports: deque[Done | Failed] = deque()
    names: dict[bytes, str] = {}
    requests = _requests_from(folders, paths, names, order, reports)
    async for results in chunks_of(client.issue(requests, profile=profile), _BATCH):
        for result in results:
            if isinstance(result, IssuedCertificate):
                check_device_id(result.device_id, _ANY)  # it becomes a path here, whoever says so
        await asyncio.to_thread(_settle, folders, order, results)
        for result in results:
            if isinstance(result, Refusal):
                yield Failed(names[result.request.csr], result)
            else:
                yield _done(folders, result)
        while reports:
            yield reports.popleft()
    while reports:
        yield reports.popleft()


def _requests_from(
    folders: DeviceFolders,
    paths: Iterable[Path],
    names: dict[bytes, str],
    order: Order,
    reports: deque[Done | Failed],
) -> Iterator[CertificateRequest]:
    for path in paths:
        try:
            request = CertificateRequest(load_csr(path))
        except ConfigError as error:
            reports.append(Failed(str(path), Refusal.from_error(CertificateRequest(b""), error)))
            continue
        if request.csr in names:
            continue  # the same CSR in two files
        names[request.csr] = str(path)
        if device_id := order.is_done(folders, request):
            reports.append(Done(device_id, folders.path(device_id), None))
        elif refusal := order.refusal(request):
            reports.append(Failed(str(path), refusal, remembered=True))
        else:
            yield request


def _settle(folders: DeviceFolders, order: Order, results: Sequence[Result]) -> None:
    """Complete folders, and only then write down what became of their devices."""
    issued = {result.device_id: result for result in results if isinstance(result, IssuedCertificate)}
    folders.finish(
        {name: result.chain for name, result in issued.items()},
        # The others wrote their CSRs when they made their keys.
        {name: result.request.csr for name, result in issued.items() if not result.request.device_id},
        {name: result.trust_anchor for name, result in issued.items() if result.trust_anchor},
    )
    order.record(results)


def _done(folders: DeviceFolders, result: IssuedCertificate) -> Done:
    return Done(result.device_id, folders.path(result.device_id), result.serial, result.replayed)
