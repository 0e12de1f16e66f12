"""Decisions say whether they hold, are all in the index, and name modules that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/adr"
DECISIONS = {int(path.name[:4]): path for path in sorted(FOLDER.glob("[0-9]*.md"))}
PAGES = [
    *DECISIONS.values(),
    *(ROOT / name for name in ("docs/guide/developer.md", "docs/security.md", "CONTRIBUTING.md")),
]
BACK = {
    "amends": "amended by",
    "amended by": "amends",
    "supersedes": "superseded by",
    "superseded by": "supersedes",
}


def status_of(number: int) -> str:
    title, blank, status, *_ = DECISIONS[number].read_text().splitlines()
    assert title.startswith(f"# {number}. ")
    assert not blank
    assert status.startswith("Status: ")
    return status.removeprefix("Status: ")


def links_of(number: int) -> dict[str, set[int]]:
    """Read a status: what it says of which other decisions."""
    links: dict[str, set[int]] = {}
    for part in status_of(number).split("; "):
        if part != "accepted":
            kind, _, names = part.partition(" ADR ")
            found = re.findall(r"\[(\d+)\]\((\d{4})-[a-z0-9-]+\.md\)", names)
            assert ", ".join(f"[{name}]({DECISIONS[int(name)].name})" for name, _ in found) == names
            links[kind] = {int(name) for name, _ in found}
    assert links.keys() <= BACK.keys()
    return links


def test_decisions_are_numbered_without_a_gap() -> None:
    assert len(DECISIONS) > 30
    assert list(DECISIONS) == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("number", DECISIONS)
def test_a_decision_says_whether_it_holds_and_so_does_the_other_one(number: int) -> None:
    links = links_of(number)
    assert status_of(number).startswith("superseded by ADR " if "superseded by" in links else "accepted")
    for kind, others in links.items():
        for other in others:
            assert number in links_of(other).get(BACK[kind], set()), f"ADR {other} does not say so"
            assert (number < other) == kind.endswith(" by")


def test_the_index_has_every_decision_with_its_title_and_status() -> None:
    rows = re.findall(
        r"^\| (\d+) \| \[(.*)\]\((.*)\) \| (.*) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE
    )
    wanted = []
    for number, path in DECISIONS.items():
        links = links_of(number)
        said = [
            f"{kind} {', '.join(map(str, sorted(links[kind])))}"
            for kind in ("superseded by", "amended by")
            if kind in links
        ]
        title = path.read_text().splitlines()[0].removeprefix(f"# {number}. ")
        wanted.append((str(number), title, path.name, "; ".join(said) or "accepted"))
    assert rows == wanted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_modules_and_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    dotted = {name.replace(".", "/") for name in re.findall(r"`(otahsm(?:\.[a-z_0-9]+)+)`", text)} - {
        "otahsm/toml"
    }
    paths = set(re.findall(r"\b(?:(?:proto/)?otahsm|tests|scripts|softhsm|bench|deploy)/[\w/.-]*\w", text))
    missing = {
        name
        for name in dotted | paths
        if not any((ROOT / f"{name}{ending}").exists() for ending in ("", ".py"))
    }
    assert missing == set()


def test_the_developers_tour_shows_every_room_and_every_wall() -> None:
    tour = (ROOT / "docs/guide/developer.md").read_text()
    (rooms,) = re.findall(r"<!-- rooms -->\n```text\n(.*?)```", tour, re.DOTALL)
    shown = set(re.findall(r"^  ([a-z0-9_]+)(?:/|\.py) ", rooms, re.MULTILINE))
    assert shown == {
        path.stem
        for path in (ROOT / "otahsm").iterdir()
        if (path.is_dir() or path.suffix == ".py") and not path.name.startswith("__")
    }
    (layers,) = re.findall(r"<!-- layers -->\n```text\n(.*?)```", tour, re.DOTALL)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (held,) = [contract["layers"] for contract in contracts if contract["name"].startswith("the rooms, ")]
    assert layers.splitlines() == [layer.replace("otahsm.", "") for layer in held]
