"""Opens files that a process trusts: nobody else may change them, or read the secret ones.

Whoever can write to a folder can replace what is in it, and whoever can replace a symbolic link says what is
read. So the way to a file is walked folder by folder and link by link, and each is checked as it is opened.
The file is read through the descriptor that was checked. The rules:

- Files, links and folders belong to root or to this user, and no group and no others can write to them. A
  folder may be writable by this user's own group, if it is named like this user and nobody else's (and this
  user is not root): as on machines whose umask is 002.
- In a sticky folder (`/tmp`, a secret that Kubernetes mounts), only the owner of an entry can replace it:
  others may write there if the entry belongs to root or this user.
- What is on a read-only file system can't be changed. A mount that is read-only for this process alone
  (systemd's ProtectSystem=, a container's `:ro`) is none: others may write to the same files elsewhere.
- Only its owner can read a secret. A group may, if the secret is root's, this process is in that group, and
  it is no user's default group and has no other members: as Kubernetes mounts secrets (fsGroup). systemd
  credentials are private to the service, as their folder is, whatever their mode is: it is the mask of an
  access list.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Final

from otahsm.errors import ConfigError

_ROOT: Final = 0
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_MAX_LINKS: Final = 40
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO or a device must not keep us waiting.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class TrustedFiles:
    """Reads and checks files that this process trusts.

    Args:
        owners: the users that may own them; None for any.
    """

    def __init__(self, owners: Collection[int] | None) -> None:
        self._owners = owners

    def read(
        self,
        path: Path,
        what: str = "",
        *,
        hint: str = "Check the path.",
        secret: bool = False,
        limit: int = -1,
    ) -> bytes:
        """Read a file.

        Args:
            path: the file.
            what: its description with its path, for errors; by default, the path.
            hint: what to do if it can't be read.
            secret: whether nobody else may read it.
            limit: the most octets to read; -1 for all.

        Raises:
            ConfigError: it can't be read, or others can change it, or read it if it is secret.
        """
        name = what or str(path)
        try:
            opened = self._open(path, name, _FILE, secret=secret)
            try:
                if not stat.S_ISREG(os.fstat(opened).st_mode):
                    raise ConfigError(f"{name} is not a regular file", hint=hint)
                with os.fdopen(opened, "rb", closefd=False) as file:
                    return file.read(limit)
            finally:
                os.close(opened)
        except OSError as error:
            raise ConfigError(f"can't read {name}: {error.strerror}", hint=hint) from None

    def check(self, path: Path, what: str, *, secret: bool = False) -> None:
        """Check a file or folder that others read or write. Arguments as `read`.

        Raises:
            ConfigError: others can change it, or read it if it is secret.
            OSError: it can't be looked at.
        """
        os.close(self._open(path, what, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, secret=secret))

    def _open(self, path: Path, what: str, flags: int, *, secret: bool) -> int:
        names = deque(path.absolute().parts[1:])
        links = 0
        way = Path("/")
        folder = os.open(way, _FOLDER)
        try:
            while names:
                name = names.popleft()
                entry = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if name != "..":
                    self._check_folder(os.fstat(folder), entry, what, way, name)
                if stat.S_ISLNK(entry.st_mode):
                    links += 1
                    if links > _MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    target = Path(os.readlink(name, dir_fd=folder))
                    if target.is_absolute():
                        names.extendleft(reversed(target.parts[1:]))
                        way, name = Path("/"), "/"
                    else:
                        names.extendleft(reversed(target.parts))
                        continue
                elif not names:
                    opened = os.open(name, flags, dir_fd=folder)
                    try:
                        self._check_file(os.fstat(opened), what, path, secret=secret)
                    except BaseException:
                        os.close(opened)
                        raise
                    return opened
                else:
                    way = way.parent if name == ".." else way / name
                below = os.open(name, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = below
            return os.dup(folder)  # a link to the root folder
        finally:
            os.close(folder)

    def _check_folder(
        self, folder: os.stat_result, entry: os.stat_result, what: str, path: Path, name: str
    ) -> None:
        """Check that nobody else can replace an entry of a folder."""
        by_others = bool(folder.st_mode & _OTHERS_WRITE)
        if by_others and not folder.st_mode & stat.S_IWOTH:
            by_others = not _is_own_group(folder.st_gid)
        if by_others and folder.st_mode & stat.S_ISVTX:
            by_others = False
            if not self._is_owner(entry) and not _is_on_read_only_file_system(folder.st_dev):
                raise ConfigError(
                    f"{path / name} of {what} belongs to another user, who can replace it",
                    hint=f"chown -h root {path / name}",
                )
        self._refuse_others(folder, f"the folder {path} of {what}", path, by_others=by_others)

    def _check_file(self, status: os.stat_result, what: str, path: Path, *, secret: bool) -> None:
        if secret and not _is_secret(status, path):
            raise ConfigError(f"other users can read {what}", hint=f"chmod 600 {path}")
        self._refuse_others(status, what, path, by_others=bool(status.st_mode & _OTHERS_WRITE))

    def _refuse_others(self, status: os.stat_result, what: str, path: Path, *, by_others: bool) -> None:
        is_foreign = not self._is_owner(status)
        if not (by_others or is_foreign) or _is_on_read_only_file_system(status.st_dev):
            return
        if is_foreign:
            raise ConfigError(f"{what} belongs to another user, who can change it", hint=f"chown root {path}")
        raise ConfigError(f"other users can change {what}", hint=f"chmod go-w {path}")

    def _is_owner(self, status: os.stat_result) -> bool:
        return self._owners is None or status.st_uid in self._owners


def own_files() -> TrustedFiles:
    """Return what reads the files of this process: they belong to root or to its user."""
    return TrustedFiles({_ROOT, os.geteuid()})


def files_of_anyone() -> TrustedFiles:
    """Return the same, but for root: it may look at another user's process, and checks no owners."""
    return TrustedFiles(None) if os.geteuid() == _ROOT else own_files()


def _is_secret(status: os.stat_result, path: Path) -> bool:
    mode = status.st_mode
    if not mode & (stat.S_IRWXG | stat.S_IRWXO) or _is_credential(path):
        return True
    if mode & stat.S_IRWXO:
        return False
    is_member = os.geteuid() == _ROOT or status.st_gid in {os.getegid(), *os.getgroups()}
    return status.st_uid == _ROOT and not mode & stat.S_IWGRP and is_member and _is_nobodys(status.st_gid)


def _is_credential(path: Path) -> bool:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and ".." not in path.parts and path.is_relative_to(folder)


def _is_nobodys(group: int) -> bool:
    """Return whether a group is no user's default group, and has no members but root and this user."""
    own = {user.pw_name for user in pwd.getpwall() if user.pw_uid in {_ROOT, os.geteuid()}}
    return all(user.pw_gid != group for user in pwd.getpwall()) and _members_of(group) <= own


def _is_own_group(group: int) -> bool:
    """Return whether a group is this user's default group, named like the user, and nobody else's."""
    users = [user for user in pwd.getpwall() if user.pw_gid == group]
    try:
        is_named = all(user.pw_name == grp.getgrgid(group).gr_name for user in users)
    except KeyError:
        return False
    is_mine = [user.pw_uid for user in users] == [os.geteuid()] != [_ROOT]
    return is_mine and is_named and _members_of(group) <= {user.pw_name for user in users}


def _members_of(group: int) -> set[str]:
    try:
        return set(grp.getgrgid(group).gr_mem)
    except KeyError:
        return set()


def _is_on_read_only_file_system(device: int) -> bool:
    """Return whether a file system is read-only everywhere, not only where this process sees it: proc(5)."""
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    options = [line.split()[-1].split(",") for line in lines if line.split()[2] == name]
    return bool(options) and all("ro" in each for each in options)
