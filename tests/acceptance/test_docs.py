"""What the documentation tells a user to type works, what it links to exists, and what is generated is fresh.

docs/README.md says how a page marks the blocks that are run here.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from support.harness import READY_SECONDS, Fleet, RunningDaemon, running
from support.zygote import write_launcher

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
ADDRESS: Final = "127.0.0.1:7443"

_MARK: Final = "<!-- run: "
_BLOCK: Final = re.compile(
    r"^<!-- run: (?P<where>empty|fleet) -->\n```(?P<kind>console|python|sql)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_COMMAND: Final = re.compile(
    r"^\$ (.*<<(?P<end>\w+)\n(?:.*\n)*?(?P=end)|.*(?:(?<=\\)\n> .*)*)$", re.MULTILINE
)
_FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INLINE: Final = re.compile(r"`[^`]*`")
_LINK: Final = re.compile(r"\]\((?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
_HEADING: Final = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_SQL: Final = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall())"


@dataclass(frozen=True)
class Block:
    """A block that a user is told to run."""

    page: str
    where: str
    kind: str
    text: str

    def command(self, ledger: Path, address: str) -> Sequence[str | Path]:
        if self.kind == "python":
            return sys.executable, "-c", self.text.replace(ADDRESS, address)
        if self.kind == "sql":
            return sys.executable, "-c", _SQL, ledger, self.text
        commands = [match[1].replace("\n> ", "\n") for match in _COMMAND.finditer(self.text)]
        assert commands, self
        return "bash", "-c", "\n".join(("set -euo pipefail", *commands))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = [
        Block(name_of(page), match["where"], match["kind"], match["text"]) for match in _BLOCK.finditer(text)
    ]
    marks = sum(line.startswith(_MARK) for line in text.splitlines())
    assert marks == len(found), f"{page}: a mark without a block, or of an unknown kind"
    return found


def run(block: Block, folder: Path, ledger: Path, address: str, programs: Path) -> None:
    """Run a block; `programs` is a folder with an `otahsm`, and a systemctl that knows one service."""
    binaries = f"{programs}:{Path(sys.executable).parent}"
    done = subprocess.run(
        block.command(ledger, address),
        cwd=folder,
        env={**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=READY_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{block.page}\n{block.text}\n{done.stdout}"


@contextlib.contextmanager
def serving(fleet: Fleet) -> Iterator[RunningDaemon]:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        yield daemon


RUNNABLE: Final = [page for page in PAGES if _MARK in page.read_text() and blocks_of(page)]


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_what_a_page_tells_a_user_to_type_works(
    page: Path, make_fleet: Callable[[], Fleet], tmp_path: Path
) -> None:
    programs, empty = tmp_path / "programs", tmp_path / "empty"
    programs.mkdir()
    empty.mkdir()
    write_launcher(programs)
    with contextlib.ExitStack() as stack:
        daemon: RunningDaemon | None = None
        for block in blocks_of(page):
            if block.where == "empty":
                run(block, empty, empty / "none", ADDRESS, programs)
                continue
            daemon = daemon or stack.enter_context(serving(make_fleet()))
            write_systemctl(daemon, programs)
            ledger = daemon.fleet.folder / "ledger/ledger.sqlite3"
            run(block, daemon.fleet.folder, ledger, daemon.address, programs)


def write_systemctl(daemon: RunningDaemon, folder: Path) -> None:
    """Write a systemctl that reloads the daemon, as deploy/otahsm.service says."""
    systemctl = folder / "systemctl"
    systemctl.write_text(f'#!/bin/sh -e\n[ "$*" = "reload otahsm" ]\nkill -HUP {daemon.process.pid}\n')
    systemctl.chmod(0o755)


def test_readme_and_every_guide_have_something_that_is_run() -> None:
    guides = {name_of(page) for page in (ROOT / "docs/guide").glob("*.md")}
    assert {"README.md", *guides} <= {name_of(page) for page in RUNNABLE}


def anchors_of(page: Path) -> set[str]:
    """Return what a page's headings are called in links, as the repository host makes it."""
    headings = _HEADING.finditer(_FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", match["text"].lower()).replace(" ", "-") for match in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    prose = _INLINE.sub("", _FENCED.sub("", page.read_text()))
    for match in _LINK.finditer(prose):
        if match["path"].startswith(("http://", "https://")):
            continue
        target = (page.parent / match["path"]).resolve() if match["path"] else page
        assert target.exists(), match[0]
        assert target.is_relative_to(ROOT), match[0]
        if match["anchor"]:
            assert match["anchor"] in anchors_of(target), match[0]


def test_the_generated_reference_is_up_to_date_on_any_terminal() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/generate_reference.py", "--check"],
        env={**os.environ, "COLUMNS": "40"},
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
