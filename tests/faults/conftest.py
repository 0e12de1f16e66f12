"""The module that misbehaves, compiled, and a fleet that loads it."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faulty import FaultyToken
from harness import Fleet

SOURCE = Path(__file__).parents[1] / "shim" / "shim.c"


@pytest.fixture(scope="session")
def shim_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, compiled."""
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    command = [
        "gcc",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O1",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(SOURCE),
    ]
    subprocess.run([*command, "-ldl"], check=True)
    return library


@pytest.fixture
def faulty(make_fleet: Callable[[], Fleet], shim_module: Path) -> Iterator[FaultyToken]:
    """A fleet whose signers load the shim, which behaves at first."""
    fleet = make_fleet()
    token = fleet.config.token
    assert token is not None
    faulty = FaultyToken(fleet)
    slots = f"otahsm-{uuid.uuid4()}"
    environment = {
        "SHIM_MODULE": token.module,
        "SHIM_CONTROL": faulty.control,
        "SHIM_LOG": faulty.log,
        "SHIM_SLOTS": f"/{slots}",
    }
    lines = "".join(f'{name} = "{value}"\n' for name, value in environment.items())
    fleet.edit(f'module = "{token.module}"', f'module = "{shim_module}"')
    fleet.edit("[token.environment]\n", "[token.environment]\n" + lines)
    faulty.misbehave()
    yield faulty
    Path("/dev/shm", f"sem.{slots}").unlink(missing_ok=True)  # noqa: S108 - where Linux keeps semaphores
