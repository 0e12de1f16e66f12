"""Fuzzes otahsm: every target for its share of the time, two at a time, each in a process of its own.

python tests/fuzz/run.py [--seconds N | --runs N] [--out FOLDER] [TARGET...]
python tests/fuzz/run.py --input FILE TARGET    run a target on one input
python tests/fuzz/run.py --keep [TARGET...]     add to the corpus what was found and reaches new code

It starts from `corpus`, and from what earlier runs with the same --out found. If an input breaks a target, it
is written to that folder, the last lines say how to run it again, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))  # as pytest does
from fuzz.targets import CORPUS, Target  # noqa: E402

_PROCESS: Final = Path(__file__).with_name("process.py")
_AT_ONCE: Final = 2
_SLOW: Final = 30  # seconds for one input: even on a busy machine none needs so long
_MEMORY_MIB: Final = 768
_START_AND_END: Final = 120  # seconds that a process may need besides
_BROKEN: Final = ("crash-", "timeout-", "oom-", "leak-")
_COVERAGE: Final = re.compile(r"^#(\d+)\s+(INITED|DONE|NEW|REDUCE|RELOAD|pulse)\s.*?cov: (\d+)", re.MULTILINE)
_UNITS: Final = re.compile(r"^stat::number_of_executed_units:\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one target.

    Attributes:
        name: the target's.
        executed: how many inputs were run.
        of_nothing: how much code an empty input reaches; edges, as libFuzzer counts them.
        of_corpus: how much the inputs reach that it began with.
        reached: how much was reached in the end.
        broken: the inputs that broke it.
        log: what libFuzzer wrote.
    """

    name: str
    executed: int
    of_nothing: int
    of_corpus: int
    reached: int
    broken: tuple[Path, ...]
    log: Path

    @property
    def line(self) -> str:
        """Return it as a line."""
        return (
            f"{self.name:<18}{self.executed:>10} executions   coverage {self.of_nothing:>4} of nothing,"
            f" {self.of_corpus:>4} of the corpus, {self.reached:>4} in the end"
            + ("   BROKEN" if self.broken else "")
        )


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs targets.

    Attributes:
        table: the module whose TARGETS they are.
        corpus: has a folder of inputs for each.
        out: where logs, new inputs and those that break a target go.
        seed: of libFuzzer's chance; 0 for another one each time.
        runs: how many inputs each target gets besides those it begins with, however long it takes; 0: for as
            long as there is time.
    """

    table: str
    corpus: Path
    out: Path
    seed: int = 0
    runs: int = 0

    @property
    def targets(self) -> Mapping[str, Target]:
        """What there is."""
        targets: Mapping[str, Target] = import_module(self.table).TARGETS
        return targets

    def fuzz(self, name: str, seconds: int) -> Result:
        """Fuzz one target."""
        new, broken = self.out / "corpus" / name, self.out / "broken" / name
        for folder in (new, broken):
            folder.mkdir(parents=True, exist_ok=True)
        before = set(broken.iterdir())
        log = self.out / f"{name}.log"
        inputs = sum(1 for folder in (new, self.corpus / name) for _ in folder.iterdir())
        options = [
            f"--runs={inputs + self.runs}" if self.runs else f"--seconds={seconds}",
            f"-report_slow_units={_SLOW}",
            f"-artifact_prefix={broken}/",
            "-print_final_stats=1",
        ]
        with log.open("wb") as file:
            status = self.process(
                name,
                [*options, str(new), str(self.corpus / name)],
                file,
                None if self.runs else seconds + _START_AND_END,
            )
        found = sorted(path for path in set(broken.iterdir()) - before if path.name.startswith(_BROKEN))
        if status != 0 and not found:
            sys.exit(f"{name} could not be fuzzed (status {status}): see {log}")
        return _result(name, log, tuple(found))

    def run_input(self, name: str, path: Path) -> int:
        """Run one target on one input; return its exit status."""
        with tempfile.TemporaryDirectory() as folder:
            return self.process(name, [f"-artifact_prefix={folder}/", str(path)], None, _START_AND_END)

    def keep(self, name: str) -> int:
        """Add to the corpus what was found and reaches new code."""
        return self.process(
            name,
            ["-merge=1", str(self.corpus / name), str(self.out / "corpus" / name)],
            None,
            10 * _START_AND_END,
        )

    def process(self, name: str, words: Sequence[str], output: object, seconds: float | None) -> int:
        """Run libFuzzer; return its exit status."""
        target = self.targets[name]
        with tempfile.TemporaryDirectory(prefix="otahsm-fuzz-") as folder:
            dictionary = Path(folder, "words")
            dictionary.write_text(
                "# libFuzzer takes no empty file\n"
                + "".join(f'"{_escaped(word)}"\n' for word in target.words)
            )
            command = [
                sys.executable,
                str(_PROCESS),
                f"--table={self.table}",
                f"--target={name}",
                f"-dict={dictionary}",
                f"-max_len={target.max_len}",
                f"-timeout={_SLOW}",
                f"-seed={self.seed}",
                f"-rss_limit_mb={_MEMORY_MIB}",
                *words,
            ]
            path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
            environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": folder}
            stream = output if output is not None else None
            done = subprocess.run(
                command,
                stdout=stream,
                stderr=stream,
                env=environment,
                timeout=seconds,
                check=False,  # type: ignore[call-overload]
            )
            return int(done.returncode)


def main() -> None:
    """Fuzz."""
    options = _options()
    runner = Runner(options.table, options.corpus, options.out, options.seed, options.runs)
    names = options.targets or list(runner.targets)
    if unknown := sorted(set(names) - set(runner.targets)):
        sys.exit(f"there is no target {unknown[0]}; there are {', '.join(runner.targets)}")
    if options.input:
        sys.exit(max(runner.run_input(name, options.input) != 0 for name in names))
    if options.keep:
        sys.exit(max(runner.keep(name) != 0 for name in names))
    shutil.rmtree(options.out / "broken", ignore_errors=True)
    share = max(1, options.seconds * _AT_ONCE // len(names))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = list(pool.map(lambda name: runner.fuzz(name, share), names))
    for result in results:
        print(result.line)
    _tell_broken(results, options)


def _tell_broken(results: Sequence[Result], options: argparse.Namespace) -> None:
    """Print what broke and how to see it again; end with status 1 if anything did."""
    broken = [(result, path) for result in results for path in result.broken]
    for result, path in broken:
        words = [sys.executable, str(Path(__file__)), "--input", str(path), result.name]
        if options.table != "fuzz.targets":
            words[2:2] = ["--table", options.table]
        print(f"\n{result.name} breaks ({result.log}); again: {shlex.join(words)}")
        text = result.log.read_text(errors="replace")
        print(
            "\n".join(
                re.findall(
                    r"^[A-Za-z_.]*(?:Error|Exception)\b.*$|^ALARM.*$|^==.*ERROR.*$", text, re.MULTILINE
                )
            )
        )
    sys.exit(bool(broken))


def _result(name: str, log: Path, broken: tuple[Path, ...]) -> Result:
    text = log.read_text(errors="replace")
    nothing, _, fuzzing = text.partition("== fuzzing ==")
    counts = {kind: int(edges) for _, kind, edges in _COVERAGE.findall(fuzzing)}
    reached = max(counts.values(), default=0)
    units = _UNITS.search(fuzzing)
    seen = [int(number) for number, _, _ in _COVERAGE.findall(fuzzing)]
    (of_nothing,) = [int(edges) for _, kind, edges in _COVERAGE.findall(nothing) if kind == "DONE"] or [0]
    executed = int(units[1]) if units else max(seen, default=0)
    return Result(name, executed, of_nothing, counts.get("INITED", 0), reached, broken, log)


def _escaped(word: str) -> str:
    """Write a word as libFuzzer's dictionaries have it."""
    return "".join(f"\\x{octet:02X}" for octet in word.encode())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz otahsm.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--runs", type=int, default=0, help="for each target, instead of seconds")
    parser.add_argument("--out", type=Path, default=TESTS.parent / ".cache/fuzz", help="where results go")
    parser.add_argument("--input", type=Path, help="run the targets on this file alone")
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpus")
    parser.add_argument("--table", default="fuzz.targets", help="the module that has the targets")
    parser.add_argument("--seed", type=int, default=0, help="for the same inputs again; 0 is chance")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="where inputs to start from are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
