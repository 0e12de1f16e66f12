"""Where device ids come from: random, from serial numbers, from a file, or from a template.

A list is read to its end and checked before anything is done with it. It is kept in a temporary file of
SQLite's, so that a million devices need no more memory than a thousand.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from otahsm.errors import ConfigError
from otahsm.line.device_rows import Row, read_rows
from otahsm.templates import Template

SEQUENCE: Final = "seq"
_NAMESPACES: Final = {
    "dns": uuid.NAMESPACE_DNS,
    "url": uuid.NAMESPACE_URL,
    "oid": uuid.NAMESPACE_OID,
    "x500": uuid.NAMESPACE_X500,
}
_PAGE: Final = 1024


@dataclass(frozen=True, slots=True)
class Device:
    """A device that is to have a certificate.

    Attributes:
        device_id: its id, unchecked.
        attributes: what else is known of it, for a profile's subject, its configuration or its backend.
    """

    device_id: str
    attributes: Mapping[str, str] = field(default_factory=dict)


class DeviceList:
    """Devices, each once, in order.

    Attributes:
        digest: SHA-256 of the ids and attributes, hexadecimal; the same list has the same.
    """

    def __init__(self) -> None:
        self._rows = sqlite3.connect("", check_same_thread=False)
        self._rows.execute(
            "CREATE TABLE devices"
            " (number INTEGER PRIMARY KEY, device_id TEXT UNIQUE, line INTEGER, attributes TEXT)"
        )
        self.digest = ""

    @classmethod
    def of(cls, devices: Iterable[tuple[int, Device]], source: str) -> Self:
        """Collect devices.

        Args:
            devices: the line that each is on, and the device.
            source: what they come from, for errors.

        Raises:
            ConfigError: there is none, or two have one id.
        """
        made = cls()
        digest = hashlib.sha256()
        for line, device in devices:
            attributes = json.dumps(dict(device.attributes), sort_keys=True)
            digest.update(f"{device.device_id}\n{attributes}\n".encode(errors="surrogatepass"))
            try:
                made._rows.execute(
                    "INSERT INTO devices (device_id, line, attributes) VALUES (?, ?, ?)",
                    (device.device_id, line, attributes),
                )
            except sqlite3.IntegrityError:
                (first,) = made._rows.execute(
                    "SELECT line FROM devices WHERE device_id = ?", (device.device_id,)
                ).fetchone()
                raise ConfigError(
                    f"{source}, line {line}: {device.device_id!r} is on line {first} already",
                    hint="Two devices with one id can't both connect: correct the file.",
                ) from None
        if not len(made):
            raise ConfigError(f"{source} names no device", hint="Write one device id a line.")
        made.digest = digest.hexdigest()
        return made

    def __len__(self) -> int:
        (count,) = self._rows.execute("SELECT count(*) FROM devices").fetchone()
        return int(count)

    def __iter__(self) -> Iterator[Device]:
        last = 0
        while page := self._rows.execute(
            "SELECT device_id, attributes FROM devices WHERE number > ? ORDER BY number LIMIT ?",
            (last, _PAGE),
        ).fetchall():
            last += len(page)  # numbers have no gaps
            for device_id, attributes in page:
                yield Device(device_id, json.loads(attributes))


def random_devices(count: int, attributes: Mapping[str, str] | None = None) -> Iterator[Device]:
    """Draw UUIDs of version 4 (RFC 9562, section 5.4), as the seed guide does."""
    for _ in range(count):
        yield Device(str(uuid.uuid4()), attributes or {})


def listed_devices(path: Path, attributes: Mapping[str, str]) -> DeviceList:
    """Take the ids of a file, and its further columns as attributes; `attributes` are every device's.

    Raises:
        ConfigError: it can't be read, a line is wrong, or two lines have one id.
    """

    def devices() -> Iterator[tuple[int, Device]]:
        for row in read_rows(path, "device_id"):
            values = _known(path, row, attributes)
            yield row.line, Device(values.pop("device_id"), values)

    return DeviceList.of(devices(), str(path))


def devices_of_serials(path: Path, namespace: uuid.UUID, attributes: Mapping[str, str]) -> DeviceList:
    """Make UUIDs of version 5 (RFC 9562, section 5.5) from the `serial` column of a file.

    Raises:
        ConfigError: it can't be read, a line is wrong, or two lines have one serial number.
    """

    def devices() -> Iterator[tuple[int, Device]]:
        for row in read_rows(path, "serial"):
            values = _known(path, row, attributes)
            yield row.line, Device(str(uuid.uuid5(namespace, values["serial"])), values)

    return DeviceList.of(devices(), str(path))


def numbered_devices(
    template: Template, count: int, attributes: Mapping[str, str], first: int = 1
) -> DeviceList:
    """Fill a template with numbers from `first` on, as `seq`.

    Raises:
        ConfigError: a value is missing, or the template does not tell devices apart.
    """
    if SEQUENCE not in template.names and count > 1:
        raise ConfigError(
            f"the template {template.text!r} gives every device the same id",
            hint=f"Put {{{SEQUENCE}}} into it, or name a file with --ids.",
        )
    devices = (
        (number, Device(template.fill({**attributes, SEQUENCE: number}), attributes))
        for number in range(first, first + count)
    )
    return DeviceList.of(devices, "the template")


def templated_devices(
    path: Path, template: Template, attributes: Mapping[str, str], first: int = 1
) -> DeviceList:
    """Fill a template with the columns of a file, and with a number as `seq`. Raises ConfigError."""
    column = next(iter(sorted(template.names - attributes.keys() - {SEQUENCE})), "device_id")

    def devices() -> Iterator[tuple[int, Device]]:
        for number, row in enumerate(read_rows(path, column), first):
            values = _known(path, row, attributes)
            yield row.line, Device(template.fill({**values, SEQUENCE: number}), values)

    return DeviceList.of(devices(), str(path))


def parse_namespace(text: str) -> uuid.UUID:
    """Read a namespace: a UUID, or "dns", "url", "oid" or "x500" (RFC 9562, section 6.6).

    Raises:
        ConfigError: it is neither.
    """
    try:
        return _NAMESPACES.get(text.lower()) or uuid.UUID(text)
    except ValueError:
        raise ConfigError(
            f"{text[:64]!r} is no namespace for UUIDs",
            hint=f"Give a UUID that your company keeps for this, or one of {', '.join(_NAMESPACES)}.",
        ) from None


def _known(path: Path, row: Row, attributes: Mapping[str, str]) -> dict[str, str]:
    if both := sorted(row.values.keys() & attributes.keys()):
        raise ConfigError(
            f"{path}, line {row.line}: {both[0]} has a value from --set too", hint="Leave one of both out."
        )
    return {**row.values, **attributes}
