"""What is installed and what is built: locked, listed, reproducible."""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Mapping
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

from support.programs import unpack
from support.supply_chain import LOCKS, PINNED, ROOT, script, succeeded

EPOCH: Final = 1_700_000_000

_INSTALLS: Final = re.compile(
    r"\b(?:pip3?|pipx|uv|npm|pnpm|yarn|cargo|gem|go)[\")]* +"
    r"(?:add|build|download|get|install|run|sync|tool|wheel)\b"
    r"|\b(?:uvx|npx)\b|\b(?:curl|wget)\b.*https?:"
)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_file_has_nothing_but_exact_versions_with_hashes(lock: Path) -> None:
    text = lock.read_text()
    assert text
    assert PINNED.sub("", text) == ""


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
    pinned = {match["name"]: match for match in PINNED.finditer(LOCKS[0].read_text())}
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
    # Root needs no user namespace, and a chroot allows none.
    alone = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--net")
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
    unpack(sdist, tmp_path)
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
