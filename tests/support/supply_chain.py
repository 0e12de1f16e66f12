"""The lock files, and how what is in `scripts` and what builds otahsm is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from support.harness import READY_SECONDS

ROOT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = (ROOT / "requirements.lock", ROOT / "scripts/uv.lock")
PINNED: Final = re.compile(
    r"(?P<name>[a-z0-9.-]+)==(?P<version>[^\s*]+)(?: ; [^\\\n]+)?"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)


def ran(
    *command: str | Path,
    folder: Path = ROOT,
    umask: int = 0o022,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        umask=umask,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def succeeded(*command: str | Path, **settings: Any) -> str:
    done = ran(*command, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def script(name: str) -> tuple[str, Path]:
    return sys.executable, ROOT / "scripts" / name
