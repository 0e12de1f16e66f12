"""Orders: what a command asked for in a devices folder, and what became of it, to go on after a crash.

An order is a file beside the device folders, `.order-<name>.jsonl`, named after what the command asks for.
Its first line is written whole or not at all, before any key is made:

    {"type": "order", "version": 1, "asked": [...], "device_ids": [...]}

`device_ids` are those that were drawn for it, so that a run that goes on draws none again. Then come
outcomes, one a line, as they happen. `csr` (SHA-256, hexadecimal) is there if the device made its own CSR,
and `serial` if the certificate came in this order:

    {"type": "issued", "device_id": "...", "serial": "..."}
    {"type": "refused", "device_id": "...", "code": "...", "reason": "...", "message": "...", "hint": "..."}

A device folder is complete before its outcome is written, so outcomes need no disk flush of their own: what
a power cut takes of them is seen in the folders. An order whose devices all have their certificates is
removed. The lock of the devices folder is the lock of its orders.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from otahsm.client.folders import DeviceFolders, make_durable, write
from otahsm.client.values import CertificateRequest, IssuedCertificate, Refusal, Result
from otahsm.errors import FolderError
from otahsm.pki import serial_octets

_VERSION: Final = 1
_FLUSH_EVERY: Final = 1024  # outcomes
_START_ANEW: Final = "Start a new run with --no-resume. Complete device folders are left alone."


class Order:
    """An order that is remembered, if `open` made it; else one that remembers nothing.

    Attributes:
        device_ids: the ids that were drawn for it.
        resumed: an earlier run left it, and this one goes on.
    """

    def __init__(self) -> None:
        self.device_ids: Sequence[str] = ()
        self.resumed = False
        self._path: Path | None = None
        self._issued: dict[str, str] = {}  # device id by key
        self._refused: dict[str, Refusal] = {}
        self._unflushed = 0
        self._lock = threading.Lock()  # folders are begun in one thread, and finished in another

    @classmethod
    def open(
        cls,
        folders: DeviceFolders,
        asked: Sequence[str],
        *,
        count: int = 0,
        resume: bool = True,
        retry_refused: bool = False,
    ) -> Self:
        """Go on with the order that an earlier run left, or begin one.

        Args:
            folders: the devices folder.
            asked: what is asked for, in words; the same words name the same order.
            count: how many device ids a new order draws (UUID version 4).
            resume: go on; else what an earlier run left is forgotten.
            retry_refused: forget refusals.

        Raises:
            FolderError: the file can't be read or written, is damaged, or is another version's.
        """
        order = cls()
        path = folders.root / f".order-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}.jsonl"
        try:
            if resume and path.exists():
                order._load(path)
                order.resumed = True
            else:
                order.device_ids = [str(uuid.uuid4()) for _ in range(count)]
                _begin(path, asked, order.device_ids)
        except OSError as error:
            raise FolderError(f"{path} can't be used: {error.strerror}") from error
        if retry_refused:
            order._refused.clear()
        order._path = path
        return order

    def is_done(self, folders: DeviceFolders, request: CertificateRequest) -> str | None:
        """Return the device's id if it has its certificate; its folder may have been taken away since."""
        device_id = self._issued.get(_key(request), request.device_id)
        if not device_id:
            return None
        if folders.is_complete(device_id):
            return device_id
        taken_away = _key(request) in self._issued and not folders.path(device_id).exists()
        return device_id if taken_away else None

    def refusal(self, request: CertificateRequest) -> Refusal | None:
        """Return how an earlier run was refused, if it was."""
        return self._refused.get(_key(request))

    def record(self, results: Iterable[Result]) -> None:
        """Write down outcomes; folders must be complete already.

        Raises:
            FolderError: the disk is full, say.
        """
        self._append([line for result in results if (line := _outcome(result)) is not None])

    def record_complete(self, device_ids: Iterable[str]) -> None:
        """Write down devices that turned out to be complete. Raises as `record`."""
        new = [device_id for device_id in device_ids if device_id not in self._issued]
        self._append([{"type": "issued", "device_id": device_id} for device_id in new])

    def remove(self) -> None:
        """Forget it: every device has its certificate."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _append(self, outcomes: Sequence[dict[str, str]]) -> None:
        if self._path is None or not outcomes:
            return
        with self._lock:
            self._unflushed += len(outcomes)
            try:
                with self._path.open("ab", buffering=0) as file:
                    _write_all(file.fileno(), b"".join(_line(outcome) for outcome in outcomes))
                    if self._unflushed >= _FLUSH_EVERY:
                        os.fsync(file.fileno())
                        self._unflushed = 0
            except OSError as error:
                raise FolderError(f"{self._path} can't be written: {error.strerror}") from error

    def _load(self, path: Path) -> None:
        """Read what is there; a last line that was not written whole is cut off."""
        good = 0
        with path.open("r+b") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and number > 1:
                    file.truncate(good)
                    break
                try:
                    self._enter(json.loads(line), first=number == 1)
                except (ValueError, KeyError) as error:
                    raise FolderError(
                        f"{path}, line {number} is damaged: {error}", hint=_START_ANEW
                    ) from None
                good += len(line)
        if not good:
            raise FolderError(f"{path} is empty", hint=_START_ANEW)

    def _enter(self, record: Any, *, first: bool) -> None:
        match record:
            case {"type": "order", "version": version} if first and version != _VERSION:
                raise FolderError(
                    f"the unfinished run was begun by another otahsm: its file has version {version}",
                    hint=f"Finish it with the otahsm that began it. {_START_ANEW}",
                )
            case {"type": "order", "device_ids": [*device_ids]} if first:
                self.device_ids = [str(device_id) for device_id in device_ids]
            case {"type": "issued", "device_id": str(device_id)} if not first:
                key = record.get("csr", device_id)
                self._issued[key] = device_id
                self._refused.pop(key, None)
            case {"type": "refused", "device_id": str(device_id)} if not first:
                words = (str(record[name]) for name in ("code", "reason", "message", "hint"))
                self._refused[record.get("csr", device_id)] = Refusal(
                    CertificateRequest(b"", device_id), *words
                )
            case _:
                raise ValueError("it is no record of an order")


def unfinished_counts(folders: DeviceFolders) -> Iterator[Sequence[str]]:
    """Yield what was asked for by each order that has ids of its own and is there still."""
    for path in sorted(folders.root.glob(".order-*.jsonl")):
        try:
            with path.open("rb") as file:
                record = json.loads(file.readline())
        except (OSError, ValueError):
            continue  # it says so itself when it is resumed
        match record:
            case {"asked": [*asked], "device_ids": [_, *_]}:
                yield [str(word) for word in asked]


def _key(request: CertificateRequest) -> str:
    """Return what an outcome is found by: the device id, or, if only the CSR says it, the CSR's digest."""
    return request.device_id or hashlib.sha256(request.csr).hexdigest()


def _outcome(result: Result) -> dict[str, str] | None:
    own_csr = {} if result.request.device_id else {"csr": _key(result.request)}
    if isinstance(result, IssuedCertificate):
        serial = serial_octets(result.serial).hex()
        return {"type": "issued", "device_id": result.device_id, "serial": serial, **own_csr}
    if not result.lasting:
        return None
    return {
        "type": "refused",
        "device_id": result.request.device_id,
        "code": result.code,
        "reason": result.reason,
        "message": result.message,
        "hint": result.hint,
        **own_csr,
    }


def _begin(path: Path, asked: Sequence[str], device_ids: Sequence[str]) -> None:
    new = path.with_suffix(".new")
    head = {"type": "order", "version": _VERSION, "asked": asked, "device_ids": device_ids}
    make_durable([write(new, _line(head), 0o600)])
    new.rename(path)
    make_durable([path.parent])


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
