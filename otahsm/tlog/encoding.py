"""The encodings of hashes and numbers in notes, checkpoints and proofs: exactly one per value."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import Final

from otahsm.errors import EvidenceError
from otahsm.tlog.merkle import HASH_BYTES

_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}")


def encode_base64(octets: bytes) -> str:
    """Encode as standard base64 with padding (RFC 4648, section 4)."""
    return b64encode(octets).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Decode what `encode_base64` returns. Raises EvidenceError, also for non-canonical base64."""
    try:
        octets = b64decode(text, validate=True)
    except ValueError:
        octets = None
    if octets is None or encode_base64(octets) != text:
        raise EvidenceError("Invalid base64.")
    return octets


def decode_hash(text: str) -> bytes:
    """Decode the base64 of 32 octets. Raises EvidenceError."""
    octets = decode_base64(text)
    if len(octets) != HASH_BYTES:
        raise EvidenceError(f"A hash has {len(octets)} octets, not {HASH_BYTES}.")
    return octets


def decode_number(text: str) -> int:
    """Decode an ASCII decimal without leading zeros, of at most 19 digits. Raises EvidenceError."""
    # The length is limited first: `int` takes quadratic time.
    if not _DECIMAL.fullmatch(text):
        raise EvidenceError("Invalid size or index.")
    return int(text)
