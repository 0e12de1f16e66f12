"""Runs: what a command requested in a devices folder, and the outcomes, to resume it after a crash.

A run is written to the folder's state file atomically, before any key is made. Its key is the command's
request: the same request resumes it until every device has its certificate. It contains the device ids that
were generated for it, so that resuming generates no new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self, TypeAlias

from otahsm.client.values import CertificateRequest, IssuedCertificate, Refusal, Result
from otahsm.errors import Code, OtahsmError, from_reason
from otahsm.line.device_lists import Device
from otahsm.line.folders import DeviceFolders
from otahsm.line.run_state import RUN_STATE, RunState, enter_registration
from otahsm.pki.serial import SerialNumber

_PAGE: Final = 1024
_SETTLE: Final = (
    "INSERT INTO devices (order_id, name, number, attributes, state, settled_at, device_id, serial,"
    " code, reason, message, hint) VALUES (?, ?, (SELECT coalesce(max(number), 0) + 1 FROM devices WHERE"
    " order_id = ?), '{}', ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (order_id, name) DO UPDATE SET"
    " state = excluded.state, settled_at = excluded.settled_at, device_id = excluded.device_id,"
    " serial = coalesce(excluded.serial, serial), code = excluded.code, reason = excluded.reason,"
    " message = excluded.message, hint = excluded.hint"
)

DeviceOutcome: TypeAlias = str | Refusal


class Run:
    """A run; `open` resumes or starts one.

    Attributes:
        number: its number among the runs of the folder.
    """

    def __init__(self, book: RunState, number: int) -> None:
        self.number = number
        self._book = book
        self._profile = ""
        self._announce = False

    @classmethod
    def open(
        cls,
        folders: DeviceFolders,
        asked: Sequence[str],
        devices: Iterable[Device] = (),
        *,
        drawn: bool = False,
        resume: bool = True,
        retry_refused: bool = False,
    ) -> Self:
        """Resume the unfinished run of the same request, or start a new one.

        Args:
            folders: the devices folder.
            asked: the request, as words, which identify the run.
            devices: the devices of a new run, distinct; none if they come with their own CSRs.
            drawn: whether their ids were generated, and so don't follow from `asked`.
            resume: whether to resume; otherwise an unfinished run is abandoned.
            retry_refused: whether to retry refused devices.

        Raises:
            FolderError: the state file can't be read or written, is damaged, or from another version.
        """
        words = json.dumps(list(asked))
        with folders.book.transaction(durable=True) as connection:
            if not resume:
                connection.execute(
                    "UPDATE orders SET ended_at = ? WHERE asked = ? AND ended_at IS NULL", (_now(), words)
                )
            number = _open_run(connection, words) or _begin(connection, words, devices, drawn=drawn)
            if retry_refused:
                connection.execute(
                    "UPDATE devices SET state = 'asked' WHERE order_id = ? AND state = 'refused'", (number,)
                )
        return cls(folders.book, number)

    def announce(self, profile: str) -> None:
        """From now on, also queue every certificate of this run for registration with a backend."""
        self._announce, self._profile = True, profile

    def anchors(self, named: Sequence[bytes]) -> tuple[bytes, ...]:
        """Return the fleet roots that this run began with; `named` if it begins now.

        Args:
            named: the roots that the daemon names, in DER.

        Raises:
            FolderError: the state file can't be read or written.
        """
        query = "SELECT certificate FROM anchors WHERE order_id = ?"
        with self._book.transaction(durable=True) as connection:
            if not (rows := connection.execute(query, (self.number,)).fetchall()):
                connection.executemany(
                    "INSERT OR IGNORE INTO anchors VALUES (?, ?)", [(self.number, root) for root in named]
                )
                rows = connection.execute(query, (self.number,)).fetchall()
        return tuple(row["certificate"] for row in rows)

    @property
    def count(self) -> int:
        """The number of devices. Raises FolderError."""
        ((count,),) = self._book.read("SELECT count(*) FROM devices WHERE order_id = ?", self.number)
        return int(count)

    def devices(self) -> Iterator[Device]:
        """Yield its devices, in order, without those that made their own CSRs."""
        last, page = 0, True
        while page:
            rows = self._book.read(
                "SELECT number, name, attributes FROM devices WHERE order_id = ? AND number > ?"
                " ORDER BY number LIMIT ?",
                self.number,
                last,
                _PAGE,
            )
            for row in rows:
                yield Device(row["name"], json.loads(row["attributes"]))
            page = bool(rows)
            last = rows[-1]["number"] if rows else last

    def outcomes(self, names: Sequence[str]) -> Mapping[str, DeviceOutcome]:
        """Return the outcomes of devices: the device id if it has its certificate, or the refusal.

        Args:
            names: names from `name_of`, at most a few hundred.
        """
        rows = self._book.read(
            "SELECT * FROM devices WHERE state <> 'asked' AND order_id = ?"
            " AND name IN (SELECT value FROM json_each(?))",
            self.number,
            json.dumps(list(names)),
        )
        return {row["name"]: _outcome(row) for row in rows}

    def record(self, results: Iterable[Result], devices: Mapping[str, Device] | None = None) -> None:
        """Record outcomes; folders must already be complete.

        Args:
            results: the results from the daemon.
            devices: the devices by id, for their attributes.

        Raises:
            FolderError: the state file can't be written.
        """
        known = devices or {}
        with self._book.transaction() as connection:
            for result in results:
                if isinstance(result, IssuedCertificate):
                    self._settle(connection, name_of(result.request), result.device_id, result.serial)
                    if self._announce:
                        device = known.get(result.device_id) or Device(result.device_id)
                        enter_registration(
                            connection,
                            result.device_id,
                            result.serial,
                            self._profile,
                            json.dumps(dict(device.attributes)),
                            result.chain[0],
                            _now(),
                        )
                elif result.lasting:
                    request = result.request
                    self._settle(connection, name_of(request), request.device_id, error=result.error)

    def record_complete(self, device_ids: Iterable[str]) -> None:
        """Record devices that already have their certificates. Raises as `record`."""
        with self._book.transaction() as connection:
            for device_id in device_ids:
                self._settle(connection, device_id, device_id)

    def unsettled(self, names: Sequence[str]) -> frozenset[str]:
        """Return which of these devices it has without a certificate; `names` as in `outcomes`."""
        rows = self._book.read(
            "SELECT name FROM devices WHERE state <> 'issued' AND order_id = ?"
            " AND name IN (SELECT value FROM json_each(?))",
            self.number,
            json.dumps(list(names)),
        )
        return frozenset(row["name"] for row in rows)

    @property
    def is_settled(self) -> bool:
        """Whether each of its devices has a certificate, or another client's. Raises FolderError."""
        query = (
            "SELECT 1 FROM devices WHERE order_id = ? AND state <> 'issued'"
            " AND coalesce(code, '') <> 'ALREADY_EXISTS' LIMIT 1"
        )
        return not self._book.read(query, self.number)

    def leave_out(self, names: Iterable[str]) -> None:
        """Remove devices, which need no certificates. Raises FolderError."""
        with self._book.transaction() as connection:
            connection.executemany(
                "DELETE FROM devices WHERE order_id = ? AND name = ?", [(self.number, name) for name in names]
            )

    def record_elsewhere(self, serials: Mapping[str, SerialNumber]) -> None:
        """Record those of its devices whose certificates were requested elsewhere.

        Args:
            serials: serial numbers by device id; devices that are not in this run are ignored.

        Raises:
            FolderError: the state file can't be written.
        """
        with self._book.transaction() as connection:
            connection.executemany(
                "UPDATE devices SET state = 'issued', settled_at = ?, device_id = name, serial = ?"
                " WHERE order_id = ? AND name = ? AND state <> 'issued'",
                [(_now(), serial.hex(), self.number, device_id) for device_id, serial in serials.items()],
            )

    def end(self) -> None:
        """Mark the run as finished, so that the same request starts a new one. Raises FolderError."""
        with self._book.transaction(durable=True) as connection:
            connection.execute("UPDATE orders SET ended_at = ? WHERE id = ?", (_now(), self.number))

    def _settle(
        self,
        connection: sqlite3.Connection,
        name: str,
        device_id: str,
        serial: SerialNumber | None = None,
        error: OtahsmError | None = None,
    ) -> None:
        """Write down what became of a device: it was refused if there is an error, else issued."""
        error_fields = (error.code.name, error.reason, error.message, error.hint) if error else (None,) * 4
        state = "refused" if error else "issued"
        digits = serial.hex() if serial else None
        connection.execute(
            _SETTLE, (self.number, name, self.number, state, _now(), device_id, digits, *error_fields)
        )


def unfinished_runs(folders: DeviceFolders) -> Iterator[Sequence[str]]:
    """Yield the requests of unfinished runs whose ids were generated."""
    for row in folders.book.read("SELECT asked FROM orders WHERE drawn AND ended_at IS NULL ORDER BY id"):
        yield json.loads(row["asked"])


def refusals_of(root: Path, asked: Sequence[str]) -> list[tuple[str, Refusal]]:
    """Return the refused devices of the last run of a request, and the refusals; none without a state file.

    Args:
        root: the devices folder.
        asked: the request.

    Raises:
        FolderError: the state file can't be read.
    """
    if not (root / RUN_STATE).exists():
        return []
    with contextlib.closing(RunState(root)) as book:
        rows = book.read(
            "SELECT * FROM devices WHERE state = 'refused' AND order_id ="
            " (SELECT max(id) FROM orders WHERE asked = ?) ORDER BY number",
            json.dumps(list(asked)),
        )
    outcomes = ((row["device_id"] or row["name"], _outcome(row)) for row in rows)
    return [(name, outcome) for name, outcome in outcomes if isinstance(outcome, Refusal)]


def name_of(request: CertificateRequest) -> str:
    """Return the key of an outcome: the device id, or if only the CSR contains it, the digest of the CSR."""
    return request.device_id or hashlib.sha256(request.csr).hexdigest()


def _open_run(connection: sqlite3.Connection, words: str) -> int | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT id FROM orders WHERE asked = ? AND ended_at IS NULL", (words,)
    ).fetchone()
    return int(row["id"]) if row else None


def _begin(connection: sqlite3.Connection, words: str, devices: Iterable[Device], *, drawn: bool) -> int:
    number = connection.execute(
        "INSERT INTO orders (asked, drawn, begun_at) VALUES (?, ?, ?)", (words, drawn, _now())
    ).lastrowid
    assert number is not None  # noqa: S101 - an INSERT has one
    connection.executemany(
        "INSERT INTO devices (order_id, name, number, attributes, state) VALUES (?, ?, ?, ?, 'asked')",
        (
            (number, device.device_id, place, json.dumps(dict(device.attributes)))
            for place, device in enumerate(devices, 1)
        ),
    )
    return number


def _outcome(row: sqlite3.Row) -> DeviceOutcome:
    if row["state"] == "issued":
        return str(row["device_id"])
    code = Code.__members__.get(row["code"], Code.UNKNOWN)
    error = from_reason(code, row["reason"], row["message"], row["hint"])
    return Refusal(CertificateRequest(b"", row["device_id"] or ""), error)


def _now() -> int:
    return time.time_ns() // 1000
