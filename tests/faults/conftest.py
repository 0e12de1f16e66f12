"""The module that misbehaves, compiled, and a fleet that loads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.harness import Fleet
from support.tokens.fault_table import Serving, serving_impatiently
from support.tokens.faulty import FaultyToken, behind_shim, compile_shim


@pytest.fixture(scope="session")
def make_fleet(make_fleet: Callable[[], Fleet]) -> Callable[[], Fleet]:
    """Make a fleet of one's own, with two signers: what one can't do, the other does."""

    def make() -> Fleet:
        fleet = make_fleet()
        fleet.set_signers(2)
        return fleet

    return make


@pytest.fixture(scope="session")
def shim_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, compiled."""
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def faulty(make_fleet: Callable[[], Fleet], shim_module: Path) -> Iterator[FaultyToken]:
    """A fleet whose signers load the shim, which behaves at first."""
    with behind_shim(make_fleet(), shim_module) as faulty:
        yield faulty


@pytest.fixture(scope="module")
def impatient(make_fleet: Callable[[], Fleet], shim_module: Path) -> Iterator[Serving]:
    """A daemon that waits a second for its token, which behaves at first."""
    with serving_impatiently(make_fleet(), shim_module) as serving:
        yield serving
