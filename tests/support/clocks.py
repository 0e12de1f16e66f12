"""A clock of a test's own, which the signers have, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

from otahsm.system.clock import utc_now

from support.workers.signer_for_tests import OFFSET


class TestClock:
    """Returns the time that a test has set; that of the signers goes on from there."""

    __test__ = False  # for pytest

    def __init__(self, now: datetime, path: Path) -> None:
        self._path = path
        self.set(now)

    def set(self, now: datetime) -> None:
        self._now = now
        temporary = self._path.with_suffix(".new")
        temporary.write_text(str((now - utc_now()).total_seconds()))
        temporary.replace(self._path)

    def __call__(self) -> datetime:
        return self._now


@contextmanager
def clock_of_signers(now: datetime, folder: Path) -> Iterator[TestClock]:
    """Have signers that start within the block share a clock, which is kept in a file in the folder."""
    tests = Path(__file__).parents[1]
    path = folder / "clock"
    variables = {OFFSET: str(path), "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    module = "support.workers.signer_for_tests"
    with patch.dict(os.environ, variables), patch("otahsm.token.pool.SIGNER_MODULE", module):
        yield TestClock(now, path)
