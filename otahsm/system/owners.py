"""Root and the files of other users: root acts as their owner, or not at all.

Who owns a file, or a folder above it, can replace it at any time, also by a link to a file of root's. So what
is in such a folder counts as that user's, whoever owns it now.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from otahsm.errors import ConfigError
from otahsm.system.confinement import has_user


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
        ConfigError: there are several such users.
    """
    if os.geteuid() != 0:
        return None
    owners = {status.st_uid: status.st_gid for status in _along(path) if status.st_uid != 0}
    found = {user: group for user, group in owners.items() if has_user(user)}
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


def _along(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of a path and of the folders above it, as it is written and where links lead."""
    for place in {path.absolute(), path.resolve()}:
        for part in (place, *place.parents):
            try:
                yield part.lstat()
            except OSError:
                continue  # it does not exist yet


def _owner(user: int, group: int) -> Owner:
    try:
        entry = pwd.getpwuid(user)
    except KeyError:
        return Owner(user, group, (group,), f"#{user}", "")
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Owner(user, entry.pw_gid, groups, entry.pw_name, entry.pw_dir)
