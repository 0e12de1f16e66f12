"""The caller, as its TLS certificate names it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

_FOREVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
_DIGESTS: Final = ("spki", "sha256")
MAX_IDENTITY: Final = 512  # characters: they are in every row and line about the client


def identity_of(kind: str, name: str) -> str:
    """Return the identity that a name in a certificate gives: always printable and short.

    Args:
        kind: "uri", "dns" or "cn".
        name: from the certificate: anything.

    Returns:
        The kind, a colon and the name; of a name that is too long or not printable the SHA-256, under a kind
        of its own. So two of these are never equal, and no policy has one.
    """
    identity = f"{kind}:{name}"
    if len(identity) <= MAX_IDENTITY and identity.isprintable():
        return identity
    return f"{kind}-sha256:{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"


_PIN: Final = "spki:"

_Value = TypeVar("_Value")


def check_identity(text: str, kinds: Sequence[str]) -> str:
    """Return what names a client, a key or a certificate, unchanged.

    Args:
        text: what may be wrong.
        kinds: what it may start with: "uri:", "dns:", "cn:", "spki:", "sha256:".

    Raises:
        ValueError: it is malformed; the message says what is allowed, and follows the name of the value.
    """
    kind, colon, name = text.partition(":")
    if kind + colon not in kinds or not name.strip() or not text.isprintable():
        raise ValueError(
            f"must start with {', '.join(kinds[:-1])} or {kinds[-1]},"
            " as in uri:spiffe://example.org/line/3 or cn:line-3"
        )
    if len(text) > MAX_IDENTITY:
        raise ValueError(f"must have at most {MAX_IDENTITY} characters, not {len(text)}")
    if kind in _DIGESTS and not re.fullmatch("[0-9a-f]{64}", name):
        raise ValueError(f"must have a SHA-256 after {kind}: 64 lower-case hexadecimal digits")
    return text


class Caller(NamedTuple):
    """Who makes a call, by a certificate that TLS has verified.

    Attributes:
        identity: from `identity_of`, or "sha256:" and its certificate's: see `otahsm.daemon.edge.tls`.
        certificate_sha256: the SHA-256 of the certificate in DER.
        spki_sha256: the SHA-256 of its public key (SubjectPublicKeyInfo, in DER).
        not_after: when the certificate expires.
    """

    identity: str
    certificate_sha256: bytes
    spki_sha256: bytes = b""
    not_after: datetime = _FOREVER


class Principal(NamedTuple):
    """The client that a caller is, whichever name its certificate bears.

    Attributes:
        identity: what the ledger and the audit log know it by: "spki:" and the SHA-256 of its key if the
            policy pins that key; otherwise the identity in its certificate.
        name: its name in the policy; "" if the policy does not name it.
    """

    identity: str
    name: str

    def details(self, of: Mapping[str, _Value]) -> dict[str, _Value | str]:
        """Return the details of an audit event, with its name if people can't tell it from its identity."""
        return {**of, "policy_client": self.name} if self.identity.startswith(_PIN) else dict(of)


class Owner(NamedTuple):
    """The client that something in the ledger was written for.

    Attributes:
        client: its `Principal.identity` then; in rows of older versions, the identity in its certificate.
        certificate_sha256: the SHA-256 of its certificate.
        policy_client: its name in the policy then; "" in rows of older versions.
    """

    client: str
    certificate_sha256: bytes
    policy_client: str
