"""Takes events that other processes left for the daemon into the log, and moves aside what is no event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from otahsm.errors import FolderError
from otahsm.system.spool import AT_ONCE, NotAnEvent, SpooledEvent, Unread, aside, read, set_aside
from otahsm.transparency.audit import AuditLog, EventName

_HINT: Final = "Give the daemon's user permission to read and write that folder, or free some space there."

_log = structlog.get_logger()


class SpoolReader:
    """Reads the folders of events of all tokens.

    Args:
        guard_dirs: those of the tokens, and whether the daemon must be able to read each: one of signers that
            have a user of their own is theirs.
        audit: takes the events.
    """

    def __init__(self, guard_dirs: Mapping[Path, bool], audit: AuditLog) -> None:
        self._guard_dirs = guard_dirs
        self._audit = audit
        # Done with, and still there: nothing is recorded or logged a second time.
        self._to_remove: set[Path] = set()
        self._to_set_aside: set[Path] = set()

    async def run_once(self) -> float | None:
        """Take in some of what there is; return 0 if there may be more, else None.

        Raises:
            FolderError: a file could not be read, removed or moved; all others were.
            LedgerUnavailableError: the rest stays where it is.
        """
        troubles: list[OSError] = []
        more = None
        for guard_dir, is_ours in self._guard_dirs.items():
            try:
                found = await asyncio.to_thread(read, guard_dir, self._to_remove | self._to_set_aside)
            except OSError as error:
                if is_ours or not isinstance(error, PermissionError):
                    troubles.append(error)
                continue
            if len(found) == AT_ONCE:
                more = 0.0
            troubles += [item.error for item in found if isinstance(item, Unread)]
            await self._take_in(
                [item for item in found if isinstance(item, SpooledEvent)],
                [item for item in found if isinstance(item, NotAnEvent)],
            )
        troubles += await _each(self._to_remove, lambda path: path.unlink(missing_ok=True))
        troubles += await _each(self._to_set_aside, set_aside)
        if troubles:
            raise FolderError(f"events that other processes left: {troubles[0]}", hint=_HINT)
        return more

    async def _take_in(self, events: Sequence[SpooledEvent], others: Sequence[NotAnEvent]) -> None:
        refused = await self._audit.take_in(events)
        self._to_remove.update(event.path for event in events if event not in refused)
        for item in [*others, *(NotAnEvent(event.path, "the ledger refuses it") for event in refused)]:
            details = {"file": str(item.path), "why": item.why, "moved_to": str(aside(item.path))}
            await self._audit.record(EventName.SPOOL_UNREADABLE, "daemon", details)
            _log.error("spool.unreadable", **details)
            self._to_set_aside.add(item.path)


async def _each(paths: set[Path], work: Callable[[Path], None]) -> list[OSError]:
    """Do something with each path, and forget it; return why that failed, for those that stay."""
    troubles = []
    for path in list(paths):
        try:
            await asyncio.to_thread(work, path)
        except FileNotFoundError:  # somebody else was faster
            pass
        except OSError as error:
            troubles.append(error)
            continue
        paths.discard(path)
    return troubles
