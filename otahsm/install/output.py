"""What a device prints: read up to a limit, since the device may be anybody's."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from otahsm.errors import DeviceRefusedError

MAX_OUTPUT_BYTES: Final = 65536
_MAX_SHOWN: Final = 200


class Source(Protocol):
    """A stream that is read in parts."""

    async def read(self, n: int, /) -> bytes:
        """Return 1 to `n` octets; none at the end."""


async def read_both(
    output: Source, errors: Source, *, before: tuple[bytes, bytes] = (b"", b"")
) -> list[bytes]:
    """Read two streams to their ends; return what was read of each before, and that.

    Raises:
        DeviceRefusedError: one is longer than a device has a reason for.
    """
    both = zip((output, errors), before, strict=True)
    tasks = [asyncio.create_task(_read_all(source, octets)) for source, octets in both]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _read_all(source: Source, octets: bytes) -> bytes:
    parts, length = [octets], len(octets)
    while part := await source.read(MAX_OUTPUT_BYTES):
        parts.append(part)
        length += len(part)
        check_length(length)
    return b"".join(parts)


def check_length(octets: int) -> None:
    """Raise DeviceRefusedError if a device has printed more than it has a reason for."""
    if octets > MAX_OUTPUT_BYTES:
        raise DeviceRefusedError(
            f"it prints more than {MAX_OUTPUT_BYTES} octets",
            hint="Check whether it is the right device, and what its login shell and client.pem contain.",
        )


def shown(text: str) -> str:
    """Return a text of a device's for a message: its beginning, in one line."""
    line = "".join(character if character.isprintable() else " " for character in text[:_MAX_SHOWN])
    return f"{line}..." if len(text) > _MAX_SHOWN else line
