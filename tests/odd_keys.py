"""CAs with keys that otahsm would not make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import Fleet
from programs import openssl

NEW_KEY = "pkcs11:object=odd;id=%0F"


def odd_key(fleet: Fleet, *attributes: str) -> None:
    """Make a key with attributes of one's own the CA's, with a certificate under an external root."""
    fleet.edit('key = "pkcs11:object=fleet-root;id=%01"', f'key = "{NEW_KEY}"')
    command = [sys.executable, "-m", "token_tool", str(fleet.toml), *attributes]
    made = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def certify(fleet: Fleet) -> None:
    """Give the CA's key a certificate of an external root."""
    csr, signed, root = (fleet.folder / name for name in ("odd.csr", "odd.pem", "odd-root"))
    done = fleet.run("ca", "csr", "--name", "Odd CA", "--reuse-key", "-o", str(csr))
    assert done.returncode == 0, done.stderr
    made = openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
        "/CN=External root", "-keyout", root.with_suffix(".key"), "-out", root.with_suffix(".pem"), "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    assert made.good, made.text
    made = openssl(
        "x509", "-req", "-in", csr, "-CA", root.with_suffix(".pem"), "-CAkey", root.with_suffix(".key"),
        "-copy_extensions", "copyall", "-out", signed,
    )  # fmt: skip
    assert made.good, made.text
    fleet.edit("ca/fleet-root.pem", "ca/odd.pem")
    done = fleet.run("ca", "import", str(signed), str(root.with_suffix(".pem")))
    assert done.returncode == 0, done.stderr
