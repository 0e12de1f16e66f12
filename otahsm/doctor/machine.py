"""Checks the machine: its clock, and the folders that the daemon writes to."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from otahsm.checks import Check, fail, obstacle_to, ok, warning
from otahsm.config import Config

_STA_UNSYNC: Final = 0x40  # adjtimex(2)
_ROOM_FOR_TIMEX: Final = 512  # octets; struct timex has 208
_STATUS_OFFSET: Final = 40  # of its member `status`


def examine_machine(config: Config) -> Iterator[Check]:
    """Check that the clock is synchronised and that folders can be written."""
    yield _clock()
    folders: dict[str, Path] = {}
    if config.token:
        folders = {f"guard_dir {number}": token.guard_dir for number, token in enumerate(config.token.all, 1)}
    for name, authority in config.all_authorities.items():
        if authority.crl:
            folders[f"CRL directory {name}".strip()] = authority.crl.directory
    for name, folder in folders.items():
        if there := obstacle_to(folder):
            yield fail(
                name, f"can't write to {folder}", f"Let this user write to {there}, or name another folder."
            )
        else:
            yield ok(name, f"{folder} is writable")


def _clock() -> Check:
    """Ask the kernel whether the clock is synchronised, by NTP or the hypervisor."""
    timex = ctypes.create_string_buffer(_ROOM_FOR_TIMEX)
    state = ctypes.CDLL(None).adjtimex(timex)
    status = int.from_bytes(timex.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], "little")
    if state < 0 or status & _STA_UNSYNC:
        return warning(
            "clock",
            "it is not synchronised, as far as the kernel knows",
            "Run chrony or systemd-timesyncd: this clock decides when certificates expire.",
        )
    return ok("clock", "synchronised")
