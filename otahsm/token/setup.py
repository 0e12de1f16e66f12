"""What a process must know of a token and its keys, and how the daemon tells it to a signer.

Operators' commands take it from the configuration, whose sections have these attributes. A signer that the
daemon starts is told: it loads no configuration, so that it is ready soon.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from otahsm.pkcs11_names import KeyFlaw, Pkcs11Uri
from otahsm.pki.crls.distribution import CrlLocation
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes import MechanismName, PublicKey
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.keytypes.spki import load_public_key
from otahsm.pki.profile import Profile
from otahsm.tlog import VerifierKey

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


class AuthorityMandate(NamedTuple):
    """What the key of a CA signs for.

    Attributes:
        access: the key.
        issuer: the CA certificate.
        crl_seconds: how long a CRL of its may be valid; 0 if it may not sign any.
    """

    access: KeyAccess
    issuer: Issuer
    crl_seconds: int


class ProfileMandate(NamedTuple):
    """What is issued under a profile: by which CA, what, and the CRL that it states; None for none."""

    authority: str
    profile: Profile
    crls: CrlLocation | None


class CheckpointMandate(NamedTuple):
    """What the key of the ledger's log signs for: the log that its verifier key names."""

    access: KeyAccess
    verifier_key: VerifierKey


class Mandate(NamedTuple):
    """All that signers sign. What is not in it, they refuse.

    Attributes:
        authorities: the CAs that are not retired, by name.
        profiles: all profiles, by name.
        checkpoint: the log; None if no checkpoints are made.
        folder: where the signers of this machine keep their journal, and what they signed last.
    """

    authorities: Mapping[str, AuthorityMandate]
    profiles: Mapping[str, ProfileMandate]
    checkpoint: CheckpointMandate | None
    folder: Path

    @property
    def keys(self) -> list[TokenKey]:
        """All keys: those of the CAs in their order, then that of the log."""
        keys = [TokenKey(item.access, item.issuer.public_key) for item in self.authorities.values()]
        if self.checkpoint:
            public_key = load_public_key(self.checkpoint.verifier_key.public_key)
            keys.append(TokenKey(self.checkpoint.access, public_key))
        return keys

    def encode(self) -> list[bytes]:
        """Encode it as parts of a message; equal ones as equal octets."""
        parts = [_json(str(self.folder), len(self.authorities), len(self.profiles))]
        for name, authority in self.authorities.items():
            parts += [_json(name, authority.crl_seconds), _encode_access(authority.access)]
            parts += authority.issuer.encode()
        for name, profile in self.profiles.items():
            parts += [_json(name, profile.authority, profile.crls), profile.profile.encode()]
        if self.checkpoint:
            vkey = self.checkpoint.verifier_key.vkey.encode()
            parts += [_encode_access(self.checkpoint.access), vkey]
        return parts

    @classmethod
    def decode(cls, encoded: Sequence[bytes]) -> Mandate:
        """Return the mandate that was encoded."""
        parts = iter(encoded)
        folder, authorities, profiles = json.loads(next(parts))
        return cls(
            dict(_decode_authority(parts) for _ in range(authorities)),
            dict(_decode_profile(parts) for _ in range(profiles)),
            _decode_checkpoint(parts),
            Path(folder),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 over what may be signed, wherever the folder is: 32 octets."""
        _, *parts = self.encode()
        return sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()


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


def encode_token(token: TokenAccess) -> bytes:
    """Encode a token and how to log in."""
    return _json(str(token.uri), str(token.guard_dir), dict(token.environment), token.sessions)


def decode_token(encoded: bytes) -> TokenAccess:
    """Return the token that was encoded."""
    uri, guard_dir, environment, sessions = json.loads(encoded)
    return _Token(Pkcs11Uri.parse(uri), Path(guard_dir), environment, sessions)


def encode_key(key: TokenKey) -> list[bytes]:
    """Encode a key, as two parts."""
    return [_encode_access(key.access), encode_spki(key.public_key)]


def decode_key(access: bytes, spki: bytes) -> TokenKey:
    """Return the key that was encoded."""
    return TokenKey(_decode_access(access), load_public_key(spki))


def _decode_authority(parts: Iterator[bytes]) -> tuple[str, AuthorityMandate]:
    name, crl_seconds = json.loads(next(parts))
    access = _decode_access(next(parts))
    return name, AuthorityMandate(access, Issuer.decode(next(parts), next(parts), next(parts)), crl_seconds)


def _decode_profile(parts: Iterator[bytes]) -> tuple[str, ProfileMandate]:
    name, authority, location = json.loads(next(parts))
    crls = CrlLocation(*location) if location else None
    return name, ProfileMandate(authority, Profile.decode(next(parts)), crls)


def _decode_checkpoint(parts: Iterator[bytes]) -> CheckpointMandate | None:
    access = next(parts, None)
    if access is None:
        return None
    return CheckpointMandate(_decode_access(access), VerifierKey.parse(next(parts).decode()))


def _encode_access(access: KeyAccess) -> bytes:
    return _json(str(access.key), access.mechanism, sorted(access.accept))


def _decode_access(encoded: bytes) -> KeyAccess:
    key, mechanism, accept = json.loads(encoded)
    return _Key(Pkcs11Uri.parse(key), mechanism, frozenset(accept))


def _json(*values: object) -> bytes:
    return json.dumps(values).encode()
