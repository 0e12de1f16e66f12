"""The corpus breaks nothing, a little fuzzing breaks nothing, and a fault that there is would be found."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.targets import CORPUS, TARGETS

RUN = Path(__file__).with_name("run.py")
INPUTS = sorted(path.relative_to(CORPUS) for path in CORPUS.glob("*/*"))
LINE = re.compile(
    r"^(\w+) +(\d+) executions +coverage +(\d+) of nothing, +(\d+) of the corpus, +(\d+) in the end$",
    re.MULTILINE,
)
RUNS = "100"
TABLE = """
from fuzz.targets import Target
TARGETS = {"faulty": Target("faulty_targets", 64), "sound": Target("faulty_targets", 64)}
"""
FAULTY = """
from otahsm.pkcs11_names import Pkcs11Uri

def sound(data):
    try:
        uri = Pkcs11Uri.parse(data.decode(errors="replace"))
    except ValueError:
        return None
    return uri

def faulty(data):
    assert sound(data) is None or sound(data).id != b"\\x07", "seven is not to be read"
"""


def run(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=850,
        check=False,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize("path", INPUTS, ids=str)
def test_nothing_in_the_corpus_breaks_its_target(path: Path) -> None:
    name = path.parts[0]
    TARGETS[name].function(name)((CORPUS / path).read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_takes_an_empty_input_and_has_others(name: str) -> None:
    TARGETS[name].function(name)(b"")
    assert len([path for path in INPUTS if path.parts[0] == name]) >= 3


def test_the_corpus_is_small_and_is_that_of_the_targets() -> None:
    assert sum((CORPUS / path).stat().st_size for path in INPUTS) < 1_000_000
    assert {path.parts[0] for path in INPUTS} == set(TARGETS)
    assert all((CORPUS / path).stat().st_size <= TARGETS[path.parts[0]].max_len for path in INPUTS)


def test_a_little_fuzzing_reaches_new_code_in_every_target_and_breaks_none(tmp_path: Path) -> None:
    # A seed and a number of inputs: a change of ours is judged by what it did, however fast the machine
    # is; what chance finds in an hour is for `make fuzz`.
    done = run("--runs", RUNS, "--seed", "7", "--out", tmp_path / "out", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {name: [int(number) for number in numbers] for name, *numbers in LINE.findall(done.stdout)}
    assert set(results) == set(TARGETS), done.stdout
    for name, (executed, of_nothing, of_corpus, reached) in results.items():
        inputs = len([path for path in INPUTS if path.parts[0] == name])
        assert executed >= inputs + int(RUNS), name
        assert of_nothing < of_corpus <= reached, name


def test_a_fault_is_found_told_and_can_be_seen_again(tmp_path: Path) -> None:
    (tmp_path / "faulty_table.py").write_text(TABLE)
    (tmp_path / "faulty_targets.py").write_text(FAULTY)
    for name in ("faulty", "sound"):
        (tmp_path / "corpus" / name).mkdir(parents=True)
        (tmp_path / "corpus" / name / "seven").write_text("pkcs11:id=%07")
    options = ("--table", "faulty_table", "--corpus", tmp_path / "corpus", "--out", tmp_path / "out")
    done = run(*options, "--seconds", "4", folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "AssertionError: seven is not to be read" in done.stdout
    assert "sound breaks" not in done.stdout
    (again,) = re.findall(r"^faulty breaks \(.*\); again: (.*)$", done.stdout, re.MULTILINE)
    _, program, *words = shlex.split(again)
    assert Path(program) == RUN
    (broken,) = (tmp_path / "out/broken/faulty").iterdir()
    assert broken.read_bytes() == b"pkcs11:id=%07"
    assert str(broken) in words
    seen = run(*words, folder=tmp_path)
    assert seen.returncode == 1
    assert "AssertionError: seven is not to be read" in seen.stdout + seen.stderr
    assert run(*words[:-1], "sound", folder=tmp_path).returncode == 0


def test_a_target_that_there_is_not_is_told(tmp_path: Path) -> None:
    done = run("nothing", folder=tmp_path)
    assert done.returncode == 1
    assert "there is no target nothing; there are csr," in done.stderr
