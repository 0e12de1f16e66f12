"""Where targets write the files that otahsm reads: a folder that goes when the process does, or `run.py`."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def folder() -> Path:
    """Make the folder of this process. libFuzzer ends without `atexit`: `run.py` removes what is left."""
    made = Path(tempfile.mkdtemp(prefix="otahsm-fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def written(name: str, content: bytes) -> Path:
    """Write a file there."""
    path = folder() / name
    path.write_bytes(content)
    return path
