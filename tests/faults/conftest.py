"""The module that misbehaves, compiled, and a fleet that loads it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faulty import FaultyToken, compile_shim, shim_environment
from harness import Fleet


@pytest.fixture(scope="session")
def shim_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, compiled."""
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def faulty(make_fleet: Callable[[], Fleet], shim_module: Path) -> Iterator[FaultyToken]:
    """A fleet whose signers load the shim, which behaves at first."""
    fleet = make_fleet()
    token = fleet.config.token
    assert token is not None
    faulty = FaultyToken(fleet)
    slots = f"otahsm-{uuid.uuid4()}"
    environment = shim_environment(token.module, control=faulty.control, log=faulty.log, slots=slots)
    lines = "".join(f'{name} = "{value}"\n' for name, value in environment.items())
    fleet.edit(f'module = "{token.module}"', f'module = "{shim_module}"')
    fleet.edit("[token.environment]\n", "[token.environment]\n" + lines)
    faulty.misbehave()
    yield faulty
    Path("/dev/shm", f"sem.{slots}").unlink(missing_ok=True)  # noqa: S108 - where Linux keeps semaphores
