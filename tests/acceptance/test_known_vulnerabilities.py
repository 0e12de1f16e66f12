"""What is known against the locked packages fails the audit, unless it was accepted for a time."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest

from support.advisories import Advisories, proxied, serving
from support.harness import free_port
from support.supply_chain import LOCKS, PINNED, ran, script


@pytest.fixture
def advisories(tmp_path: Path) -> Iterator[Advisories]:
    with serving(tmp_path) as service:
        yield service


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "small.lock"
    path.write_text(
        f"safe==1.0 \\\n    --hash=sha256:{'0' * 64}\nfrail==2.0 \\\n    --hash=sha256:{'1' * 64}\n"
    )
    return path


FRAIL: Final[Mapping[str, Any]] = {
    "id": "GHSA-xxxx",
    "aliases": ["PYSEC-2026-7", "CVE-2026-7"],
    "summary": "It breaks",
    "fixed_in": ["2.1"],
}


def audit(
    service: Advisories, *options: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return ran(*script("audit.py"), *options, environment=environment or service.environment)


def accepting(folder: Path, name: str, until: date) -> Path:
    path = folder / "accepted.toml"
    path.write_text(f'[[accepted]]\nid = "{name}"\nreason = "We never call it."\nuntil = {until}\n')
    return path


def test_everything_that_is_locked_for_any_system_is_audited(advisories: Advisories) -> None:
    done = audit(advisories)
    pinned = [match for lock in LOCKS for match in PINNED.finditer(lock.read_text())]
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(advisories.asked) == sorted({(match["name"], match["version"]) for match in pinned})
    assert done.stdout == f"{len(pinned)} packages audited, 0 vulnerabilities known\n"


@pytest.mark.parametrize("service", ["pypi", "osv"])
def test_a_known_vulnerability_fails_the_audit(advisories: Advisories, lock: Path, service: str) -> None:
    advisories.vulnerable["frail"] = dict(FRAIL)
    options = ("--service", service) + (("--osv-url", advisories.osv_url) if service == "osv" else ())
    done = audit(advisories, "--lock", lock, *options)
    assert done.returncode == 1
    assert done.stderr == "audit: frail 2.0: PYSEC-2026-7 (CVE-2026-7, GHSA-xxxx): It breaks [fixed in 2.1]\n"
    assert sorted(advisories.asked) == [("frail", "2.0"), ("safe", "1.0")]


@pytest.mark.parametrize("name", ["PYSEC-2026-7", "GHSA-xxxx"])
def test_an_accepted_vulnerability_passes_by_any_of_its_ids_until_the_end_of_its_day(
    advisories: Advisories, lock: Path, tmp_path: Path, name: str
) -> None:
    advisories.vulnerable["frail"] = dict(FRAIL)
    # Midnight may come while it runs.
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    done = audit(advisories, "--lock", lock, "--accepted", accepting(tmp_path, name, tomorrow))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"accepted until {tomorrow}, We never call it.: frail 2.0: PYSEC-2026-7" in done.stdout


def test_what_was_accepted_until_yesterday_fails_the_audit(
    advisories: Advisories, lock: Path, tmp_path: Path
) -> None:
    advisories.vulnerable["frail"] = dict(FRAIL)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    done = audit(advisories, "--lock", lock, "--accepted", accepting(tmp_path, "CVE-2026-7", yesterday))
    assert done.returncode == 1
    assert f"CVE-2026-7 was accepted until {yesterday} only" in done.stderr
    assert "frail 2.0: PYSEC-2026-7" in done.stderr


def test_accepting_another_vulnerability_is_of_no_use(
    advisories: Advisories, lock: Path, tmp_path: Path
) -> None:
    advisories.vulnerable["frail"] = dict(FRAIL)
    accepted = accepting(tmp_path, "CVE-2026-8", date(9999, 12, 31))
    assert audit(advisories, "--lock", lock, "--accepted", accepted).returncode == 1


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ('id = "CVE-2026-7"\nuntil = 9999-12-31', "needs an id, a reason and until"),
        ('id = "CVE-2026-7"\nreason = " "\nuntil = 9999-12-31', "needs an id, a reason and until"),
        ('id = "CVE-2026-7"\nreason = "It is old."', "needs an id, a reason and until"),
        ('id = "CVE-2026-7"\nreason = "It is old."\nuntil = "2030"', "needs an id, a reason and until"),
        ('id = "CVE-2026-7"\nreason = "It is old."\nuntil = 9999-12-31\nwho = "me"', "needs an id"),
        ('id = "CVE-2026-7"\nid = "CVE-2026-8"', "accepted.toml"),
    ],
)
def test_nothing_is_accepted_without_an_id_a_reason_and_a_day(
    advisories: Advisories, lock: Path, tmp_path: Path, entry: str, what: str
) -> None:
    accepted = tmp_path / "accepted.toml"
    accepted.write_text(f"[[accepted]]\n{entry}\n")
    done = audit(advisories, "--lock", lock, "--accepted", accepted)
    assert done.returncode == 2
    assert what in done.stderr
    assert advisories.asked == []


def test_a_lock_file_without_a_hash_is_not_audited(advisories: Advisories, tmp_path: Path) -> None:
    lock = tmp_path / "open.lock"
    lock.write_text("safe==1.0\n")
    done = audit(advisories, "--lock", lock)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"audit: {lock}: safe==1.0 is not an exact version with hashes\n"


def test_an_audit_says_in_one_line_that_nobody_answers(
    advisories: Advisories, lock: Path, tmp_path: Path
) -> None:
    nobody = proxied(f"http://127.0.0.1:{free_port()}", tmp_path / "ca.pem")
    done = audit(advisories, "--lock", lock, environment=nobody)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"audit: nothing was audited, since the vulnerability service did not answer: .*refused.*\n",
        done.stderr,
    )


def test_an_audit_says_in_one_line_that_the_service_is_out_of_order(
    advisories: Advisories, lock: Path
) -> None:
    advisories.status = HTTPStatus.SERVICE_UNAVAILABLE
    done = audit(advisories, "--lock", lock)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"audit: nothing was audited, .* did not answer: .*503.*\n", done.stderr)


def test_a_package_that_the_service_does_not_know_fails_the_audit(advisories: Advisories, lock: Path) -> None:
    advisories.unknown.add("safe")
    done = audit(advisories, "--lock", lock)
    assert (done.returncode, done.stdout) == (2, "")
    assert "1 of 2 packages were not audited" in done.stderr
    assert "safe 1.0" in done.stderr
