"""The file of the MAC keys: a line for each, its name and the key in hexadecimal.

The key `used` makes MACs. Besides it, one is only accepted: `next` will be used, `former` was. So a key can
be replaced on several daemons, one after the other.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError
from otahsm.ledger.tree.pending import KEY_BYTES, MacKeys
from otahsm.system.durable import create_file, replace_file
from otahsm.system.secret_files import read_secret_file

_WHAT: Final = "[ledger] key_file"
_USED: Final = "used"
_NEXT: Final = "next"
_FORMER: Final = "former"


def read_mac_keys(config: LedgerConfig) -> MacKeys:
    """Read the MAC keys of a ledger.

    Raises:
        ConfigError: there is no file, others could read it, or it has no keys.
    """
    keys = _read(path_of_key(config))
    return MacKeys(keys[_USED], keys.get(_NEXT) or keys.get(_FORMER))


def create_mac_key(config: LedgerConfig) -> Path:
    """Make a MAC key and its file; return the path. Raises ConfigError: it exists, or can't be written."""
    path = path_of_key(config)
    try:
        create_file(path, _encode({_USED: secrets.token_bytes(KEY_BYTES)}), 0o600)
    except FileExistsError:
        raise ConfigError(f"{_WHAT} {path} exists; nothing was changed") from None
    except OSError as error:
        raise ConfigError(f"can't write {_WHAT} {path}: {error.strerror}") from None
    return path


def replace_mac_key(config: LedgerConfig) -> bool:
    """Take one of two steps to another MAC key: make the next one, or use it if there is one already.

    Returns:
        Whether the next one is used now.

    Raises:
        ConfigError: as `read_mac_keys`, or it can't be written.
    """
    path = path_of_key(config)
    keys = _read(path)
    promoted = _NEXT in keys
    if promoted:
        keys = {_USED: keys[_NEXT], _FORMER: keys[_USED]}
    else:
        keys = {_USED: keys[_USED], _NEXT: secrets.token_bytes(KEY_BYTES)}
    try:
        owner = path.stat()
        replace_file(path, _encode(keys))
        if os.geteuid() == 0:  # the daemon's user must be able to read it still
            os.chown(path, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise ConfigError(f"can't write {_WHAT} {path}: {error.strerror}") from None
    return promoted


def path_of_key(config: LedgerConfig) -> Path:
    """Return the path of the file. Raises ConfigError: none is configured."""
    if config.key_file is None:
        raise ConfigError(
            "[ledger] has no key_file",
            hint='Add the line key_file = "ledger.key". If there is no such file yet, run'
            " `otahsm ledger init-key`.",
        )
    return config.key_file


def _read(path: Path) -> dict[str, bytes]:
    if not path.exists():
        raise ConfigError(
            f"there is no {_WHAT} {path}",
            hint="Copy it from another daemon of this ledger. If there is none, `otahsm ledger init-key`"
            " makes it.",
        )
    lines = read_secret_file(path, f"{_WHAT} {path}").splitlines()
    try:
        pairs = [line.decode().split(" ") for line in lines]
        named = [(name, bytes.fromhex(digits)) for name, digits in pairs]
    except ValueError:  # its message could contain a key
        named = []
    names, lengths = [name for name, _ in named], {len(key) for _, key in named}
    if names not in ([_USED], [_USED, _NEXT], [_USED, _FORMER]) or lengths != {KEY_BYTES}:
        raise ConfigError(
            f"{_WHAT} {path} is damaged: it must have a line `{_USED}` and {2 * KEY_BYTES} hexadecimal"
            f" digits, and perhaps another with `{_NEXT}` or `{_FORMER}`"
        )
    return dict(named)


def _encode(keys: dict[str, bytes]) -> bytes:
    return "".join(f"{name} {key.hex()}\n" for name, key in keys.items()).encode()
