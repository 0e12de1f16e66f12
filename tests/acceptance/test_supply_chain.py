"""What is installed, what is known against it, and what is built: locked, audited, listed, reproducible."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from importlib.metadata import distribution
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, Final

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.spdx import fixup_id, is_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import otahsm

from support.advisories import Advisories, proxied, serving
from support.harness import READY_SECONDS, free_port

ROOT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = (ROOT / "requirements.lock", ROOT / "scripts/uv.lock")
EPOCH: Final = 1_700_000_000

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
        timeout=READY_SECONDS,
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


@pytest.mark.parametrize("target", ["audit", "sbom", "wheel"])
def test_make_knows_the_target_and_gives_it_the_locked_tools(target: str) -> None:
    said = succeeded("make", "--dry-run", "--always-make", target)
    assert "pip sync --quiet --no-build --require-hashes requirements.lock" in said
    assert {"audit": "audit.py", "sbom": "sbom.py", "wheel": "build"}[target] in said.splitlines()[-1]


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
    pinned = [match for lock in LOCKS for match in _PINNED.finditer(lock.read_text())]
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


@pytest.fixture(scope="module")
def sbom_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("sbom") / "dist/otahsm.cdx.json"
    succeeded(*script("sbom.py"), "--out", out, environment={"SOURCE_DATE_EPOCH": "", "PYTHONHASHSEED": "1"})
    return out.read_text()


@pytest.fixture(scope="module")
def sbom(sbom_text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sbom_text)
    return document


def names(sbom: Mapping[str, Any]) -> set[str]:
    return {component["name"] for component in sbom["components"]}


def test_the_sbom_is_valid_cyclonedx(sbom_text: str) -> None:
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415 - 1 s, in each pytest worker

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom_text) is None
    broken = sbom_text.replace('"type": "library"', '"type": "book"', 1)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


def test_the_sbom_is_the_same_bytes_from_another_folder_at_another_time_but_for_a_time_that_is_given(
    sbom_text: str, sbom: dict[str, Any], tmp_path: Path
) -> None:
    for number, epoch in enumerate(("", str(EPOCH))):
        out = tmp_path / f"{number}.json"
        environment = {"SOURCE_DATE_EPOCH": epoch, "PYTHONHASHSEED": "2", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
        succeeded(*script("sbom.py"), "--out", out, folder=tmp_path, umask=0o077, environment=environment)
    assert (tmp_path / "0.json").read_text() == sbom_text
    timed = json.loads((tmp_path / "1.json").read_text())
    assert timed["metadata"].pop("timestamp") == "2023-11-14T22:13:20+00:00"
    assert timed == sbom


def test_the_sbom_is_about_this_version_of_otahsm(sbom: dict[str, Any]) -> None:
    root = sbom["metadata"]["component"]
    assert (root["name"], root["version"], root["type"]) == ("otahsm", otahsm.__version__, "application")
    assert root["purl"] == root["bom-ref"] == f"pkg:pypi/otahsm@{otahsm.__version__}"
    assert root["licenses"][0]["license"]["id"] == "Apache-2.0"


def test_the_sbom_lists_what_a_server_installs_and_no_development_tool(sbom: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"])
    for extra in ("server", "postgres", "ssh"):
        wanted += project["project"]["optional-dependencies"][extra]
    direct = {canonicalize_name(Requirement(requirement).name) for requirement in wanted}
    edges = {edge["ref"]: edge.get("dependsOn", []) for edge in sbom["dependencies"]}
    root = sbom["metadata"]["component"]["bom-ref"]
    assert {ref.split("/")[1].split("@")[0] for ref in edges[root]} == direct

    reached, waiting = set(), [root]
    while waiting:
        ref = waiting.pop()
        if ref not in reached:
            reached.add(ref)
            waiting += edges[ref]
    assert reached == {component["bom-ref"] for component in sbom["components"]} | {root}
    assert {"cffi", "psycopg-binary", "pydantic-core"} <= names(sbom)  # not asked for by otahsm itself
    assert not {"hatchling", "matplotlib", "mypy", "numpy", "pip-audit", "pytest"} & names(sbom)


def test_the_sbom_has_versions_and_hashes_as_they_are_locked_and_a_licence_of_each(
    sbom: dict[str, Any],
) -> None:
    pinned = {match["name"]: match for match in _PINNED.finditer(LOCKS[0].read_text())}
    for component in sbom["components"]:
        pin = pinned[component["name"]]
        assert component["purl"] == f"pkg:pypi/{component['name']}@{pin['version']}"
        (files,) = component["externalReferences"]
        hashes = {f"sha256:{one['content']}" for one in files["hashes"] if one["alg"] == "SHA-256"}
        assert hashes == set(re.findall(r"sha256:\w+", pin["hashes"]))
        (licence,) = component["licenses"]
        spdx = licence.get("expression") or licence["license"].get("id")
        assert spdx, component["name"]
        assert fixup_id(spdx) or is_expression(spdx)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would commit of this folder now, as the only commit of a repository."""
    folder = tmp_path_factory.mktemp("repository")
    listed = succeeded("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    (folder / "names").write_text("\0".join(name for name in listed if name and (ROOT / name).exists()))
    tree = folder / "tree"
    tree.mkdir()
    pack = 'tar -C "$1" --null -T names -cf - | tar -C tree -xf -'
    succeeded("bash", "-euo", "pipefail", "-c", pack, "pack", ROOT, folder=folder)
    who = {"NAME": "A", "EMAIL": "a@example.com", "DATE": f"{EPOCH} +0000"}
    environment = {
        f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()
    }
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "All"]):
        succeeded("git", *command, folder=tree, environment=environment)
    return tree


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders, each with what a clone of its own built; the second one had no network at all."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    first, second = (tmp_path_factory.mktemp(name) / "clone" for name in ("here", "in-another-folder"))
    succeeded("git", "clone", "--quiet", repository, first)
    succeeded("scripts/build", folder=first, environment={"PATH": path, "PYTHONHASHSEED": "1"})

    succeeded("git", "clone", "--quiet", repository, second, umask=0o077)
    (second / "otahsm/not_committed.py").write_text("LEFT = 'here'\n")
    for tracked in (second / "otahsm").rglob("*"):
        os.utime(tracked, (0, 0))
    environment = {
        "PATH": path,
        "PYTHONHASHSEED": "2",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
    }
    alone = ("unshare", "--map-root-user", "--net")
    succeeded(*alone, "scripts/build", folder=second, umask=0o077, environment=environment)
    return first / "dist", second / "dist"


@pytest.fixture(scope="module")
def wheel(built: tuple[Path, Path]) -> Path:
    return built[0] / f"otahsm-{otahsm.__version__}-py3-none-any.whl"


def test_two_clones_build_the_same_bytes(built: tuple[Path, Path]) -> None:
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in built]
    assert sorted(files[0]) == [
        f"otahsm-{otahsm.__version__}-py3-none-any.whl",
        f"otahsm-{otahsm.__version__}.tar.gz",
    ]
    assert files[0] == files[1]


def test_nothing_that_is_built_knows_when_or_by_whom(built: tuple[Path, Path], wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        assert {oct(entry.external_attr >> 16 & 0o777) for entry in archive.infolist()} <= {"0o644", "0o755"}
    (sdist,) = built[0].glob("*.tar.gz")
    assert int.from_bytes(sdist.read_bytes()[4:8], "little") == EPOCH
    with tarfile.open(sdist) as packed:
        members = packed.getmembers()
    assert {member.mtime for member in members} == {EPOCH}
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}


def test_the_wheel_has_the_packages_as_they_are_committed_the_manual_page_and_nothing_else(
    repository: Path, wheel: Path
) -> None:
    committed = set(succeeded("git", "ls-files", "otahsm", "softhsm", folder=repository).split())
    extra = f"otahsm-{otahsm.__version__}"
    about = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
        page = archive.read(f"{extra}.data/data/share/man/man1/otahsm.1")
    assert page == (repository / "docs/man/otahsm.1").read_bytes()
    assert found == committed | {f"{extra}.dist-info/{name}" for name in about} | {
        f"{extra}.data/data/share/man/man1/otahsm.1"
    }
    for needed in (
        "otahsm/py.typed",
        "otahsm/v1/issuance_pb2.pyi",
        "otahsm/v1/issuance_pb2_grpc.py",
        "otahsm/quickstart/otahsm.toml.in",
        "otahsm/ledger/migrations/env.py",
    ):
        assert needed in found


def test_the_sdist_has_the_tests_and_builds_the_same_wheel(
    built: tuple[Path, Path], wheel: Path, tmp_path: Path
) -> None:
    (sdist,) = built[0].glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    assert (tree / "tests/acceptance/test_supply_chain.py").exists()
    environment = {"SOURCE_DATE_EPOCH": str(EPOCH)}
    succeeded(
        sys.executable, "-m", "hatchling", "build", "--target", "wheel", folder=tree, environment=environment
    )
    assert (tree / "dist" / wheel.name).read_bytes() == wheel.read_bytes()


def link(file: Path, place: Path) -> None:
    """Link to a file and, so that nobody compiles it once more, to what it was compiled to."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(file)
    if file.suffix == ".py" and (compiled := Path(cache_from_source(str(file)))).exists():
        link(compiled, Path(cache_from_source(str(place))))


def test_the_wheel_runs_with_what_the_sbom_lists_and_nothing_else(
    wheel: Path, sbom: dict[str, Any], tmp_path: Path
) -> None:
    fresh = tmp_path / "venv"
    venv.create(fresh, symlinks=True)
    python = fresh / "bin/python"
    (site,) = fresh.glob("lib/python*/site-packages")
    for name in names(sbom):
        package = distribution(name)
        for file in package.files or ():
            if ".." not in file.parts:
                link(Path(str(package.locate_file(file))), site / file)
    options = ("--no-deps", "--no-index", "--no-cache-dir", "--disable-pip-version-check")
    succeeded(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)

    where = "import otahsm, importlib.metadata as m; print(otahsm.__file__, m.version('otahsm'))"
    said = succeeded(python, "-P", "-c", where, folder=tmp_path)
    assert said.split() == [str(site / "otahsm/__init__.py"), otahsm.__version__]
    assert (fresh / "share/man/man1/otahsm.1").exists()
    command = fresh / "bin/otahsm"
    assert "Usage: otahsm" in succeeded(command, "--help", folder=tmp_path)
    succeeded(command, "quickstart", "fleet", folder=tmp_path)
    assert (tmp_path / "fleet/otahsm.toml").exists()
    every = "import asyncssh, psycopg, grpc_reflection.v1alpha, otahsm.daemon, otahsm.ledger.db.postgres"
    succeeded(python, "-P", "-c", every, folder=tmp_path)
