"""Secure elements of devices: tokens of a test's own, and what pkcs11-tool says of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import softhsm
from otahsm.pkcs11_names import Pkcs11Uri

from support.harness import READY_SECONDS, Fleet
from support.tokens.faulty import FaultyToken, shim_environment


@dataclass
class DeviceToken:
    """A device's token, and the line that it is enrolled at.

    Attributes:
        line: the folder of a fleet whose daemon runs, and whose commands find it.
        folder: for the PIN and the device folders; must exist.
        module: the PKCS#11 library that otahsm loads.
        environment: what the library needs.
        label: the token's.
        pin: the token's user PIN.
    """

    line: Fleet
    folder: Path
    module: Path
    environment: Mapping[str, str]
    label: str
    pin: str
    real_module: Path = field(init=False)

    def __post_init__(self) -> None:
        self.real_module = self.module
        self.pin_file = self.folder / "pin"
        self.pin_file.touch(mode=0o600)
        self.pin_file.write_text(f"{self.pin}\n")

    @property
    def uri(self) -> str:
        source = f"file:{self.pin_file}"
        return str(Pkcs11Uri(token=self.label, module_path=str(self.module), pin_source=source))

    @property
    def out(self) -> Path:
        return self.folder / "devices"

    def enroll(self, device_id: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run `otahsm device enroll`."""
        words = ("device", "enroll", device_id, "--pkcs11", self.uri, "--out", str(self.out), *options)
        return self.line.run(*words, environment=self.environment)

    def enrolled(self, device_id: str, *options: str) -> dict[str, Any]:
        """Run it, see that it succeeds, and return its report."""
        done = self.enroll(device_id, "--json", *options)
        assert done.returncode == 0, done  # a module may write to standard error
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def refused(self, device_id: str, *options: str, status: int = 4) -> str:
        """Run it, see that it fails with one clear error, and return that."""
        done = self.enroll(device_id, *options)
        assert (done.returncode, done.stdout) == (status, ""), done
        assert "Traceback" not in done.stderr
        return " ".join(done.stderr.split())

    def tool(self, *arguments: str | Path, login: bool = True) -> str:
        """Run pkcs11-tool on the token, logged in; else on the module."""
        who = ("--token-label", self.label, "--login", "--pin", self.pin) if login else ()
        done = subprocess.run(
            ["pkcs11-tool", "--module", self.real_module, *who, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=READY_SECONDS,
            check=True,
        )
        return done.stdout

    def objects(self) -> list[str]:
        """Return kind and id of every object, as pkcs11-tool lists them."""
        found, kind = [], ""
        for line in self.tool("--list-objects").splitlines():
            if " Object" in line:
                kind = line.partition(" Object")[0]
            elif line.strip().startswith("ID:"):
                found.append(f"{kind} {line.partition(':')[2].strip()}")
        return sorted(found)

    def read(self, kind: str, object_id: str) -> bytes:
        """Read an object ("cert" or "pubkey") with pkcs11-tool."""
        path = self.folder / f"read-{uuid.uuid4()}.der"
        self.tool("--read-object", "--type", kind, "--id", object_id, "--output-file", path)
        return path.read_bytes()

    def certificate(self) -> bytes:
        """Read the certificate where aktualizr looks for it."""
        return self.read("cert", "01")


def soft_device_token(line: Fleet, folder: Path) -> DeviceToken:
    """Make a SoftHSM2 token."""
    made = softhsm.provision(folder / "token", f"device {uuid.uuid4().hex[:8]}")
    return DeviceToken(line, folder, made.module, made.environment, made.label, made.user_pin)


@contextlib.contextmanager
def faulty_device_token(line: Fleet, folder: Path, shim: Path) -> Iterator[tuple[DeviceToken, FaultyToken]]:
    """Make a SoftHSM2 token behind the module that misbehaves when told to."""
    token = soft_device_token(line, folder)
    strings = FaultyToken(Fleet(folder))
    slots = f"otahsm-{uuid.uuid4()}"
    extra = shim_environment(token.module, control=strings.control, log=strings.log, slots=slots)
    token.module, token.environment = shim, {**token.environment, **extra}
    strings.misbehave()
    try:
        yield token, strings
    finally:
        Path("/dev/shm", f"sem.{slots}").unlink(missing_ok=True)  # noqa: S108 - where Linux keeps semaphores
