"""CAs with keys that otahsm would not make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.external_ca import external_root, sign
from support.harness import Fleet

NEW_KEY = "pkcs11:object=odd;id=%0F"


def odd_key(fleet: Fleet, *attributes: str) -> None:
    """Make a key with attributes of one's own the CA's; `certify` gives it a certificate."""
    fleet.edit('key = "pkcs11:object=fleet-root;id=%01"', f'key = "{NEW_KEY}"')
    command = [sys.executable, "-m", "support.token_tool", str(fleet.toml), *attributes]
    made = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def certify(fleet: Fleet) -> None:
    """Give the CA's key a certificate of an external root."""
    folder = fleet.folder / "external"
    folder.mkdir()
    csr, signed = folder / "odd.csr", folder / "odd.pem"
    done = fleet.run("ca", "csr", "--name", "Odd CA", "--reuse-key", "-o", str(csr))
    assert done.returncode == 0, done.stderr
    external_root(folder)
    sign(folder, csr, signed)
    fleet.edit("ca/fleet-root.pem", "ca/odd.pem")
    done = fleet.run("ca", "import", str(signed), str(folder / "root.pem"))
    assert done.returncode == 0, done.stderr
