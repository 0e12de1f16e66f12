"""Signs what a CA never would with its key: `python -m support.stolen_signature TOML < TBS > SIGNATURE`.

It is a process of its own: PKCS#11 modules are loaded once in a life.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from otahsm.config import load_config, section
from otahsm.token.ceremony.intermediate import existing_key

from support.harness import READY_SECONDS, Fleet


def signature_over(tbs: bytes, fleet: Fleet) -> bytes:
    """Return a signature of the CA's key, in the form that X.509 has."""
    done = subprocess.run(
        [sys.executable, "-m", "support.stolen_signature", fleet.toml],
        cwd=Path(__file__).parents[1],
        input=tbs,
        capture_output=True,
        timeout=READY_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def main(toml: str) -> None:
    config = load_config(Path(toml))
    with existing_key(section(config.token, "token"), section(config.ca, "ca")) as key:
        sys.stdout.buffer.write(key.signing.sign(sys.stdin.buffer.read()))


if __name__ == "__main__":
    main(*sys.argv[1:])
