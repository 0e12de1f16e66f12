"""Runs otahsm where every user can reach the interpreter, which may be in root's own folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.harness import OTAHSM, READY_SECONDS

_OTHERS_ENTER = 0o001
# In a mount namespace of its own, the closed folder holds the interpreter's folder and nothing else.
_OPEN = """
set -eu
prefix=$1 closed=$2
shift 2
keep=$(mktemp -d)
mount --bind "$prefix" "$keep"
mount -t tmpfs -o mode=755 none "$closed"
mkdir -p "$prefix"
mount --bind "$keep" "$prefix"
umount "$keep"
rmdir "$keep"
exec "$@"
"""


def run_for_everyone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `otahsm` as root in a folder."""
    prefix = Path(sys.base_prefix)
    closed = [each for each in prefix.parents if not each.stat().st_mode & _OTHERS_ENTER]
    command = [*OTAHSM, *arguments]
    if closed:
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _OPEN, "sh"]
        command = [*enter, str(prefix), str(closed[-1]), *command]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=READY_SECONDS, check=False
    )
