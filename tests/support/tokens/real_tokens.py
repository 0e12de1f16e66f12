"""Real tokens other than SoftHSM2's own: one across a socket, and a TPM. Each has a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from support.harness import READY_SECONDS, Fleet, eventually

PIN: Final = "a user's PIN"
SO_PIN: Final = "a security officer's"


def find_library(name: str) -> Path:
    """Find a PKCS#11 module where Debian puts it."""
    (found, *_) = Path("/usr/lib").glob(f"*-linux-gnu/pkcs11/{name}")
    return found


class RealToken(Protocol):
    """A token that a program of somebody else's keeps: it can die, freeze, and come back."""

    def kill(self) -> None: ...
    def start(self) -> None: ...


@dataclass
class _Program:
    """A program in the background, with all that it starts."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait(READY_SECONDS)


class TokenAcrossASocket:
    """A fleet's SoftHSM2 token behind `p11-kit server`, as a network HSM is behind its client library."""

    def __init__(self, fleet: Fleet) -> None:
        token = fleet.config.token
        assert token is not None
        self.socket = fleet.folder / "p11.sock"
        self._server = _Program(
            [
                "p11-kit",
                "server",
                "-f",
                "-n",
                str(self.socket),
                "--provider",
                str(token.uri.module),
                "pkcs11:",
            ],
            dict(token.environment),
            fleet.folder / "p11-kit.log",
        )
        fleet.edit(f"module-path={token.uri.module}", f"module-path={find_library('p11-kit-client.so')}")
        fleet.edit(
            "[token.environment]\n",
            f'[token.environment]\nP11_KIT_SERVER_ADDRESS = "unix:path={self.socket}"\n',
        )

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._server.start()
        eventually(self.socket.exists, "p11-kit does not serve")

    def kill(self) -> None:
        self._server.kill()

    def freeze(self) -> None:
        """Let it neither answer nor hang up, as a firewall that drops packets does."""
        self._server.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._server.signal(signal.SIGCONT)


class Tpm:
    """TPM 2.0: swtpm, a resource manager and tpm2-pkcs11. A fleet is moved to it, and gets its keys there."""

    def __init__(self, fleet: Fleet) -> None:
        folder = fleet.folder / "tpm"
        for name in ("state", "store"):
            (folder / name).mkdir(parents=True)
        self._folder = folder
        self._bus = folder / "bus"
        self.environment = {
            "TPM2_PKCS11_STORE": str(folder / "store"),
            "TPM2_PKCS11_TCTI": "tabrmd:bus_type=session",
            "TPM2_PKCS11_LOG_LEVEL": "0",
            "TSS2_LOG": "all+NONE",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self._bus}",
        }
        socket = folder / "swtpm.sock"
        server, control = f"type=unixio,path={socket}", f"type=unixio,path={socket}.ctrl"
        tpm = [
            "swtpm",
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={folder / 'state'}",
            "--server",
            server,
            "--ctrl",
        ]
        self._programs = [
            _Program(
                ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address=unix:path={self._bus}"],
                {}, folder / "dbus.log",
            ),
            _Program([*tpm, control, "--flags", "not-need-init,startup-clear"], {}, folder / "swtpm.log"),
            _Program(
                ["tpm2-abrmd", "--session", "--allow-root", f"--tcti=swtpm:path={socket}"],
                self.environment, folder / "abrmd.log",
            ),
        ]  # fmt: skip
        self._appears = [self._bus, Path(f"{socket}.ctrl"), None]
        token = fleet.config.token
        assert token is not None
        self._module = find_library("libtpm2_pkcs11.so")
        fleet.edit(f"module-path={token.uri.module}", f"module-path={self._module}")
        fleet.edit("token=otahsm-quickstart", "token=a%20TPM")
        lines = "".join(f'{name} = "{value}"\n' for name, value in self.environment.items())
        fleet.edit("[token.environment]\n", f"[token.environment]\n{lines}")
        (fleet.folder / "secrets/pin").write_text(PIN)
        for name in ("fleet-root.pem", "checkpoint.vkey"):
            (fleet.folder / "ca" / name).unlink()

    def start(self) -> None:
        for program, path in zip(self._programs, self._appears, strict=True):
            if path is not None:
                path.unlink(missing_ok=True)
            program.start()
            if path is not None:
                eventually(path.exists, f"{program.command[0]} does not start")
        eventually(self._is_there, "the TPM's resource manager does not start")

    def kill(self) -> None:
        for program in reversed(self._programs):
            program.kill()

    def initialise(self) -> None:
        """Make a token in it, with a user PIN."""
        token = ("--init-token", "--slot-index", "0", "--label", "a TPM", "--so-pin", SO_PIN)
        self._tool(*token)
        self._tool("--init-pin", "--token-label", "a TPM", "--so-pin", SO_PIN, "--pin", PIN)

    def _is_there(self) -> bool:
        listed = subprocess.run(
            ["dbus-send", f"--bus=unix:path={self._bus}", "--print-reply", "--dest=org.freedesktop.DBus", "/",
             "org.freedesktop.DBus.NameHasOwner", "string:com.intel.tss2.Tabrmd"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return "true" in listed.stdout

    def _tool(self, *arguments: str) -> None:
        subprocess.run(
            ["pkcs11-tool", "--module", str(self._module), *arguments],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
        )


@contextlib.contextmanager
def started(token: RealToken) -> Iterator[None]:
    """Run a token until the block ends."""
    token.start()
    try:
        yield
    finally:
        token.kill()
