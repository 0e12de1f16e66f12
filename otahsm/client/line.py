"""The line: device ids or CSRs in, device folders out, one report for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from otahsm.client.chunks import chunks_of
from otahsm.client.folders import DeviceFolders, load_csr
from otahsm.client.issuing import IssuingClient
from otahsm.client.keys import make_device_key
from otahsm.client.values import CertificateRequest, IssuedCertificate, Refusal
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
    """

    name: str
    refusal: Refusal


async def issue_devices(
    client: IssuingClient,
    folders: DeviceFolders,
    device_ids: Iterable[str],
    *,
    key_type: KeyType = "ec-p256",
    profile: str = "",
) -> AsyncIterator[Done | Failed]:
    """Make keys, have certificates issued, write folders; yield one report for each device id.

    A folder that is complete is left alone, and one that was begun goes on with the key it has. So the
    same call again finishes what an earlier one left.

    Raises:
        FolderError: folders can't be written.
        OtahsmError: the daemon can't be reached.
    """
    reports: deque[Done | Failed] = deque()
    requests = _requests_for(folders, iter(device_ids), key_type, reports)
    async for results in chunks_of(client.issue(requests, profile=profile), _BATCH):
        issued = {result.device_id: result for result in results if isinstance(result, IssuedCertificate)}
        await asyncio.to_thread(folders.finish, {name: item.chain for name, item in issued.items()})
        for name, item in issued.items():
            yield Done(name, folders.path(name), item.serial, item.replayed)
        for result in results:
            if isinstance(result, Refusal):
                yield Failed(result.request.device_id, result)
        while reports:
            yield reports.popleft()
    while reports:
        yield reports.popleft()


def _requests_for(
    folders: DeviceFolders, device_ids: Iterator[str], key_type: KeyType, reports: deque[Done | Failed]
) -> Iterator[CertificateRequest]:
    """Begin folders, a batch at a time; what needs no request is reported at once."""
    while batch := list(islice(device_ids, _BATCH)):
        csrs: dict[str, bytes] = {}
        keys = {}
        for device_id in batch:
            try:
                check_device_id(device_id, _ANY)
                if folders.is_complete(device_id):
                    reports.append(Done(device_id, folders.path(device_id), None))
                    continue
                saved = folders.saved_csr(device_id)
            except RequestRefusedError as error:
                reports.append(
                    Failed(device_id, Refusal.from_error(CertificateRequest(b"", device_id), error))
                )
                continue
            if saved is None:
                keys[device_id] = make_device_key(device_id, key_type)
            csrs[device_id] = saved or keys[device_id].csr
        folders.begin(keys)
        for device_id, csr in csrs.items():
            yield CertificateRequest(csr, device_id)


async def sign_csrs(
    client: IssuingClient, folders: DeviceFolders, paths: Iterable[Path], *, profile: str = ""
) -> AsyncIterator[Done | Failed]:
    """Have CSRs signed that exist already, and write the devices' folders, without keys.

    Each of `paths` is a PEM or DER file with one CSR.

    Raises:
        FolderError: folders can't be written.
        OtahsmError: the daemon can't be reached.
    """
    reports: deque[Done | Failed] = deque()
    names: dict[bytes, str] = {}
    requests = _requests_from(paths, names, reports)
    async for results in chunks_of(client.issue(requests, profile=profile), _BATCH):
        issued: dict[str, IssuedCertificate] = {}
        for result in results:
            if isinstance(result, Refusal):
                yield Failed(names[result.request.csr], result)
            else:
                check_device_id(result.device_id, _ANY)  # it becomes a path here, whoever says so
                issued[result.device_id] = result
        await asyncio.to_thread(_finish_with_csrs, folders, issued)
        for name, item in issued.items():
            yield Done(name, folders.path(name), item.serial, item.replayed)
        while reports:
            yield reports.popleft()
    while reports:
        yield reports.popleft()


def _finish_with_csrs(folders: DeviceFolders, issued: Mapping[str, IssuedCertificate]) -> None:
    folders.finish(
        {name: item.chain for name, item in issued.items()},
        {name: item.request.csr for name, item in issued.items()},
    )


def _requests_from(
    paths: Iterable[Path], names: dict[bytes, str], reports: deque[Done | Failed]
) -> Iterator[CertificateRequest]:
    for path in paths:
        try:
            csr = load_csr(path)
        except ConfigError as error:
            reports.append(Failed(str(path), Refusal.from_error(CertificateRequest(b""), error)))
            continue
        if csr in names:
            continue  # the same CSR in two files
        names[csr] = str(path)
        yield CertificateRequest(csr)
