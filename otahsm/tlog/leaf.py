"""What a leaf of the ledger's log holds: a JSON object in the one encoding of RFC 8785."""

from __future__ import annotations

import json
from typing import TypeAlias

from otahsm.errors import EvidenceError

Leaf: TypeAlias = dict[str, str | int | None]


def parse_leaf(octets: bytes) -> Leaf:
    """Parse a leaf. Whether a log has it is for a proof to say.

    Raises:
        EvidenceError: it is no such object, or not in canonical form: a member may be there twice.
    """
    try:
        leaf = json.loads(octets)
    except (ValueError, RecursionError):
        raise EvidenceError("A leaf is not JSON.") from None
    if not isinstance(leaf, dict) or not all(
        value is None or type(value) in (str, int) for value in leaf.values()
    ):
        raise EvidenceError("A leaf is not an object of strings and numbers.")
    canonical = json.dumps(leaf, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    if canonical.encode(errors="replace") != octets:  # lone surrogates are in no UTF-8
        raise EvidenceError("A leaf is not in canonical form (RFC 8785).")
    return leaf
