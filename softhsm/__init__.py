"""A SoftHSM2 token of one's own, for tests, demos and `otahsm quickstart`.

Everything lives in one folder: configuration, token, nothing in the system's own places.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

__all__ = ["MissingSoftHsmError", "SoftToken", "find_module", "provision"]

_MODULES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)


class MissingSoftHsmError(Exception):
    """SoftHSM2 is not installed."""


@dataclass(frozen=True, slots=True)
class SoftToken:
    """A token that was just initialised.

    Attributes:
        module: the PKCS#11 library.
        environment: what a process that loads the library needs in its environment.
        label: the token's label.
        user_pin: the PIN of who signs.
        so_pin: the PIN of who administers.
    """

    module: Path
    environment: dict[str, str]
    label: str
    user_pin: str
    so_pin: str


def find_module() -> Path:
    """Find SoftHSM2's PKCS#11 library where distributions put it.

    Raises:
        MissingSoftHsmError: it is nowhere.
    """
    for path in map(Path, _MODULES):
        if path.is_file():
            return path
    raise MissingSoftHsmError("SoftHSM2 is not installed (on Debian and Ubuntu: apt install softhsm2)")


def provision(folder: Path, label: str) -> SoftToken:
    """Make a SoftHSM2 token with random PINs in `folder`, which must not exist.

    Raises:
        MissingSoftHsmError: SoftHSM2 is not installed.
        OSError: the folder can't be made.
        subprocess.CalledProcessError: SoftHSM2 refused.
    """
    module = find_module()
    tool = shutil.which("softhsm2-util")
    if tool is None:
        raise MissingSoftHsmError(
            "softhsm2-util is not on the PATH (Debian and Ubuntu: apt install softhsm2)"
        )
    tokens = folder.absolute() / "tokens"
    tokens.mkdir(mode=0o700, parents=True)
    folder.chmod(0o700)
    template = resources.files(__name__).joinpath("softhsm2.conf.in").read_text()
    configuration = folder.absolute() / "softhsm2.conf"
    configuration.write_text(template.replace("@TOKENS@", str(tokens)))
    token = SoftToken(
        module,
        {"SOFTHSM2_CONF": str(configuration)},
        label,
        f"{secrets.randbelow(10**8):08}",
        f"{secrets.randbelow(10**8):08}",
    )
    command = [tool, "--module", str(module), "--init-token", "--free", "--label", label]
    # softhsm2-util takes PINs only as arguments; these are random, and the token is new.
    command += ["--pin", token.user_pin, "--so-pin", token.so_pin]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **token.environment})
    return token
