"""The leaves of the ledger's log: JSON objects in canonical form (RFC 8785)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from otahsm.errors import EvidenceError

Leaf: TypeAlias = dict[str, str | int | None]

# The kinds of leaves that are about a certificate, which is the member `der`.
CERTIFICATE_KINDS: Final = ("certificate", "certificate-2")


def canonical(value: Mapping[str, Any]) -> str:
    """Encode as canonical JSON (RFC 8785), as far as we need it: members sorted, no spaces."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def parse_leaf(octets: bytes) -> Leaf:
    """Parse a leaf, without verifying that a log contains it.

    Raises:
        EvidenceError: it is not such an object, or not in canonical form (such as with a duplicate member).
    """
    try:
        leaf = json.loads(octets)
    except (ValueError, RecursionError):
        raise EvidenceError("A leaf is not JSON.") from None
    if not isinstance(leaf, dict) or not all(
        value is None or type(value) in (str, int) for value in leaf.values()
    ):
        raise EvidenceError("A leaf is not an object of strings and numbers.")
    if canonical(leaf).encode(errors="replace") != octets:  # UTF-8 can't contain lone surrogates
        raise EvidenceError("A leaf is not in canonical form (RFC 8785).")
    return leaf
