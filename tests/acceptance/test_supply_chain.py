"""What is installed: locked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = (ROOT / "requirements.lock", ROOT / "scripts/uv.lock")
SECONDS: Final = 120

_PINNED: Final = re.compile(
    r"(?P<name>[a-z0-9.-]+)==(?P<version>[^\s*]+)(?: ; [^\\\n]+)?"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)
_INSTALLS: Final = re.compile(
    r"\b(?:pip3?|pipx|uv|npm|pnpm|yarn|cargo|gem|go)[\")]* +"
    r"(?:add|build|download|get|install|run|sync|tool|wheel)\b"
    r"|\b(?:uvx|npx)\b|\b(?:curl|wget)\b.*https?:"
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
        timeout=SECONDS,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def succeeded(*command: str | Path, **settings: Any) -> str:
    done = ran(*command, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def script(name: str) -> tuple[str, Path]:
    return sys.executable, ROOT / "scripts" / name


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_file_has_nothing_but_exact_versions_with_hashes(lock: Path) -> None:
    text = lock.read_text()
    assert text
    assert _PINNED.sub("", text) == ""


def test_nothing_is_installed_from_a_registry_without_hashes_or_built_with_what_is_not_locked() -> None:
    installing = []
    for listed in succeeded(
        "git", "ls-files", "Makefile", ".ci", "bench", "demo", "deploy", "scripts"
    ).split():
        text = (ROOT / listed).read_text().replace("\\\n", " ")
        installing += [(listed, line.strip()) for line in text.splitlines() if _INSTALLS.search(line)]
    assert installing
    for listed, line in installing:
        hashed = "--require-hashes" in line and ("--no-build " in line or "--only-binary :all:" in line)
        ours = "--no-deps" in line and "--no-build-isolation" in line and line.endswith("--editable .")
        assert hashed or ours, f"{listed}: {line}"
