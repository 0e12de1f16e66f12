"""The checks, in their order."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from otahsm.checks import Check, fail, failed, ok, warning
from otahsm.config import Config, files_of_all, files_of_client
from otahsm.doctor.access import examine_access
from otahsm.doctor.authority import examine_authority
from otahsm.doctor.credentials import examine_client, examine_tls
from otahsm.doctor.machine import examine_machine
from otahsm.doctor.signers import examine_memory, examine_signers
from otahsm.errors import ConfigError
from otahsm.ledger import diagnose_ledger
from otahsm.system.file_modes import find_open_files, find_unseen_files
from otahsm.system.owners import foreign_owner

_TOKEN_SECONDS: Final = 120.0


def diagnose(config: Config, path: Path, now: datetime) -> Iterator[Check]:
    """Check everything that a configuration names; yield each result when it is known.

    Missing sections are not checked: a machine has only those that it needs.

    Args:
        config: the configuration.
        path: its file.
        now: the time, with a time zone.
    """
    yield from examine_machine(config)
    yield from _examine_files(config, path)
    if config.token:
        for number in range(len(config.token.all)):
            yield from _examine_token(path, number, config.token.all[number].guard_dir)
        yield from examine_signers(config.token, now)
        if config.ledger:
            yield from examine_memory(config)
    for name, authority in config.all_authorities.items():
        if not authority.retired:
            yield from examine_authority(config, name, authority, now)
    if config.ledger:
        yield from diagnose_ledger(config.ledger, now)
    if config.tls:
        yield from examine_tls(config.tls, now)
    yield from examine_access(config)
    if config.client:
        yield from examine_client(config.client, now)


def _examine_files(config: Config, path: Path) -> Iterator[Check]:
    files = files_of_all(config, path)
    known = {file.path for file in files}
    files += (
        [file for file in files_of_client(config.client) if file.path not in known] if config.client else []
    )
    open_files = list(find_open_files(files))
    for problem in open_files:
        yield failed("file modes", problem)
    unseen = list(find_unseen_files(files))
    for file in unseen:
        yield warning(
            "file modes",
            f"not checked, as this user can't look at {file.what} {file.path}",
            "Run it as root.",
        )
    if not open_files and not unseen:
        yield ok("file modes", "other users can't read secrets or change what the daemon relies on")


def _examine_token(path: Path, number: int, guard_dir: Path) -> Iterator[Check]:
    """Check a token in a separate process: its module may crash or hang. It is that of the guard's owner."""
    subject = "token" if number == 0 else f"token {number + 1}"
    try:
        owner = foreign_owner(guard_dir)
    except ConfigError as problem:
        yield failed(subject, problem)
        return
    user, group, groups = (owner.user, owner.group, owner.groups) if owner else (None, None, None)
    command = (sys.executable, "-P", "-m", "otahsm.token.diagnostics", str(path), str(number), subject)
    try:
        ran = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            timeout=_TOKEN_SECONDS,
            check=False,
            user=user,
            group=group,
            extra_groups=groups,
        )
    except subprocess.TimeoutExpired as error:
        yield from _read(error.stdout or b"")
        yield fail(
            subject,
            f"the PKCS#11 module did not respond within {_TOKEN_SECONDS:g} s",
            "Check the HSM and the network to it; the vendor's own tool should hang, too.",
        )
        return
    yield from _read(ran.stdout)
    if ran.returncode:
        yield fail(
            subject,
            f"the process that loaded the PKCS#11 module crashed with status {ran.returncode}",
            "Report its output above to the HSM's vendor.",
        )


def _read(lines: bytes) -> Iterator[Check]:
    for line in lines.splitlines():
        yield Check(**json.loads(line))
