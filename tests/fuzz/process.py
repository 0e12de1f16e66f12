"""Fuzzes one target, with libFuzzer's options; `run.py` starts it.

python tests/fuzz/process.py --target=NAME [--table=MODULE] [--seconds=N | --runs=N] [-OPTION...] [PATH...]

Paths are folders of inputs to begin with, of which the first gets new ones; or files, which are run, and no
others. (libFuzzer leaves alone what begins with two hyphens.) It needs PYTHONPATH=tests.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import atheris

import otahsm

BASELINE: Final = "== an empty input =="
FUZZING: Final = "== fuzzing =="
_LEAST: Final = 2  # seconds


def main(argv: list[str]) -> None:
    """Fuzz."""
    begun = time.monotonic()
    ours = dict(word.removeprefix("--").split("=", 1) for word in argv if word.startswith("--"))
    target = importlib.import_module(ours.get("table", "fuzz.targets")).TARGETS[ours["target"]]
    modules = list(_modules())
    for package in target.instrumented:
        if package.startswith("otahsm") and not any(_is_within(name, [package]) for name in modules):
            sys.exit(f"{ours['target']} explores {package}, and there is no such module")
    others = [name for name in modules if not _is_within(name, target.instrumented)]
    with _quiet(), atheris.instrument_imports(list(target.instrumented), others):
        function = target.function(ours["target"])
    if {"seconds", "runs"} & ours.keys():
        _run_on_nothing(function)
    print(FUZZING, file=sys.stderr, flush=True)
    limit = [f"-runs={ours['runs']}"] if "runs" in ours else []
    if "seconds" in ours:  # of which the start has taken some
        limit = [f"-max_total_time={max(_LEAST, int(ours['seconds']) - int(time.monotonic() - begun))}"]
    # A merge starts the first word again, in a shell.
    atheris.Setup([f"{shlex.quote(sys.executable)} {shlex.quote(argv[0])}", *argv[1:], *limit], function)
    atheris.Fuzz()


def _modules() -> Iterator[str]:
    """Name the modules of otahsm: Atheris takes all of a package, or what it is told to leave."""
    top = Path(otahsm.__path__[0]).parent
    for path in sorted(top.joinpath("otahsm").rglob("*.py")):
        yield ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__")


def _is_within(name: str, packages: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _run_on_nothing(function: Callable[[bytes], None]) -> None:
    """Have a child say how much code an empty input reaches: all that is more was reached by fuzzing."""
    print(BASELINE, file=sys.stderr, flush=True)
    child = os.fork()
    if child == 0:
        atheris.Setup([sys.argv[0], "-runs=0", f"-artifact_prefix={os.devnull}"], function)
        atheris.Fuzz()
    os.waitpid(child, 0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Don't say of each module that it is instrumented; warnings are for who runs it by hand."""
    errors = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(errors, 2)
            os.close(errors)


if __name__ == "__main__":
    main(sys.argv)
