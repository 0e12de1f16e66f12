"""Counts PKCS#11 calls per certificate, with OpenSC's pkcs11-spy."""

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
    """Return the path of pkcs11-spy in the places where distributions install it."""
    return next((path for path in map(Path, _PLACES) if path.is_file()), None)


class CallCounter:
    """A spy between a signer and the token's module, which counts calls.

    pkcs11-spy logs every argument, including the PIN. So it writes to a pipe, whose content is counted and
    discarded, never to a file.

    Args:
        folder: a private folder for the pipe.
    """

    def __init__(self, folder: Path) -> None:
        self.calls = 0
        self._pipe = folder / "calls"
        os.mkfifo(self._pipe, 0o600)
        # Opened for reading and writing, so that opening doesn't block, and there is no EOF between writers.
        self._descriptor = os.open(self._pipe, os.O_RDWR | os.O_CLOEXEC)
        threading.Thread(target=self._count, daemon=True).start()

    def watch(self, token: TokenConfig, spy: Path) -> TokenConfig:
        """Return the token configured with the spy as its module, and one session."""
        environment = {
            **token.environment,
            "PKCS11SPY": str(token.uri.module),
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
