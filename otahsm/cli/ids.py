"""Where `otahsm device issue` takes device ids from."""

from __future__ import annotations

from pathlib import Path

from otahsm.errors import ConfigError


def read_ids(path: Path) -> list[str]:
    """Read a file with one device id a line; empty lines don't count.

    Raises:
        ConfigError: it can't be read, is empty, or names a device twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        device_id = line.strip()
        if device_id in seen:
            raise ConfigError(
                f"{path}, line {number}: {device_id!r} is on line {seen[device_id]} already",
                hint="Two devices with one id can't both connect: correct the file.",
            )
        if device_id:
            seen[device_id] = number
    if not seen:
        raise ConfigError(f"{path} names no device", hint="Write one device id a line.")
    return list(seen)
