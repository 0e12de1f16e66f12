"""A fleet whose PKCS#11 module misbehaves when told to: see tests/shim/shim.c."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness import Fleet


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
        """From now on; without faults, behave."""
        temporary = self.control.with_suffix(".new")
        temporary.write_text(" ".join(faults))
        temporary.replace(self.control)

    def calls(self, name: str) -> int:
        """Count the calls of one kind so far: "login" or "sign"."""
        return self.log.read_text().split().count(name) if self.log.exists() else 0
