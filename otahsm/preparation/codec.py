"""The requests and responses of preparers, and their encoding as byte strings for the pipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Final, NamedTuple

from otahsm.errors import RequestRefusedError
from otahsm.pki.certificate import Validity, validity_of
from otahsm.pki.serial import SERIAL_BYTES, SerialNumber

_OK: Final = b"ok"
_REFUSED: Final = b"refused"


class Task(NamedTuple):
    """One CSR to prepare a certificate for.

    Attributes:
        milliseconds: the time that the serial number starts with, since the Unix epoch.
    """

    profile: str
    device_id: str
    csr: bytes
    validity: Validity
    milliseconds: int
    attributes: tuple[tuple[str, str], ...] = ()


class Draft(NamedTuple):
    """A certificate ready to be journalled and signed."""

    tbs: bytes
    device_id: str
    spki_sha256: bytes
    serial: SerialNumber


def encode_tasks(tasks: Iterable[Task]) -> list[bytes]:
    """Encode tasks as the parts of a request."""
    parts: list[bytes] = []
    terms = cache(_encode_terms)  # of this request only
    for profile, device_id, csr, validity, milliseconds, attributes in tasks:
        encoded = json.dumps(attributes).encode() if attributes else b""
        parts += (terms(profile, validity, milliseconds), device_id.encode("utf-8", "replace"), csr, encoded)
    return parts


def decode_tasks(parts: Sequence[bytes]) -> Iterator[Task]:
    """Decode the parts of a request."""
    terms = cache(_decode_terms)
    for head, device_id, csr, encoded in _groups(parts, 4):
        profile, validity, milliseconds = terms(head)
        attributes = tuple((name, value) for name, value in json.loads(encoded)) if encoded else ()
        yield Task(profile, device_id.decode(), csr, validity, milliseconds, attributes)


def encode_answer(answer: Draft | RequestRefusedError) -> tuple[bytes, bytes, bytes]:
    """Encode a draft or a refusal."""
    if isinstance(answer, Draft):
        tbs, device_id, spki_sha256, serial = answer
        return _OK + serial.key + spki_sha256, tbs, device_id.encode()
    ((field, message),) = answer.violations
    return _REFUSED + field.encode(), message.encode(), answer.hint.encode()


def decode_answers(parts: Sequence[bytes]) -> list[Draft | RequestRefusedError]:
    """Decode the parts of a response.

    Raises:
        ValueError: they are malformed.
    """
    answers: list[Draft | RequestRefusedError] = []
    hash_at = len(_OK) + SERIAL_BYTES
    for head, second, third in _groups(parts, 3):
        if head.startswith(_OK):
            serial = SerialNumber.from_key(head[len(_OK) : hash_at])
            answers.append(Draft(second, third.decode(), head[hash_at:], serial))
        elif head.startswith(_REFUSED):
            field = head.removeprefix(_REFUSED).decode()
            answers.append(RequestRefusedError(field, second.decode(), hint=third.decode()))
        else:
            raise ValueError("malformed response of a preparer")
    return answers


def _encode_terms(profile: str, validity: Validity, milliseconds: int) -> bytes:
    """Encode what most tasks of a request share."""
    not_before, not_after = (int(moment.timestamp()) for moment in validity)
    return b"%d %d %d " % (not_before, not_after, milliseconds) + profile.encode()


def _decode_terms(terms: bytes) -> tuple[str, Validity, int]:
    not_before, not_after, milliseconds, profile = terms.split(b" ", 3)
    return profile.decode(), validity_of(int(not_before), int(not_after)), int(milliseconds)


def _groups(parts: Sequence[bytes], size: int) -> Iterator[tuple[bytes, ...]]:
    """Split parts into groups of `size`. Raises ValueError if some are left over."""
    return zip(*[iter(parts)] * size, strict=True)
