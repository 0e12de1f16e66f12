"""Counts the PKCS#11 calls that a certificate costs, with OpenSC's pkcs11-spy."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

from otahsm.config import TokenConfig

_PLACES: Final = (
    "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
    "/usr/lib64/pkcs11-spy.so",
    "/usr/lib/pkcs11-spy.so",
)
_CALL: Final = re.compile(rb"^\d+: C_", re.MULTILINE)


def find_spy() -> Path | None:
    """Find pkcs11-spy where distributions put it."""
    return next((path for path in map(Path, _PLACES) if path.is_file()), None)


class CallCounter:
    """Stands between a signer and the token's module, and counts.

    pkcs11-spy writes every argument down, the PIN too. So it writes into a pipe that is read here, counted
    and forgotten, and never into a file.

    Args:
        folder: where the pipe is made; only its owner may look into it.
    """

    def __init__(self, folder: Path) -> None:
        self.calls = 0
        self._pipe = folder / "calls"
        os.mkfifo(self._pipe, 0o600)
        # Opened for both, so that opening waits for nobody, and reading does not end between two writers.
        self._descriptor = os.open(self._pipe, os.O_RDWR | os.O_CLOEXEC)
        threading.Thread(target=self._count, daemon=True).start()

    def watch(self, token: TokenConfig, spy: Path) -> TokenConfig:
        """Return the token, seen through the spy, with one session."""
        environment = {
            **token.environment,
            "PKCS11SPY": str(token.module),
            "PKCS11SPY_OUTPUT": str(self._pipe),
        }
        uri = replace(token.uri, module_path=str(spy))
        watched = {"uri": uri, "environment": environment, "signers": 1, "sessions": 1}
        return token.model_copy(update=watched)

    def _count(self) -> None:
        rest = b""
        while text := os.read(self._descriptor, 65536):
            whole, newline, rest = (rest + text).rpartition(b"\n")
            self.calls += len(_CALL.findall(whole + newline))
