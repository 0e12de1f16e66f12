"""Root runs our commands on the files of another user: as that user, or not at all."""

from __future__ import annotations

import ast
import grp
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from otahsm.cli import settings
from otahsm.cli.commands.device.pack import pack
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
    with pytest.raises(ConfigError, match="root does not use it"):
        pack(folder / "packed.tar", devices=folder)
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


def test_a_link_that_a_link_leads_to_counts(folder: Path) -> None:
    (folder / "safe").mkdir()
    (folder / "theirs").mkdir()
    (folder / "theirs/way").symlink_to(folder / "safe")
    (folder / "first").symlink_to("theirs/way")
    os.chown(folder / "theirs", USER, USER)
    owner = foreign_owner(folder / "first/new")
    assert owner is not None
    assert owner.user == USER


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o666])
def test_what_every_user_can_write_to_is_not_used(folder: Path, mode: int) -> None:
    place = folder / "shared"
    if mode == 0o666:
        place.touch()
    else:
        place.mkdir()
    place.chmod(mode)
    path = place if place.is_file() else place / "devices"
    with pytest.raises(ConfigError, match="can be changed by every user") as refused:
        foreign_owner(path)
    assert refused.value.hint == f"chmod go-w {place}"
    if place.is_dir():
        place.chmod(mode | 0o1000)  # sticky, as /tmp is
        assert foreign_owner(path) is None


def test_whoever_may_write_as_a_member_of_a_group_counts(folder: Path) -> None:
    users = pwd.getpwall()
    groups = [user.pw_gid for user in users]
    named = {group.gr_gid for group in grp.getgrall() if group.gr_mem}
    user = next(user for user in users if user.pw_gid not in {0, *named} and groups.count(user.pw_gid) == 1)
    os.chown(folder, 0, user.pw_gid)
    folder.chmod(0o775)
    owner = foreign_owner(folder / "devices")
    assert owner is not None
    assert owner.name == user.pw_name
    folder.chmod(0o755)
    assert foreign_owner(folder / "devices") is None


def test_every_command_takes_its_configuration_as_the_user_whose_it_is() -> None:
    commands = Path(settings.__file__).parent
    for path in commands.rglob("*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {name.name for node in imports if node.module == "otahsm.config" for name in node.names}
        assert "load_config" not in names, path
