"""Root and the files of other users: root acts as their owner, or not at all.

Who can write to a file, or to a folder on the way to it, can replace it at any time, also by a link to a file
of root's. So what is in such a folder counts as that user's, whoever owns it now. In a sticky folder (`/tmp`)
only the owner of an entry can replace it.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from otahsm.errors import ConfigError
from otahsm.system.confinement import has_user

_MAX_LINKS: Final = 40


class Owner(NamedTuple):
    """A user, and its groups; `home` is empty for one that no account has."""

    user: int
    group: int
    groups: tuple[int, ...]
    name: str
    home: str


def foreign_owner(path: Path) -> Owner | None:
    """Return the user who can change a path, or where it will be, if this is root and that is another user.

    Users who are not in this user namespace (user_namespaces(7)) don't count.

    Raises:
        ConfigError: there are several such users, or every user is one.
    """
    if os.geteuid() != 0:
        return None
    owners: dict[int, int] = {}
    for place, status in _along(path):
        if _is_for_everyone(status):
            raise ConfigError(
                f"{path} can be changed by every user, through {place}: root does not use it",
                hint=f"chmod go-w {place}",
            )
        owners |= dict.fromkeys(_writers(status), status.st_gid)
    found = {user: group for user, group in owners.items() if user != 0 and has_user(user)}
    if len(found) > 1:
        names = " and ".join(sorted(_owner(user, group).name for user, group in found.items()))
        raise ConfigError(
            f"{path} can be changed by the users {names}: root does not use it",
            hint="Give it, and the folders above it, to one of them, and run the command as that user.",
        )
    return next((_owner(user, group) for user, group in found.items()), None)


def check_owner(path: Path) -> None:
    """Refuse to use the files of another user as root.

    Raises:
        ConfigError: another user can change the path.
    """
    if owner := foreign_owner(path):
        raise ConfigError(
            f"{path} can be changed by the user {owner.name}: root does not use it",
            hint=f"Run the command as that user: sudo -u {owner.name} otahsm ...",
        )


def become_owner(path: Path) -> Owner | None:
    """If this is root, and another user can change a path, become that user for good, and return it.

    Raises:
        ConfigError: several users can change it.
    """
    owner = foreign_owner(path)
    if owner:
        os.setgroups(owner.groups)
        os.setresgid(owner.group, owner.group, owner.group)
        os.setresuid(owner.user, owner.user, owner.user)
        os.environ |= {"HOME": owner.home or "/", "USER": owner.name, "LOGNAME": owner.name}
    return owner


def _along(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield all files, folders and links on the way to a path, with their status; not what does not exist."""
    names = deque(path.absolute().parts[1:])
    here, links = Path("/"), 0
    yield here, here.lstat()
    while names:
        name = names.popleft()
        if name == "..":
            here = here.parent
            continue
        entry = here / name
        try:
            status = entry.lstat()
            target = entry.readlink() if stat.S_ISLNK(status.st_mode) else None
        except OSError:
            return
        yield entry, status
        if target is None:
            here = entry
            continue
        links += 1
        if links > _MAX_LINKS:
            return
        here = Path("/") if target.is_absolute() else here
        names.extendleft(reversed(target.parts[target.is_absolute() :]))


def _is_for_everyone(status: os.stat_result) -> bool:
    mode = status.st_mode
    is_sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
    return bool(mode & stat.S_IWOTH) and not is_sticky and not stat.S_ISLNK(mode)


def _writers(status: os.stat_result) -> set[int]:
    """Return its owner, and who may write to it as a member of its group."""
    mode = status.st_mode
    if not mode & stat.S_IWGRP or stat.S_ISLNK(mode) or (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
        return {status.st_uid}
    try:
        members = set(grp.getgrgid(status.st_gid).gr_mem)
    except KeyError:
        members = set()
    users = pwd.getpwall()
    return {
        status.st_uid,
        *(user.pw_uid for user in users if user.pw_gid == status.st_gid or user.pw_name in members),
    }


def _owner(user: int, group: int) -> Owner:
    try:
        entry = pwd.getpwuid(user)
    except KeyError:
        return Owner(user, group, (group,), f"#{user}", "")
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Owner(user, entry.pw_gid, groups, entry.pw_name, entry.pw_dir)
