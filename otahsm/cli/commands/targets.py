"""Where `otahsm revoke` takes serial numbers and device ids from."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final, NamedTuple

from otahsm.client import ToRevoke
from otahsm.errors import ConfigError, RequestRefusedError
from otahsm.pki.serial import SerialNumber
from otahsm.system.csv_cells import read_cell
from otahsm.system.files import read_text

_COLUMNS: Final = ("serial", "device_id")


class Targets(NamedTuple):
    """What a file names, each target once, and how many of its lines name one again."""

    targets: list[ToRevoke]
    repeated: int


def read_targets(path: Path, profile: str) -> Targets:
    """Read a file of device ids, or CSV with a column `serial` or `device_id`.

    Where there are both columns, the serial number counts, and the device id where there is none.

    Args:
        path: the file; UTF-8.
        profile: what the targets are limited to; empty for nothing.

    Raises:
        ConfigError: it can't be read, names nothing, or a line is wrong.
    """
    lines = read_text(path).splitlines()
    header = [name.strip().lower() for name in next(csv.reader(lines), [])]
    if set(header) & set(_COLUMNS):
        rows = csv.DictReader(lines[1:], fieldnames=header)
        found = [_target(path, rows.line_num + 1, row, profile) for row in rows if any(row.values())]
    else:
        found = [ToRevoke(device_id=line.strip(), profile=profile) for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"{path} names nothing to revoke", hint="Write one device id per line.")
    targets = list(dict.fromkeys(found))
    return Targets(targets, len(found) - len(targets))


def _target(path: Path, line: int, row: dict[str, str | None], profile: str) -> ToRevoke:
    serial, device_id = (read_cell((row.get(name) or "").strip()) for name in _COLUMNS)
    if serial:
        try:
            return ToRevoke(serial=SerialNumber.from_hex(serial), profile=profile)
        except RequestRefusedError:
            raise ConfigError(
                f"{path}, line {line}: {serial[:64]!r} is not a serial number",
                hint="Write it in hexadecimal, as `otahsm show` and `openssl x509 -serial` do.",
            ) from None
    if device_id:
        return ToRevoke(device_id=device_id, profile=profile)
    raise ConfigError(
        f"{path}, line {line} has neither a serial number nor a device id", hint="Correct the file."
    )
