"""Files that a process trusts: nobody else may change them, whatever the way to them is."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otahsm.errors import ConfigError
from otahsm.system.trusted_files import TrustedFiles, own_files

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
NOBODY = pwd.getpwnam("nobody").pw_uid
FREE_GROUP = next(group for group in range(70_000, 80_000) if group not in {u.pw_gid for u in pwd.getpwall()})


def make(folder: Path) -> Path:
    """Make folder/way/file, with modes that nobody can object to."""
    way = folder / "way"
    way.mkdir(mode=0o755)
    file = way / "file"
    file.write_text("content")
    file.chmod(0o600)
    return file


def refusal(path: Path, *, secret: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        own_files().read(path, f"[tls] x {path}", secret=secret)
    fixes = "chmod go-w ", "chmod 600 ", "chown root ", "chown -h root ", "Check the path."
    assert caught.value.hint.startswith(fixes)
    return caught.value.message


def test_what_nobody_else_can_change_is_read(tmp_path: Path) -> None:
    file = make(tmp_path)
    (tmp_path / "link").symlink_to("way/../way/file")
    (tmp_path / "absolute").symlink_to(tmp_path / "link")
    for path in (file, tmp_path / "link", tmp_path / "absolute", Path(os.path.relpath(file))):
        assert own_files().read(path, secret=True) == b"content"
    assert own_files().read(file, limit=3) == b"con"
    file.chmod(0o444)
    assert own_files().read(file) == b"content"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.chmod(0o620), "other users can change [tls] x"),
        (lambda file: file.chmod(0o602), "other users can change [tls] x"),
        (lambda file: file.parent.chmod(0o757), "other users can change the folder"),
        pytest.param(
            lambda file: file.parent.chmod(0o775), "other users can change the folder", marks=ROOT_ONLY
        ),
        (lambda file: file.parent.parent.chmod(0o777), "other users can change the folder"),
        pytest.param(lambda file: os.chown(file, NOBODY, 0), "[tls] x", marks=ROOT_ONLY),
        pytest.param(lambda file: os.chown(file.parent, NOBODY, 0), "the folder", marks=ROOT_ONLY),
    ],
)
@pytest.mark.parametrize("way", ["the file", "a link to it", "a link to its folder"])
def test_what_others_can_change_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], said: str, way: str
) -> None:
    (tmp_path / "other").mkdir()
    file = make(tmp_path / "other")
    (tmp_path / "file").symlink_to(file)
    (tmp_path / "folder").symlink_to("other/way")
    path = {"the file": file, "a link to it": tmp_path / "file"}.get(way, tmp_path / "folder/file")
    spoil(file)
    message = refusal(path)
    assert said in message
    assert message.startswith("other users can change ") or message.endswith("who can change it")


def test_a_link_that_others_can_replace_is_refused(tmp_path: Path) -> None:
    file = make(tmp_path)
    public = tmp_path / "public"
    public.mkdir()
    (public / "link").symlink_to(file)
    public.chmod(0o777)
    assert (
        refusal(public / "link") == f"other users can change the folder {public} of [tls] x {public / 'link'}"
    )
    public.chmod(0o1777)  # sticky, and the link is ours
    assert own_files().read(public / "link") == b"content"


@ROOT_ONLY
def test_in_a_sticky_folder_an_entry_of_another_user_is_refused(tmp_path: Path) -> None:
    file = make(tmp_path)
    file.parent.chmod(0o1777)
    assert own_files().read(file) == b"content"
    (file.parent / "link").symlink_to(file)
    os.chown(file.parent / "link", NOBODY, 0, follow_symlinks=False)
    link = file.parent / "link"
    assert refusal(link) == f"{link} of [tls] x {link} belongs to another user, who can replace it"


def test_what_is_not_a_file_or_not_there_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "root").symlink_to("/")
    for name in ("fifo", "root"):
        assert refusal(tmp_path / name).endswith("is not a regular file")
    assert "Too many levels of symbolic links" in refusal(tmp_path / "loop")
    assert "No such file or directory" in refusal(tmp_path / "none")


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o601])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = make(tmp_path)
    file.chmod(mode)
    assert refusal(file, secret=True) == f"other users can read [tls] x {file}"


def kubernetes_secret(folder: Path, name: str, content: str) -> None:
    """Write a new version of a secret as Kubernetes does: files, then a folder's link that is replaced."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o3777)  # as kubelet makes it: sticky, with the group of its pod
    version = folder / f"..2026_{len(list(folder.iterdir()))}"
    version.mkdir()
    file = version / name
    file.write_text(content)
    if os.geteuid() == 0:
        for path in (folder, version, file):
            os.chown(path, 0, FREE_GROUP)
    folder.chmod(0o3777)
    version.chmod(0o755)
    file.chmod(0o440)
    (folder / "..data_tmp").symlink_to(version.name)
    (folder / "..data_tmp").rename(folder / "..data")
    if not (folder / name).is_symlink():
        (folder / name).symlink_to(f"..data/{name}")


READ = """
import os, sys
from pathlib import Path
from otahsm.errors import ConfigError
from otahsm.system.trusted_files import own_files
os.setgroups([int(group) for group in sys.argv[3].split(",")])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
try:
    print(own_files().read(Path(sys.argv[1]), secret=True).decode())
except ConfigError as error:
    print(error.message)
"""


def read_as(user: int, groups: str, path: Path) -> str:
    """Read a secret as another user."""
    command = [sys.executable, "-c", READ, str(path), str(user), groups]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that all users can enter; `tmp_path` is in one that they can't."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@ROOT_ONLY
def test_a_secret_that_kubernetes_mounts_is_read_by_its_group_alone(public_folder: Path) -> None:
    secret = public_folder / "secret"
    for content in ("first", "second"):
        kubernetes_secret(secret, "pin", content)
        assert read_as(65_000, str(FREE_GROUP), secret / "pin") == content
    file = secret / "..data/pin"
    file.chmod(0o460)
    assert read_as(65_000, str(FREE_GROUP), secret / "pin").startswith("other users can read")
    file.chmod(0o440)
    os.chown(file, 0, pwd.getpwnam("nobody").pw_gid)  # a user's default group
    nobody = f"{FREE_GROUP},{pwd.getpwnam('nobody').pw_gid}"
    assert read_as(65_000, nobody, secret / "pin").startswith("other users can read")
    os.chown(file, NOBODY, FREE_GROUP)  # who can make it anything
    assert read_as(65_000, str(FREE_GROUP), secret / "pin").startswith("other users can read")


def test_a_credential_of_systemd_s_is_read_whatever_the_mask_of_its_list_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make(tmp_path)
    file.chmod(0o440)
    assert "can read" in refusal(file, secret=True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(file.parent))
    assert own_files().read(file, secret=True) == b"content"
    assert "can read" in refusal(tmp_path / "way/../way/file", secret=True)
    file.chmod(0o442)
    assert "can change" in refusal(file, secret=True)


def test_a_file_that_is_replaced_while_it_is_opened_is_not_read_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make(tmp_path)
    evil = tmp_path / "evil"
    evil.write_text("evil")
    evil.chmod(0o666)
    really_open = os.open

    def swap_and_open(name: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if name == "file":
            evil.rename(file)
        return really_open(name, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swap_and_open)
    assert refusal(file) == f"other users can change [tls] x {file}"


READ_ONLY = """
set -e
mount -t tmpfs -o mode=777 tmpfs "$1"
echo content >"$1/file"
chmod 666 "$1/file"
mount -o remount,bind,ro "$1"
"$2" -c "$3" "$1/file"
mount -o remount,ro "$1"
"$2" -c "$3" "$1/file"
"""
LOOK = """
import sys
from pathlib import Path
from otahsm.errors import ConfigError
from otahsm.system.trusted_files import own_files
try:
    print(own_files().read(Path(sys.argv[1])).decode().strip())
except ConfigError as error:
    print(error.message.split(" /")[0])
"""


@ROOT_ONLY
def test_a_file_system_that_is_read_only_for_all_can_not_be_changed_and_a_mount_alone_can(
    tmp_path: Path,
) -> None:
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(tmp_path), sys.executable, LOOK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("this container can't mount")
    assert done.stdout.splitlines() == ["other users can change the folder", "content"], done.stderr


def test_root_looks_at_files_of_others_without_their_owners(tmp_path: Path) -> None:
    file = make(tmp_path)
    if os.geteuid() == 0:
        os.chown(file, NOBODY, -1)
    assert TrustedFiles(None).read(file, secret=True) == b"content"
    file.chmod(0o602)
    with pytest.raises(ConfigError, match="other users can change"):
        TrustedFiles(None).read(file)


def test_a_folder_may_be_writable_by_the_group_that_is_the_user_s_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make(tmp_path)
    file.parent.chmod(0o775)
    group = file.parent.stat().st_gid
    me, other = (
        pwd.struct_passwd((name, "x", uid, group, "", "/", "/bin/sh"))
        for name, uid in (("me", 65_000), ("other", 65_001))
    )
    reader = TrustedFiles({0, os.geteuid()})  # as this user, whoever the lookups say that it is
    monkeypatch.setattr(os, "geteuid", lambda: 65_000)
    for users, name, members, allowed in (
        ([me], "me", [], True),
        ([me], "me", ["me"], True),
        ([me], "staff", [], False),
        ([me], "me", ["other"], False),
        ([me, other], "me", [], False),
        ([], "me", [], False),
    ):
        monkeypatch.setattr(pwd, "getpwall", lambda users=users: users)
        found = grp.struct_group((name, "x", group, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _, found=found: found)
        if allowed:
            assert reader.read(file) == b"content"
        else:
            with pytest.raises(ConfigError, match="other users can change the folder"):
                reader.read(file)
