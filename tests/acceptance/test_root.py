"""Root runs our commands on the files of another user: as that user, or not at all."""

from __future__ import annotations

import ast
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from otahsm.cli import settings
from otahsm.errors import ConfigError
from otahsm.install.installing import ImageRoot
from otahsm.line import DeviceFolders
from otahsm.line.device_files import DeviceFiles
from otahsm.system.clock import utc_now
from otahsm.system.owners import foreign_owner
from otahsm.token.guard import LoginGuard

from support.everyone import run_for_everyone
from support.harness import Fleet

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

USER, OTHER = 12345, 54321


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can reach: pytest's are root's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def give(path: Path, user: int) -> None:
    for each in (path, *path.rglob("*")):
        os.chown(each, user, user, follow_symlinks=False)


@pytest.mark.parametrize("whose", ["everything", "the state alone"])
def test_the_doctor_of_root_runs_the_pin_command_as_its_user_and_writes_through_no_link(
    fleet: Fleet, folder: Path, whose: str
) -> None:
    mine = fleet.copy_to(folder / "fleet")
    pin = (mine.folder / "secrets/pin").read_text().strip()
    command = folder / "pin-command"
    (folder / "seen").mkdir()
    (folder / "seen").chmod(0o777)
    command.write_text(f"#!/bin/sh\nid -u >{folder}/seen/user\necho {pin}\n")
    command.chmod(0o755)
    mine.edit("pin-source=file:secrets/pin", f"pin-source=%7C{command}")
    victim = folder / "root-only"
    victim.write_text("precious")
    guard = mine.folder / "state/login"
    for link in ("login.lock", "login.json"):
        (guard / link).unlink(missing_ok=True)
        (guard / link).symlink_to(victim)
    for part in (mine.folder,) if whose == "everything" else (mine.folder / "state", mine.folder / "token"):
        give(part, USER)
    done = run_for_everyone(mine.folder, "doctor")
    assert "guard_dir" in done.stdout  # the lock is a link: it is not followed
    assert done.returncode == 4
    assert victim.read_text() == "precious"
    assert victim.stat().st_uid == 0
    for link in ("login.lock", "login.json"):
        (guard / link).unlink()
    done = run_for_everyone(mine.folder, "doctor")
    assert (folder / "seen/user").read_text().split() == [str(USER)], done.stdout
    assert {path.stat().st_uid for path in guard.rglob("*")} == {USER}


def test_root_logs_in_makes_keys_and_sends_them_for_no_other_user(folder: Path) -> None:
    give(folder, USER)
    with pytest.raises(ConfigError, match="root does not use it"), LoginGuard(folder / "guard").lock():
        pass
    with pytest.raises(ConfigError, match="root does not use it") as refused:
        DeviceFolders(folder / "devices", b"")
    assert f"sudo -u #{USER}" in refused.value.hint
    with pytest.raises(ConfigError, match="root does not use it"):
        DeviceFiles.load(folder, "a", utc_now())
    with pytest.raises(ConfigError, match="root does not use it"):
        ImageRoot(folder)
    assert not list(folder.iterdir())


def test_whose_a_file_is_depends_on_every_folder_and_link_on_the_way(folder: Path) -> None:
    (folder / "own/deep").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "own/deep")
    assert foreign_owner(folder / "own/deep/new") is None
    os.chown(folder / "own", USER, USER)
    for path in (folder / "own/deep/new", folder / "link/new"):
        owner = foreign_owner(path)
        assert owner is not None
        assert owner.user == USER
    os.chown(folder / "link", OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(ConfigError, match="can be changed by the users"):
        foreign_owner(folder / "link/new")


def test_every_command_takes_its_configuration_as_the_user_whose_it_is() -> None:
    commands = Path(settings.__file__).parent
    for path in commands.rglob("*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {name.name for node in imports if node.module == "otahsm.config" for name in node.names}
        assert "load_config" not in names, path
