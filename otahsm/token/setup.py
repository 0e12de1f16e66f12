"""What a process must know of a token and its keys, and how the daemon tells it to a signer.

Operators' commands take it from the configuration, whose sections have these attributes. A signer is told: it
loads no configuration, so that it is ready soon.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from otahsm.pkcs11_names import KeyFlaw, Pkcs11Uri
from otahsm.pki.keytypes import MechanismName, PublicKey
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.keytypes.spki import load_public_key

# Signed when a session is new, and when it was idle for a while. It is no certificate and can't be one.
PROBE: Final = b"otahsm probe: a signature over this line shows that the key can sign, and nothing else"


class TokenAccess(Protocol):
    """A token, and how to log in."""

    @property
    def uri(self) -> Pkcs11Uri:
        """Which token, its module and its PIN."""

    @property
    def guard_dir(self) -> Path:
        """The folder of its login guard."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What the module reads from the environment."""

    @property
    def sessions(self) -> int:
        """How many signatures a process makes at once."""


class KeyAccess(Protocol):
    """A key in a token, and how to sign with it."""

    @property
    def key(self) -> Pkcs11Uri:
        """Which key."""

    @property
    def mechanism(self) -> MechanismName | None:
        """How it signs; None to choose."""

    @property
    def accept(self) -> frozenset[KeyFlaw]:
        """The flaws that are accepted."""


class TokenKey(NamedTuple):
    """A key in the token: which one it is, and what its signatures must verify with."""

    access: KeyAccess
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class _Token:
    uri: Pkcs11Uri
    guard_dir: Path
    environment: Mapping[str, str]
    sessions: int


@dataclass(frozen=True, slots=True)
class _Key:
    key: Pkcs11Uri
    mechanism: MechanismName | None
    accept: frozenset[KeyFlaw]


def encode_setup(token: TokenAccess, keys: Sequence[TokenKey]) -> list[bytes]:
    """Return the first message to a signer: everything that it needs to know.

    Returns:
        The token as JSON, then for each key its access as JSON, and its SubjectPublicKeyInfo in DER.
    """
    setup = [_json(str(token.uri), str(token.guard_dir), dict(token.environment), token.sessions)]
    for access, public_key in keys:
        setup.append(_json(str(access.key), access.mechanism, list(access.accept)))
        setup.append(encode_spki(public_key))
    return setup


def decode_setup(setup: Sequence[bytes]) -> tuple[TokenAccess, list[TokenKey]]:
    """Return what `encode_setup` was given."""
    token, *parts = setup
    uri, guard_dir, environment, sessions = json.loads(token)
    keys = []
    for part, spki in zip(parts[::2], parts[1::2], strict=True):
        key, mechanism, accept = json.loads(part)
        access = _Key(Pkcs11Uri.parse(key), mechanism, frozenset(accept))
        keys.append(TokenKey(access, load_public_key(spki)))
    return _Token(Pkcs11Uri.parse(uri), Path(guard_dir), environment, sessions), keys


def _json(*values: object) -> bytes:
    return json.dumps(values).encode()
