#!/usr/bin/env python3
"""Prints the figures that the house rules limit: of the files here, and of a git revision beside them.

    .venv/bin/python scripts/structure.py [--json] [REVISION]

What is counted, in all but generated code:

- siblings: modules and packages in a package, without its `__init__.py`; the rooms of `otahsm` itself are
  counted and not limited
- long modules: those of more than 300 lines
- client names: what `otahsm.client` offers in its `__all__`
- late imports: statements that import inside a function of `otahsm.cli`, and those of them whose line gives
  no reason in a comment
- broad excepts: `except Exception`, each with the reason that it gives
- lines: of Python, comments and blank lines too; `otahsm` and `softhsm` are the product
- changed modules: files of the product and of `proto` that are not what they are in REVISION. On a branch
  with one change alone, that is what the change costs.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PRODUCT: Final = ("otahsm", "softhsm")
FOLDERS: Final = (*PRODUCT, "proto", "tests", "bench", "scripts")
GENERATED: Final = "otahsm/v1/"

MAX_SIBLINGS: Final = 20
LONG: Final = 300
HOUSE: Final = "otahsm"  # its members are the rooms

_LISTED: Final = 50  # changed modules

_BROAD: Final = re.compile(r"^\s*except Exception\b[^:]*:(?:.* - (?P<reason>.*))?$")


@dataclass(frozen=True)
class Figures:
    """What is counted; the top of this file says how.

    Attributes:
        siblings: by package.
        long_modules: lines by module.
        client_names: how many.
        late_imports: how many.
        late_imports_without_reason: how many of them.
        broad_excepts: reasons by place; an empty one if none is given.
        product_lines: how many.
        test_lines: how many.
        other_lines: how many, of `bench` and `scripts`.
    """

    siblings: dict[str, int]
    long_modules: dict[str, int]
    client_names: int
    late_imports: int
    late_imports_without_reason: int
    broad_excepts: dict[str, str]
    product_lines: int
    test_lines: int
    other_lines: int


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", nargs="?", help="a git revision to show beside the files here")
    parser.add_argument("--json", action="store_true", help="print the figures of the files here, as JSON")
    arguments = parser.parse_args()
    now = files_here()
    if arguments.json:
        print(json.dumps(asdict(measure(now)), indent=2))  # noqa: T201 - a program, which prints
        return 0
    try:
        before = None if arguments.revision is None else files_of(arguments.revision)
    except subprocess.CalledProcessError as error:
        parser.error(error.stderr.decode().strip())
    for line in report(now, before, arguments.revision):
        print(line)  # noqa: T201 - a program, which prints
    return 0


def files_here() -> dict[str, str]:
    """Return the texts of the files here, by path."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if _is_counted(path.relative_to(ROOT).as_posix())
    }


def files_of(revision: str) -> dict[str, str]:
    """Return the texts of a revision's files, by path. Raises CalledProcessError."""
    paths = _git("ls-tree", "-rz", "--name-only", revision, "--", *FOLDERS).decode().split("\0")
    selected = [path for path in paths if _is_counted(path)]
    asked = "".join(f"{revision}:{path}\n" for path in selected).encode()
    answer = _git("cat-file", "--batch", given=asked)
    texts = {}
    for path in selected:
        header, _, answer = answer.partition(b"\n")
        size = int(header.split()[-1])
        texts[path], answer = answer[:size].decode(), answer[size + 1 :]
    return texts


def measure(texts: Mapping[str, str]) -> Figures:
    """Count."""
    python = {path: text for path, text in texts.items() if path.endswith(".py")}
    product = {path: text for path, text in python.items() if path.startswith(PRODUCT)}
    late = [line for path, text in product.items() if path.startswith("otahsm/cli/") for line in _late(text)]
    return Figures(
        siblings=dict(sorted(_siblings(product).items())),
        long_modules={
            path: lines for path, text in sorted(product.items()) if (lines := text.count("\n")) > LONG
        },
        client_names=_offered(product["otahsm/client/__init__.py"]),
        late_imports=len(late),
        late_imports_without_reason=sum(not _gives_a_reason(line) for line in late),
        broad_excepts=dict(_broad_excepts(product)),
        product_lines=_lines(python, *PRODUCT),
        test_lines=_lines(python, "tests"),
        other_lines=_lines(python, "bench", "scripts"),
    )


def report(now: Mapping[str, str], before: Mapping[str, str] | None, revision: str | None) -> Iterator[str]:
    """Yield a table of sums, and then what they are made of."""
    figures = measure(now)
    columns = [figures] if before is None else [measure(before), figures]
    names = ["here"] if revision is None else [revision[:12], "here"]
    yield f"{'':44}" + "".join(f"{name:>14}" for name in names)
    for label, values in {
        f"packages of more than {MAX_SIBLINGS} siblings": [len(_crowded(each)) for each in columns],
        "siblings of the largest package": [
            max(count for package, count in each.siblings.items() if package != HOUSE) for each in columns
        ],
        f"modules of more than {LONG} lines": [len(each.long_modules) for each in columns],
        "lines of the longest module": [max(each.long_modules.values(), default=0) for each in columns],
        "public names of otahsm.client": [each.client_names for each in columns],
        "imports inside functions of otahsm.cli": [each.late_imports for each in columns],
        "  of them without a reason": [each.late_imports_without_reason for each in columns],
        "except Exception": [len(each.broad_excepts) for each in columns],
        "lines of Python: product": [each.product_lines for each in columns],
        "lines of Python: tests": [each.test_lines for each in columns],
        "lines of Python: bench, scripts": [each.other_lines for each in columns],
    }.items():
        yield f"{label:44}" + "".join(f"{value:14,}" for value in values)
    if before is not None:
        changed = _changed(before, now)
        yield f"{'modules of product and proto that differ':44}{'':14}{len(changed):14,}"
        if len(changed) <= _LISTED:
            yield from (f"  {path}" for path in changed)
    yield from ("", "Packages, largest first:")
    crowded = _crowded(figures)
    for package, count in sorted(figures.siblings.items(), key=lambda pair: -pair[1]):
        yield f"  {count:5} {package}{'  TOO MANY' if package in crowded else ''}"
    yield from ("", f"Modules of more than {LONG} lines:")
    for path, count in sorted(figures.long_modules.items(), key=lambda pair: -pair[1]):
        yield f"  {count:5} {path}"
    yield from ("", "except Exception:")
    for place, reason in figures.broad_excepts.items():
        yield f"  {place}: {reason or 'NO REASON'}"


def _is_counted(path: str) -> bool:
    return path.endswith((".py", ".proto")) and not path.startswith(GENERATED)


def _siblings(product: Mapping[str, str]) -> Counter[str]:
    """Count the members of each package; a package is one of its parent's."""
    packages = {str(PurePosixPath(path).parent) for path in product}
    members = packages | {path for path in product if not path.endswith("/__init__.py")}
    counted = Counter(str(PurePosixPath(member).parent) for member in members)
    return Counter({package: counted[package] for package in packages})


def _crowded(figures: Figures) -> list[str]:
    return [
        package for package, count in figures.siblings.items() if count > MAX_SIBLINGS and package != HOUSE
    ]


def _offered(text: str) -> int:
    """Count the names in `__all__`."""
    for node in ast.parse(text).body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id="__all__")], value=ast.List(elts=names) | ast.Tuple(elts=names)
            ):
                return len(names)
    raise SystemExit("otahsm/client/__init__.py has no __all__")


def _late(text: str) -> Iterator[str]:
    """Yield the lines that import inside functions."""
    lines = text.splitlines()
    numbers = {
        inner.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    }
    for number in sorted(numbers):
        yield lines[number - 1]


def _gives_a_reason(line: str) -> bool:
    """Return whether there is a comment, and more in it than the code of a rule."""
    _, _, comment = line.partition("#")
    return bool(re.sub(r"^\s*noqa:[ A-Z0-9,]*", "", comment).strip(" -"))


def _broad_excepts(product: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for path, text in sorted(product.items()):
        for number, line in enumerate(text.splitlines(), 1):
            if found := _BROAD.match(line):
                yield f"{path}:{number}", found["reason"] or ""


def _lines(python: Mapping[str, str], *folders: str) -> int:
    return sum(text.count("\n") for path, text in python.items() if path.split("/")[0] in folders)


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    paths = {path for path in {*before, *now} if path.split("/")[0] in (*PRODUCT, "proto")}
    return sorted(path for path in paths if before.get(path) != now.get(path))


def _git(*arguments: str, given: bytes = b"") -> bytes:
    command = ("git", "-C", str(ROOT), *arguments)
    return subprocess.run(command, input=given, check=True, capture_output=True).stdout


if __name__ == "__main__":
    sys.exit(main())
