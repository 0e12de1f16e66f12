"""Page tokens: where a page of the ledger begins, and of which question.

A token is a serial number and the first octets of a SHA-256 over it and the filter, as URL-safe base64. It
is no secret and gives no right: who makes one up can only begin somewhere else in what may be read anyway.
The digest finds what was cut, altered, or sent with another filter. Every daemon understands it, for ever.
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
# Of (20 + 10) octets, in base64; only a row that somebody else wrote, and that is listed too, makes others.
_FORM: Final = re.compile(r"(?:[A-Za-z0-9_-]{4}){3,1024}(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?")


def page_token(criteria: Filter, after: bytes) -> str:
    """Write the token of the page that begins after the key of a serial number."""
    return urlsafe_b64encode(after + _digest(criteria, after)).decode()


def page_start(criteria: Filter, token: str) -> bytes:
    """Return the key of the serial number after which a page begins; the first one for an empty token.

    Raises:
        RequestRefusedError: it is no token, or one for another filter.
    """
    if not token:
        return START
    if _FORM.fullmatch(token):
        after = urlsafe_b64decode(token)[:-_DIGEST_OCTETS]
        if page_token(criteria, after) == token:
            return after
    raise RequestRefusedError(
        "page_token",
        "the page token is damaged, or another request's",
        hint="Send it as it came, with the same fields as before; or omit it to start over.",
    )


def numbered_page(token: str, size: int) -> tuple[int, int]:
    """Read after which row a page begins, and how long it is, where rows have numbers.

    Args:
        token: the number, or empty for the first page.
        size: as it was asked for; 0 for the usual one.

    Raises:
        RequestRefusedError: one of them is none.
    """
    if token and not (token.isascii() and token.isdecimal() and len(token) <= _MAX_NUMBER):
        raise RequestRefusedError("page_token", "invalid page token")
    return int(token or 0), page_size(size)


def page_size(asked: int) -> int:
    """Return how long a page is; 0 asks for the usual one. Raises RequestRefusedError."""
    if asked < 0:
        raise RequestRefusedError("page_size", "a page has no negative size")
    return min(asked or _USUAL, _LONGEST)


def _digest(criteria: Filter, after: bytes) -> bytes:
    fields: tuple[object, ...] = tuple(criteria)
    while fields[-1] == "" or fields[-1] is False:  # as when there was no such field: tokens are for ever
        fields = fields[:-1]
    return hashlib.sha256(after + repr(fields).encode()).digest()[:_DIGEST_OCTETS]
