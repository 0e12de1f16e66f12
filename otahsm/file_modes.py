"""Who else may write what the daemon believes, or read what it keeps secret: looked at before it starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from otahsm.config import Config
from otahsm.errors import ConfigError
from otahsm.secret_files import is_private

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_ROOT: Final = 0


def check_file_modes(config: Config, path: Path) -> None:
    """Refuse files that others than root and this user may change, and secrets that others may read.

    Raises:
        ConfigError: the first that `find_open_files` finds.
    """
    for problem in find_open_files(config, path):
        raise problem


def find_open_files(config: Config, path: Path) -> Iterator[ConfigError]:
    """Yield what is wrong with the modes and owners of the files that a daemon uses.

    Secrets are for their owner alone, with no exception for a group, whose members no file tells. What
    systemd hands over as a credential is for the service alone whatever its mode says: that is the mask of
    an access list. Nobody but root and this user may own or write anything; for root, who may look at the
    daemon of another user, who owns the configuration may, too. Files that are missing, and the folders
    above, are not looked at.

    Args:
        config: the configuration.
        path: its file.
    """
    owners = {_ROOT, os.geteuid()}
    if os.geteuid() == _ROOT:
        owners.add(path.stat().st_uid)
    for what, secret in _secrets(config):
        if not _is_credential(secret) and (status := _status(secret)) and not is_private(status.st_mode):
            yield ConfigError(f"others than its owner may read {what} {secret}", hint=f"chmod 600 {secret}")
    for what, file in (("the configuration", path), *_secrets(config), *_believed(config)):
        status = _status(file)
        if status is None or _is_credential(file):
            continue
        if status.st_uid not in owners:
            yield ConfigError(
                f"{what} {file} belongs to another user, who could change it", hint=f"chown root {file}"
            )
        elif status.st_mode & _OTHERS_WRITE:
            yield ConfigError(f"others than its owner may change {what} {file}", hint=f"chmod go-w {file}")


def _secrets(config: Config) -> Iterator[tuple[str, Path]]:
    if config.tls:
        yield "[tls] key", config.tls.key
    if config.ledger and config.ledger.password_file:
        yield "[ledger] password_file", config.ledger.password_file
    for token in config.token.all if config.token else ():
        if token.pin_source.kind == "file":
            yield "the PIN file", Path(token.pin_source.value)


def _believed(config: Config) -> Iterator[tuple[str, Path]]:
    if config.tls:
        yield "[tls] certificate", config.tls.certificate
        yield "[tls] client_ca", config.tls.client_ca
    for token in config.token.all if config.token else ():
        yield "the PKCS#11 module", token.module
        yield "[token] guard_dir", token.guard_dir
    for authority in config.all_authorities.values():
        yield "the CA certificate", authority.certificate
    if config.ledger and config.ledger.path:
        yield "[ledger] path", config.ledger.path
    if config.access:
        yield "[access] policy", config.access.policy
        for crl in config.access.client_crls:
            yield "the CRL", crl


def _is_credential(path: Path) -> bool:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.is_relative_to(folder)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # who needs it says so
        return None
