"""Records the events that other processes spooled for the daemon, and moves invalid files aside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from otahsm.errors import FolderError
from otahsm.system.spool import AT_ONCE, NotAnEvent, SpooledEvent, Unread, aside, read, reserved, set_aside
from otahsm.transparency.audit import AuditLog, EventName

_HINT: Final = "Give the daemon's user permission to read and write that folder, or free some space there."

_log = structlog.get_logger()


class SpoolReader:
    """Reads the event spools of all tokens.

    Args:
        guard_dirs: the guard folders of the tokens, and whether the daemon must be able to read each; signers
            under another user own theirs.
        audit: records the events.
    """

    def __init__(self, guard_dirs: Mapping[Path, bool], audit: AuditLog) -> None:
        self._guard_dirs = guard_dirs
        self._audit = audit
        # Processed files that still exist: they must not be recorded or logged again.
        self._to_remove: set[Path] = set()
        self._to_set_aside: set[Path] = set()

    async def run_once(self) -> float | None:
        """Record some of the events; return 0 if there may be more, otherwise None.

        Raises:
            FolderError: a file can't be read, removed or moved; all others were processed.
            LedgerUnavailableError: the remaining files stay where they are.
        """
        troubles: list[OSError] = []
        more = None
        for guard_dir, is_ours in self._guard_dirs.items():
            try:
                with reserved(guard_dir) as is_reserved:
                    # Otherwise another daemon is processing the same folder.
                    found = await self._process(guard_dir, troubles) if is_reserved else 0
            except OSError as error:
                if is_ours or not isinstance(error, PermissionError):
                    troubles.append(error)
                continue
            if found == AT_ONCE:
                more = 0.0
        if troubles:
            raise FolderError(f"can't process the events of other processes: {troubles[0]}", hint=_HINT)
        return more

    async def _process(self, guard_dir: Path, troubles: list[OSError]) -> int:
        """Record some events of a folder and remove their files; return the number of files it read."""
        found = await asyncio.to_thread(read, guard_dir, self._to_remove | self._to_set_aside)
        troubles += [item.error for item in found if isinstance(item, Unread)]
        await self._take_in(
            [item for item in found if isinstance(item, SpooledEvent)],
            [item for item in found if isinstance(item, NotAnEvent)],
        )
        troubles += await _each(self._to_remove, lambda path: path.unlink(missing_ok=True))
        troubles += await _each(self._to_set_aside, set_aside)
        return len(found)

    async def _take_in(self, events: Sequence[SpooledEvent], others: Sequence[NotAnEvent]) -> None:
        refused = await self._audit.take_in(events)
        self._to_remove.update(event.path for event in events if event not in refused)
        for item in [*others, *(NotAnEvent(event.path, "the ledger refuses it") for event in refused)]:
            details = {"file": str(item.path), "why": item.why, "moved_to": str(aside(item.path))}
            await self._audit.record(EventName.SPOOL_UNREADABLE, "daemon", details)
            _log.error("spool.unreadable", **details)
            self._to_set_aside.add(item.path)


async def _each(paths: set[Path], work: Callable[[Path], None]) -> list[OSError]:
    """Call a function with each path; remove those that succeed from the set, return the other errors."""
    troubles = []
    for path in list(paths):
        try:
            await asyncio.to_thread(work, path)
        except FileNotFoundError:  # another process was faster
            pass
        except OSError as error:
            troubles.append(error)
            continue
        paths.discard(path)
    return troubles
