"""Breaking the glass: who can read the ledger's MAC key, on the CA's host, confirms alone."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from otahsm.ledger.act_values import BreakGlass
from otahsm.ledger.tree.pending import MacKeys

_CONTEXT: Final = b"otahsm break-glass 1\0"
_LENGTH_BYTES: Final = 4
_TIME_BYTES: Final = 8


def break_glass_mac(keys: MacKeys, digest: bytes, glass: BreakGlass) -> bytes:
    """Return the MAC that confirms one act: HMAC-SHA-256 (RFC 2104), 32 octets.

    Args:
        keys: of the ledger.
        digest: of the held act.
        glass: who confirms it, why, and when.
    """
    return _mac(keys.used, digest, glass)


def vouches(keys: MacKeys, digest: bytes, glass: BreakGlass, mac: bytes) -> bool:
    """Return whether a MAC was made with one of the keys, for this act and these words."""
    known = [key for key in (keys.used, keys.accepted) if key is not None]
    return any(hmac.compare_digest(mac, _mac(key, digest, glass)) for key in known)


def _mac(key: bytes, digest: bytes, glass: BreakGlass) -> bytes:
    texts = [digest, glass.user.encode(), glass.reason.encode()]
    parts = [len(text).to_bytes(_LENGTH_BYTES, "big") + text for text in texts]
    at = glass.at.to_bytes(_TIME_BYTES, "big", signed=True)
    return hmac.digest(key, b"".join([_CONTEXT, *parts, at]), sha256)
