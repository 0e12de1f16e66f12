"""Who else may write what the daemon believes, or read what it keeps secret: looked at before it starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from otahsm.config import Config
from otahsm.errors import ConfigError
from otahsm.secret_files import is_private

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_ROOT: Final = 0


class _File(NamedTuple):
    what: str
    path: Path
    secret: bool = False


def check_file_modes(config: Config, path: Path, *, signer: bool = False) -> None:
    """Refuse files that others than root and this user may change, and secrets that others may read.

    Args:
        config: the configuration.
        path: its file.
        signer: whether this is a signer of a daemon that runs as another user.

    Raises:
        ConfigError: the first that is found.
    """
    mine = _of_signers(config, at_socket=True) if signer else _of_daemon(config)
    for problem in _problems(path, mine, {_ROOT, os.geteuid()}):
        raise problem


def find_open_files(config: Config, path: Path) -> Iterator[ConfigError]:
    """Yield what is wrong with the modes and owners of all files that a daemon and its signers use.

    Secrets are for their owner alone, with no exception for a group, whose members no file tells. What
    systemd hands over as a credential is for the service alone whatever its mode says: that is the mask of
    an access list. Nobody but root and this user may own or write anything. Root may look at the daemon of
    another user, and does not know whose files are its own: it looks at modes alone. Files that are missing,
    and the folders above, are not looked at.

    Args:
        config: the configuration.
        path: its file.
    """
    user = os.geteuid()
    files = (*_of_daemon(config), *_of_signers(config, at_socket=True))
    yield from _problems(path, files, None if user == _ROOT else {_ROOT, user})


def _problems(
    configuration: Path, files: Collection[_File], owners: Collection[int] | None
) -> Iterator[ConfigError]:
    for what, path, secret in (_File("the configuration", configuration), *files):
        if _is_credential(path):
            continue
        try:
            status = path.stat()
        except OSError:  # who needs it says so
            continue
        if secret and not is_private(status.st_mode):
            yield ConfigError(f"others than its owner may read {what} {path}", hint=f"chmod 600 {path}")
        elif owners is not None and status.st_uid not in owners:
            yield ConfigError(
                f"{what} {path} belongs to another user, who could change it", hint=f"chown root {path}"
            )
        elif status.st_mode & _OTHERS_WRITE:
            yield ConfigError(f"others than its owner may change {what} {path}", hint=f"chmod go-w {path}")


def _of_daemon(config: Config) -> list[_File]:
    """Return what the process that faces the network uses, and signers that it starts itself."""
    files = []
    if config.tls:
        files += [
            _File("[tls] key", config.tls.key, secret=True),
            _File("[tls] certificate", config.tls.certificate),
            _File("[tls] client_ca", config.tls.client_ca),
        ]
    if config.ledger and config.ledger.password_file:
        files.append(_File("[ledger] password_file", config.ledger.password_file, secret=True))
    if config.ledger and config.ledger.path:
        files.append(_File("[ledger] path", config.ledger.path))
    if config.access:
        files.append(_File("[access] policy", config.access.policy))
        files += [_File("the CRL", crl) for crl in config.access.client_crls]
    for authority in config.all_authorities.values():
        files.append(_File("the CA certificate", authority.certificate))
    return files + _of_signers(config, at_socket=False)


def _of_signers(config: Config, *, at_socket: bool) -> list[_File]:
    """Return what signers use: those at a socket, or those that the daemon starts."""
    files = []
    for token in config.token.all if config.token else ():
        if (token.signer_socket is not None) == at_socket:
            files += [
                _File("the PKCS#11 module", token.module),
                _File("[token] guard_dir", token.guard_dir),
            ]
            if token.pin_source.kind == "file":
                files.append(_File("the PIN file", Path(token.pin_source.value), secret=True))
    return files


def _is_credential(path: Path) -> bool:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.is_relative_to(folder)
