#!/usr/bin/env python3
"""Looks for known vulnerabilities of everything that is locked, for whichever system, with pip-audit.

Run it as `make audit`. It asks PyPI's JSON API. Who has only a mirror without that API asks an OSV server:
`make audit AUDIT='--service osv --osv-url https://...'`; to OSV, a package that it doesn't know has no known
vulnerability. It exits with 1 if there is a vulnerability that is not accepted, or no longer, and with 2 if
anything could not be audited.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from packaging.utils import NormalizedName, canonicalize_name

from locked import LockError, Pin, read_lock

SCRIPTS: Final = Path(__file__).resolve().parent
LOCKS: Final = (SCRIPTS.parent / "requirements.lock", SCRIPTS / "uv.lock")
ACCEPTED: Final = SCRIPTS / "accepted-vulnerabilities.toml"

SHOWN: Final = 5
_REASON: Final = re.compile(r"^[\w.]*(?:Error|Exception|Timeout): .+$", re.MULTILINE)


class AuditError(Exception):
    """Something could not be audited."""


@dataclass(frozen=True)
class Accepted:
    """A vulnerability that is known and accepted until the end of a day, in UTC."""

    id: str
    reason: str
    until: date


@dataclass(frozen=True)
class Vulnerability:
    """A vulnerability of a package that is locked; the first id is its main one."""

    package: str
    ids: tuple[str, ...]
    fixed: tuple[str, ...]
    description: str

    def __str__(self) -> str:
        others = f" ({', '.join(self.ids[1:])})" if self.ids[1:] else ""
        cure = f"fixed in {', '.join(self.fixed)}" if self.fixed else "no version fixes it"
        return f"{self.package}: {self.ids[0]}{others}: {self.description} [{cure}]"


def read_accepted(path: Path) -> Sequence[Accepted]:
    """Read which vulnerabilities are accepted.

    Raises:
        AuditError: one has no id, no reason or no day, or there is something else.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise AuditError(f"{path}: {error}") from error
    entries = document.pop("accepted", [])
    if document or not isinstance(entries, list):
        raise AuditError(f"{path}: only [[accepted]] is known")
    return [_accepted(entry, path) for entry in entries]


def _accepted(entry: Any, path: Path) -> Accepted:
    match entry:
        case {"id": str(name), "reason": str(reason), "until": date() as until} if (
            len(entry) == len(Accepted.__dataclass_fields__)
            and name.strip()
            and reason.strip()
            and not isinstance(until, datetime)
        ):
            return Accepted(name, reason, until)
    raise AuditError(f"{path}: needs an id, a reason and until, a day: {entry}")


def find(pins: Iterable[Pin], options: Sequence[str]) -> Iterator[Vulnerability]:
    """Find the known vulnerabilities of packages.

    Raises:
        AuditError: the service was not reached, or does not know one of them.
    """
    diagnostics: list[dict[NormalizedName, Pin]] = []
    for pin in dict.fromkeys(pins):  # a package that is locked in two versions is audited in two rounds
        free = next((one for one in diagnostics if pin.name not in one), None)
        if free is None:
            diagnostics.append(free := {})
        free[pin.name] = pin
    for one in diagnostics:
        yield from _vulnerabilities(one, _ask(one.values(), options))


def _ask(pins: Iterable[Pin], options: Sequence[str]) -> Mapping[str, Any]:
    """Run pip-audit; it exits with 1 for vulnerabilities and for failures, but writes only the former."""
    with tempfile.TemporaryDirectory() as folder:
        lock, report = Path(folder, "requirements.txt"), Path(folder, "report.json")
        lock.write_text("".join(f"{pin.line()}\n" for pin in pins))
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes"]
        command += ["--disable-pip", "--format", "json", "--output", str(report), "--progress-spinner", "off"]
        # What a cache of an earlier day says is no audit, and hides that nobody answers.
        command += ["--cache-dir", str(Path(folder, "cache")), *options]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.exists():
            lines = _REASON.findall(ran.stderr)[:1] or ran.stderr.splitlines()[-1:]
            raise AuditError(
                f"nothing was audited, since the vulnerability service did not answer: {''.join(lines)}"
            )
        document: Mapping[str, Any] = json.loads(report.read_text())
        return document


def _vulnerabilities(
    pins: Mapping[NormalizedName, Pin], document: Mapping[str, Any]
) -> Iterator[Vulnerability]:
    audited = {canonicalize_name(item["name"]): item for item in document["dependencies"]}
    unknown = [
        f"{pin.name} {pin.version}"
        for name, pin in pins.items()
        if audited.get(name, {}).get("version") != pin.version
    ]
    if unknown:
        raise AuditError(
            f"{len(unknown)} of {len(pins)} packages were not audited, since the vulnerability service does"
            f" not know them: {', '.join(unknown[:SHOWN])}{', ...' if len(unknown) > SHOWN else ''}. If it"
            " knows none, a mirror without PyPI's JSON API answers in its place: ask an OSV server"
        )
    for name, pin in pins.items():
        for vulnerability in audited[name]["vulns"]:
            yield Vulnerability(
                f"{name} {pin.version}",
                (vulnerability["id"], *sorted(vulnerability["aliases"])),
                tuple(vulnerability["fix_versions"]),
                vulnerability["description"],
            )


def main() -> int:
    """Audit."""
    parser = argparse.ArgumentParser(description="Look for known vulnerabilities of what is locked.")
    parser.add_argument("--lock", type=Path, action="append", help="a lock file; all of ours without")
    parser.add_argument("--accepted", type=Path, default=ACCEPTED, help="what is accepted, and until when")
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi", help="who is asked")
    parser.add_argument("--osv-url", help="the OSV server's query address")
    asked = parser.parse_args()
    options = ["--vulnerability-service", asked.service]
    options += ["--osv-url", asked.osv_url] if asked.osv_url else []
    try:
        accepted = read_accepted(asked.accepted)
        pins = [pin for lock in asked.lock or LOCKS for pin in read_lock(lock)]
        found = list(find(pins, options))
    except (AuditError, LockError, OSError) as error:
        sys.stderr.write(f"audit: {error}\n")
        return 2
    today = datetime.now(UTC).date()
    holding = {one.id: one for one in accepted if one.until >= today}
    bad = [f"{one.id} was accepted until {one.until} only" for one in accepted if one.id not in holding]
    for vulnerability in found:
        known = next((holding[name] for name in vulnerability.ids if name in holding), None)
        if known:
            sys.stdout.write(f"accepted until {known.until}, {known.reason}: {vulnerability}\n")
        else:
            bad.append(str(vulnerability))
    sys.stderr.write("".join(f"audit: {line}\n" for line in bad))
    sys.stdout.write(f"{len(set(pins))} packages audited, {len(found)} vulnerabilities known\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
