"""A private SoftHSM2 token, for tests, demos and `otahsm quickstart`.

Configuration and token are in one folder; the system's own are not used.
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
        environment: the environment variables that the library needs.
        label: the token's label.
        user_pin: the user PIN, for signing.
        so_pin: the security officer's PIN, for administration.
    """

    module: Path
    environment: dict[str, str]
    label: str
    user_pin: str
    so_pin: str


def find_module() -> Path:
    """Return the path of SoftHSM2's PKCS#11 library in the places where distributions install it.

    Raises:
        MissingSoftHsmError: it is not installed.
    """
    for path in map(Path, _MODULES):
        if path.is_file():
            return path
    raise MissingSoftHsmError("SoftHSM2 is not installed (on Debian and Ubuntu: apt install softhsm2)")


def provision(folder: Path, label: str) -> SoftToken:
    """Create a SoftHSM2 token with random PINs in `folder`, which must not exist.

    Raises:
        MissingSoftHsmError: SoftHSM2 is not installed.
        OSError: the folder can't be created.
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
    # softhsm2-util only accepts PINs as arguments, but these are random, and the token is new.
    command += ["--pin", token.user_pin, "--so-pin", token.so_pin]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **token.environment})
    return token
