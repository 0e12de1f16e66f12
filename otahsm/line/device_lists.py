"""Sources of device ids: random, from serial numbers, from a file, or from a template.

A list is read completely and checked before it is used. It is stored in a temporary SQLite file, so that a
million devices need no more memory than a thousand.
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
    """A device to issue a certificate for.

    Attributes:
        device_id: its id, unchecked.
        attributes: further values, for a profile's subject, its configuration or a backend.
    """

    device_id: str
    attributes: Mapping[str, str] = field(default_factory=dict)


class DeviceList:
    """A list of distinct devices.

    Attributes:
        digest: SHA-256 of the ids and attributes, in hexadecimal.
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
        """Return a list of devices.

        Args:
            devices: line numbers and devices.
            source: the name of the source, for errors.

        Raises:
            ConfigError: there are none, or two have the same id.
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
                    f"{source}, line {line}: {device.device_id!r} is already on line {first}",
                    hint="Two devices with the same id can't both connect: correct the file.",
                ) from None
        if not len(made):
            raise ConfigError(f"{source} names no device", hint="Write one device id per line.")
        made.digest = digest.hexdigest()
        return made

    def __len__(self) -> int:
        (count,) = self._rows.execute("SELECT count(*) FROM devices").fetchone()
        return int(count)

    @property
    def last(self) -> Device:
        """The last device."""
        newest = "SELECT device_id, attributes FROM devices ORDER BY number DESC LIMIT 1"
        device_id, attributes = self._rows.execute(newest).fetchone()
        return Device(device_id, json.loads(attributes))

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
    """Yield devices with UUIDs of version 4 (RFC 9562, section 5.4), as in the seed guide."""
    for _ in range(count):
        yield Device(str(uuid.uuid4()), attributes or {})


def listed_devices(path: Path, attributes: Mapping[str, str]) -> DeviceList:
    """Return the devices of a file, with its other columns and `attributes` as attributes.

    Raises:
        ConfigError: it can't be read, a line is invalid, or two lines have the same id.
    """

    def devices() -> Iterator[tuple[int, Device]]:
        for row in read_rows(path, "device_id"):
            values = _known(path, row, attributes)
            yield row.line, Device(values.pop("device_id"), values)

    return DeviceList.of(devices(), str(path))


def devices_of_serials(path: Path, namespace: uuid.UUID, attributes: Mapping[str, str]) -> DeviceList:
    """Return devices with UUIDs of version 5 (RFC 9562, section 5.5) from the `serial` column of a file.

    Raises:
        ConfigError: it can't be read, a line is invalid, or two lines have the same serial number.
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
        ConfigError: a value is missing, or the template gives all devices the same id.
    """
    if SEQUENCE not in template.names and count > 1:
        raise ConfigError(
            f"the template {template.text!r} gives every device the same id",
            hint=f"Put {{{SEQUENCE}}} into it, or give a file with --ids.",
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
    """Parse a namespace: a UUID, or "dns", "url", "oid" or "x500" (RFC 9562, section 6.6).

    Raises:
        ConfigError: it is neither.
    """
    try:
        return _NAMESPACES.get(text.lower()) or uuid.UUID(text)
    except ValueError:
        raise ConfigError(
            f"{text[:64]!r} is not a namespace for UUIDs",
            hint=f"Give your company's UUID for this purpose, or one of {', '.join(_NAMESPACES)}.",
        ) from None


def _known(path: Path, row: Row, attributes: Mapping[str, str]) -> dict[str, str]:
    if both := sorted(row.values.keys() & attributes.keys()):
        raise ConfigError(
            f"{path}, line {row.line}: {both[0]} also has a value from --set", hint="Remove one of them."
        )
    return {**row.values, **attributes}
