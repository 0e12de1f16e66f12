"""Page tokens: the start of a page of the ledger, for a filter.

A token is a serial number and the first octets of a SHA-256 over it and the filter, as URL-safe base64. It is
neither secret nor a capability: a forged one only starts elsewhere in what the client may read anyway. The
digest detects tokens that were truncated, changed, or sent with another filter. Tokens don't expire, and
every daemon accepts them.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from otahsm.authority import START, Filter
from otahsm.errors import RequestRefusedError

_DIGEST_OCTETS: Final = 10
_MAX_NUMBER: Final = 18  # digits
_USUAL: Final = 100
_LONGEST: Final = 1000
# Usually (20 + 10) octets in base64; only a tampered row gives tokens of another length.
_FORM: Final = re.compile(r"(?:[A-Za-z0-9_-]{4}){3,1024}(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?")


def page_token(criteria: Filter, after: bytes) -> str:
    """Return the token of the page that starts after the key of a serial number."""
    return urlsafe_b64encode(after + _digest(criteria, after)).decode()


def page_start(criteria: Filter, token: str) -> bytes:
    """Return the key of the serial number after which a page starts; `START` for an empty token.

    Raises:
        RequestRefusedError: the token is invalid, or for another filter.
    """
    if not token:
        return START
    if _FORM.fullmatch(token):
        after = urlsafe_b64decode(token)[:-_DIGEST_OCTETS]
        if page_token(criteria, after) == token:
            return after
    raise RequestRefusedError(
        "page_token",
        "the page token is damaged, or from another request",
        hint="Send it unchanged, with the same filters and order as before; or omit it to start over.",
    )


def numbered_page(token: str, size: int) -> tuple[int, int]:
    """Return the number of the row after which a page starts, and the size of the page.

    Args:
        token: the number, or empty for the first page.
        size: the requested size; 0 for the default.

    Raises:
        RequestRefusedError: the token or the size is invalid.
    """
    if token and not (token.isascii() and token.isdecimal() and len(token) <= _MAX_NUMBER):
        raise RequestRefusedError("page_token", "invalid page token")
    return int(token or 0), page_size(size)


def page_size(asked: int) -> int:
    """Return how long a page is; 0 asks for the usual one. Raises RequestRefusedError."""
    if asked < 0:
        raise RequestRefusedError("page_size", "page_size must not be negative")
    return min(asked or _USUAL, _LONGEST)


def _digest(criteria: Filter, after: bytes) -> bytes:
    # As when a client's own certificates were selected by its identity.
    mine = criteria.owner.identity if criteria.owner else ""
    fields: tuple[object, ...] = tuple(criteria._replace(client=criteria.client or mine))[:-1]
    while fields[-1] == "" or fields[-1] is False:  # as when there was no such field: tokens are for ever
        fields = fields[:-1]
    return hashlib.sha256(after + repr(fields).encode()).digest()[:_DIGEST_OCTETS]
