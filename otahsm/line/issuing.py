"""Issuing for devices or CSRs: writes device folders, and yields one report for each."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from otahsm.client.chunks import chunks_of
from otahsm.client.issuance import IssuanceClient
from otahsm.client.values import CertificateRequest, IssuedCertificate, Refusal, Result
from otahsm.errors import BatchClientError, ConfigError, RequestRefusedError
from otahsm.line.csr_files import load_csr
from otahsm.line.device_lists import Device
from otahsm.line.folders import DeviceFolders
from otahsm.line.keys import DeviceKey, make_device_key
from otahsm.line.run import DeviceOutcome, Run, name_of
from otahsm.pki.keytypes import KeyType
from otahsm.pki.names import check_device_id
from otahsm.pki.serial import SerialNumber

_CHUNK: Final = 64


@dataclass(frozen=True, slots=True)
class Done:
    """A device that has its certificate.

    Attributes:
        name: its id.
        folder: the path of its files.
        serial: the serial number of the certificate; None if the device was already complete.
        replayed: whether the certificate was issued earlier, and is returned again.
    """

    name: str
    folder: Path
    serial: SerialNumber | None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A device that got no certificate.

    Attributes:
        name: its id, or the path of its CSR.
        refusal: why.
        remembered: whether it was refused earlier in this run, and not requested again.
    """

    name: str
    refusal: Refusal
    remembered: bool = False


@dataclass(frozen=True, slots=True)
class IssueOptions:
    """Options for issuing.

    Attributes:
        key_type: the type of new keys.
        profile: the profile; empty for the daemon's default.
        batch: the batch to issue in; empty for none.
        subject: the names of the attributes that the profile's subject needs; others are not sent.
        passphrase: encrypts private keys; None for no encryption.
        configure: makes the sota.toml of a device whose key is a file, for layouts that have one.
    """

    key_type: KeyType = "ec-p256"
    profile: str = ""
    batch: str = ""
    subject: frozenset[str] = frozenset()
    passphrase: bytes | None = None
    configure: Callable[[Device], bytes] | None = None

    def request(self, csr: bytes, device: Device | None = None) -> CertificateRequest:
        """Return the request for a CSR; without a device, the CSR determines the device id."""
        if device is None:
            return CertificateRequest(csr, batch=self.batch)
        needed = ((name, value) for name, value in sorted(device.attributes.items()) if name in self.subject)
        return CertificateRequest(csr, device.device_id, batch=self.batch, attributes=tuple(needed))


@dataclass(slots=True)
class _Work:
    """The work in progress: requested devices by id or CSR, and reports that need no request."""

    folders: DeviceFolders
    options: IssueOptions
    run: Run
    reports: deque[Done | Failed] = field(default_factory=deque)
    devices: dict[str, Device] = field(default_factory=dict)
    paths: dict[bytes, str] = field(default_factory=dict)

    async def follow(
        self, client: IssuanceClient, requests: Iterator[CertificateRequest]
    ) -> AsyncGenerator[Done | Failed, None]:
        anchors = client.told_anchors or self.run.anchors((await client.authority()).anchors)
        # Closed here, whatever fails: left to the garbage collector, it may outlive its event loop.
        results_of = client.issue(requests, profile=self.options.profile, trust_anchors=anchors)
        async with contextlib.aclosing(chunks_of(results_of, _CHUNK)) as chunks:
            async for results in chunks:
                await asyncio.to_thread(self._settle, results)
                for result in results:
                    request = result.request
                    name = request.device_id or self.paths.pop(request.csr)
                    self.devices.pop(request.device_id, None)
                    if isinstance(result, Refusal):
                        if isinstance(result.error, BatchClientError):  # it refuses every other device, too
                            raise result.error
                        yield Failed(name, result)
                    else:
                        folder = self.folders.path(result.device_id)
                        yield Done(result.device_id, folder, result.serial, result.replayed)
                while self.reports:
                    yield self.reports.popleft()
        while self.reports:
            yield self.reports.popleft()

    def _settle(self, results: Sequence[Result]) -> None:
        """Complete folders, and only then record the outcomes of their devices."""
        issued = {result.device_id: result for result in results if isinstance(result, IssuedCertificate)}
        devices = {name: self.devices[name] for name in issued if name in self.devices}
        configure = self.options.configure
        self.folders.finish(
            {name: result.chain for name, result in issued.items()},
            # The others' CSRs were written with their keys.
            {name: result.request.csr for name, result in issued.items() if not result.request.device_id},
            {name: result.trust_anchor for name, result in issued.items()},
            {name: configure(device) for name, device in devices.items()} if configure else None,
        )
        self.run.record(results, devices)

    def answered(self, name: str, device_id: str, outcome: DeviceOutcome | None) -> bool:
        """Return whether a device needs no request; if so, report it.

        A refused device is not requested again. A complete device is done, even if its folder was moved away.

        Args:
            name: the name in the report.
            device_id: the device id; empty if only the CSR contains it.
            outcome: the outcome in the run's state.
        """
        if isinstance(outcome, Refusal):
            self.reports.append(Failed(name, outcome, remembered=True))
            return True
        known = outcome or device_id
        done = self.folders.is_complete(known) if known else False
        if done or (outcome and self.folders.is_gone(outcome)):
            self.reports.append(Done(known, self.folders.path(known), None))
            return True
        return False


def issue_devices(
    client: IssuanceClient,
    folders: DeviceFolders,
    devices: Iterable[Device],
    options: IssueOptions,
    *,
    run: Run,
) -> AsyncGenerator[Done | Failed, None]:
    """Make keys, issue certificates, write folders; yield one report for each device.

    Complete folders are not changed, and incomplete ones are continued with their key. So repeating the call
    finishes an interrupted one. The `run` also records refusals, and devices whose complete folder was moved
    away.

    Raises:
        FolderError: folders can't be written.
        OtahsmError: the daemon can't be reached, or this client may not issue in the batch.
    """
    work = _Work(folders, options, run)
    folders.share()
    return work.follow(client, _requests_for(work, iter(devices)))


def _requests_for(work: _Work, devices: Iterator[Device]) -> Iterator[CertificateRequest]:
    """Start folders, a chunk at a time; devices that need no request are reported at once."""
    while chunk := list(islice(devices, _CHUNK)):
        csrs: dict[str, bytes] = {}
        keys: dict[str, DeviceKey] = {}
        outcomes = work.run.outcomes([device.device_id for device in chunk])
        complete = []
        for device in chunk:
            name = device.device_id
            try:
                check_device_id(name)
                if work.options.configure is not None:
                    work.options.configure(device)  # checks that it can be written
                if work.answered(name, name, outcomes.get(name)):
                    complete += [] if name in outcomes else [device]
                    continue
                saved = work.folders.saved_csr(name)
            except (RequestRefusedError, ConfigError) as error:
                refusal = Refusal(CertificateRequest(b"", name), error)
                work.reports.append(Failed(name, refusal))
                continue
            if saved is None:
                keys[name] = make_device_key(name, work.options.key_type, work.options.passphrase)
            csrs[name] = saved or keys[name].csr
            work.devices[name] = device
        work.run.record_complete([device.device_id for device in complete])
        work.folders.begin(keys)
        for name, csr in csrs.items():
            yield work.options.request(csr, work.devices[name])


def sign_csrs(
    client: IssuanceClient,
    folders: DeviceFolders,
    paths: Iterable[Path],
    options: IssueOptions,
    *,
    run: Run,
) -> AsyncGenerator[Done | Failed, None]:
    """Issue certificates for existing CSRs, and write the devices' folders, without keys.

    Each of `paths` is a PEM or DER file with one CSR. Those that have an outcome in the `run` are not
    requested again.

    Raises:
        FolderError: folders can't be written.
        OtahsmError: the daemon can't be reached, or this client may not issue in the batch.
    """
    work = _Work(folders, options, run)
    folders.share()
    return work.follow(client, _requests_from(work, paths))


def _requests_from(work: _Work, paths: Iterable[Path]) -> Iterator[CertificateRequest]:
    seen: set[str] = set()
    for path in paths:
        try:
            request = work.options.request(load_csr(path))
        except ConfigError as error:
            work.reports.append(Failed(str(path), Refusal(CertificateRequest(b""), error)))
            continue
        name = name_of(request)
        if name in seen:
            continue  # the same CSR in two files
        seen.add(name)
        outcome = work.run.outcomes([name]).get(name)
        if not work.answered(str(path), "", outcome):
            work.paths[request.csr] = str(path)
            yield request
