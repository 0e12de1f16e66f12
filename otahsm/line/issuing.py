"""The line: devices or CSRs in, device folders out, one report for each."""

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
from otahsm.errors import ConfigError, RequestRefusedError
from otahsm.line.csr_files import load_csr
from otahsm.line.device_lists import Device
from otahsm.line.folders import DeviceFolders
from otahsm.line.keys import DeviceKey, make_device_key
from otahsm.line.run import DeviceOutcome, Run, name_of
from otahsm.pki import KeyType, SerialNumber, check_device_id

_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Done:
    """A device that has its certificate.

    Attributes:
        name: its id.
        folder: where its files are.
        serial: the certificate's; None if it was complete before.
        replayed: the certificate had been issued before, and was returned again.
    """

    name: str
    folder: Path
    serial: SerialNumber | None
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


@dataclass(frozen=True, slots=True)
class IssueOptions:
    """How devices are made.

    Attributes:
        key_type: of the keys that are made here.
        profile: what to issue under; empty for the daemon's default.
        batch: the batch that certificates count in; empty for none.
        subject: names of the attributes that the profile's subject needs; others are not sent.
        passphrase: to encrypt private keys with; None leaves them as they are.
        configure: makes the sota.toml of a device whose key is a file, for layouts that have one.
    """

    key_type: KeyType = "ec-p256"
    profile: str = ""
    batch: str = ""
    subject: frozenset[str] = frozenset()
    passphrase: bytes | None = None
    configure: Callable[[Device], bytes] | None = None

    def request(self, csr: bytes, device: Device | None = None) -> CertificateRequest:
        """Return what is asked for; without a device, the CSR says which it is."""
        if device is None:
            return CertificateRequest(csr, batch=self.batch)
        needed = ((name, value) for name, value in sorted(device.attributes.items()) if name in self.subject)
        return CertificateRequest(csr, device.device_id, batch=self.batch, attributes=tuple(needed))


@dataclass(slots=True)
class _Work:
    """What a run has in hand: devices that were asked for by id or CSR, and reports that need no request."""

    folders: DeviceFolders
    options: IssueOptions
    run: Run
    reports: deque[Done | Failed] = field(default_factory=deque)
    devices: dict[str, Device] = field(default_factory=dict)
    paths: dict[bytes, str] = field(default_factory=dict)

    async def follow(
        self, client: IssuanceClient, requests: Iterator[CertificateRequest]
    ) -> AsyncGenerator[Done | Failed, None]:
        # Closed here, whatever fails: left to the garbage collector, it may outlive its event loop.
        results_of = client.issue(requests, profile=self.options.profile)
        async with contextlib.aclosing(chunks_of(results_of, _BATCH)) as chunks:
            async for results in chunks:
                await asyncio.to_thread(self._settle, results)
                for result in results:
                    request = result.request
                    name = request.device_id or self.paths.pop(request.csr)
                    self.devices.pop(request.device_id, None)
                    if isinstance(result, Refusal):
                        yield Failed(name, result)
                    else:
                        folder = self.folders.path(result.device_id)
                        yield Done(result.device_id, folder, result.serial, result.replayed)
                while self.reports:
                    yield self.reports.popleft()
        while self.reports:
            yield self.reports.popleft()

    def _settle(self, results: Sequence[Result]) -> None:
        """Complete folders, and only then write down what became of their devices."""
        issued = {result.device_id: result for result in results if isinstance(result, IssuedCertificate)}
        for device_id in issued:
            check_device_id(device_id)  # it becomes a path here, whoever says so
        devices = {name: self.devices[name] for name in issued if name in self.devices}
        configure = self.options.configure
        self.folders.finish(
            {name: result.chain for name, result in issued.items()},
            # The others wrote their CSRs when they made their keys.
            {name: result.request.csr for name, result in issued.items() if not result.request.device_id},
            {name: result.trust_anchor for name, result in issued.items() if result.trust_anchor},
            {name: configure(device) for name, device in devices.items()} if configure else None,
        )
        self.run.record(results, devices)

    def answered(self, name: str, device_id: str, outcome: DeviceOutcome | None) -> bool:
        """Return whether a device needs no request, and report it then.

        What was refused is not asked for again. A complete folder is done, and so is one that was complete
        and was taken away.

        Args:
            name: for the report.
            device_id: empty if only the CSR says it.
            outcome: what the run knows.
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
    """Make keys, have certificates issued, write folders; yield one report for each device.

    A folder that is complete is left alone, and one that was begun goes on with the key it has. So the
    same call again finishes what an earlier one left. The `run` remembers what was refused, too, and a
    device whose complete folder was taken away meanwhile.

    Raises:
        FolderError: folders can't be written.
        OtahsmError: the daemon can't be reached.
    """
    work = _Work(folders, options, run)
    folders.share()
    return work.follow(client, _requests_for(work, iter(devices)))


def _requests_for(work: _Work, devices: Iterator[Device]) -> Iterator[CertificateRequest]:
    """Begin folders, a batch at a time; what needs no request is reported at once."""
    while batch := list(islice(devices, _BATCH)):
        csrs: dict[str, bytes] = {}
        keys: dict[str, DeviceKey] = {}
        outcomes = work.run.outcomes([device.device_id for device in batch])
        complete = []
        for device in batch:
            name = device.device_id
            try:
                check_device_id(name)
                if work.options.configure is not None:
                    work.options.configure(device)  # sees to it that it can be written
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
    """Have CSRs signed that exist already, and write the devices' folders, without keys.

    Each of `paths` is a PEM or DER file with one CSR. Those that have an answer in the `run` are not
    asked for again.

    Raises:
        FolderError: folders can't be written.
        OtahsmError: the daemon can't be reached.
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
