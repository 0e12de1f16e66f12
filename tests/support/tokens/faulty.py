"""A fleet whose PKCS#11 module misbehaves when told to: see tests/support/tokens/shim.c."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.harness import Fleet

SOURCE: Final = Path(__file__).with_name("shim.c")


def compile_shim(folder: Path) -> Path:
    """Compile the module into a folder."""
    library = folder / "shim.so"
    warnings = ("-Wall", "-Wextra", "-Werror")
    command = ["gcc", *warnings, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def shim_environment(module: Path, *, control: Path, log: Path, slots: str) -> dict[str, str]:
    """Return what the module needs: the real one, the files it is told by and tells by, and a semaphore."""
    return {
        "SHIM_MODULE": str(module),
        "SHIM_CONTROL": str(control),
        "SHIM_LOG": str(log),
        "SHIM_SLOTS": f"/{slots}",
    }


@dataclass
class FaultyToken:
    """A fleet, and the strings that its token hangs by."""

    fleet: Fleet

    @property
    def control(self) -> Path:
        return self.fleet.folder / "shim.control"

    @property
    def log(self) -> Path:
        return self.fleet.folder / "shim.log"

    def misbehave(self, *faults: str) -> None:
        """From now on; without faults, behave. With "once" among them, one time in all."""
        if "once" in faults:
            self.control.with_name("shim.control.once").touch()
        temporary = self.control.with_suffix(".new")
        temporary.write_text(" ".join(faults))
        temporary.replace(self.control)

    def calls(self, name: str) -> int:
        """Count the calls of one kind so far: "login", "sign", "open" or "close"."""
        return self.log.read_text().split().count(name) if self.log.exists() else 0

    def signed(self) -> list[bytes]:
        """Return what the token was asked to sign so far, in order.

        A line that is not whole is of a process that was killed before it asked the token.
        """
        asked = []
        for line in self.log.read_bytes().splitlines():
            match line.split():
                case [b"sign", octets, data] if len(data) == 2 * int(octets):
                    asked.append(bytes.fromhex(data.decode()))
        return asked


@contextlib.contextmanager
def with_replica(fleet: Fleet, module: Path, *, weight: int) -> Iterator[FaultyToken]:
    """Give a fleet a second token, a clone of the first, which the shim is in front of."""
    token = fleet.config.token
    assert token is not None
    clone = fleet.folder / "token-2"
    shutil.copytree(fleet.folder / "token", clone)
    conf = clone / "softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(fleet.folder / "token"), str(clone)))
    faulty = FaultyToken(fleet)
    slots = f"otahsm-{uuid.uuid4()}"
    environment = shim_environment(token.uri.module, control=faulty.control, log=faulty.log, slots=slots)
    environment["SOFTHSM2_CONF"] = str(conf)
    uri = f"{token.name}?module-path={module}&pin-source=file:secrets/pin"
    lines = [
        f'[[token.replica]]\nuri = "{uri}"\nguard_dir = "state/login-2"\nweight = {weight}\n',
        "[token.replica.environment]\n",
        *(f'{name} = "{value}"\n' for name, value in environment.items()),
    ]
    fleet.edit("[ca]\n", "".join([*lines, "\n[ca]\n"]))
    faulty.misbehave()
    try:
        yield faulty
    finally:
        Path("/dev/shm", f"sem.{slots}").unlink(missing_ok=True)  # noqa: S108 - where Linux keeps semaphores


@contextlib.contextmanager
def behind_shim(fleet: Fleet, module: Path) -> Iterator[FaultyToken]:
    """Have a fleet's signers load the shim, which behaves at first."""
    token = fleet.config.token
    assert token is not None
    faulty = FaultyToken(fleet)
    slots = f"otahsm-{uuid.uuid4()}"
    environment = shim_environment(token.uri.module, control=faulty.control, log=faulty.log, slots=slots)
    lines = "".join(f'{name} = "{value}"\n' for name, value in environment.items())
    fleet.edit(f"module-path={token.uri.module}", f"module-path={module}")
    fleet.edit("[token.environment]\n", "[token.environment]\n" + lines)
    faulty.misbehave()
    try:
        yield faulty
    finally:
        Path("/dev/shm", f"sem.{slots}").unlink(missing_ok=True)  # noqa: S108 - where Linux keeps semaphores
