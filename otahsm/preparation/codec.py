"""What goes to a preparer and what comes back, and how both cross the pipe as byte strings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from otahsm.errors import RequestRefusedError
from otahsm.pki import Validity, validity_of

_OK: Final = b"ok"
_REFUSED: Final = b"refused"
_PARTS: Final = 5  # of a task, and of an answer


class Task(NamedTuple):
    """One CSR to prepare a certificate for."""

    profile: str
    device_id: str
    csr: bytes
    validity: Validity


class Draft(NamedTuple):
    """A certificate ready to be journalled and signed."""

    tbs: bytes
    device_id: str
    spki_sha256: bytes
    serial: int


def encode_tasks(tasks: Iterable[Task]) -> list[bytes]:
    """Turn tasks into the parts of a batch."""
    return [
        part
        for task in tasks
        for part in (
            task.profile.encode(),
            task.device_id.encode("utf-8", "replace"),
            task.csr,
            *(b"%d" % moment.timestamp() for moment in task.validity),
        )
    ]


def decode_tasks(parts: Sequence[bytes]) -> Iterator[Task]:
    """Turn the parts of a batch back into tasks."""
    for profile, device_id, csr, not_before, not_after in _groups(parts):
        yield Task(profile.decode(), device_id.decode(), csr, validity_of(int(not_before), int(not_after)))


def encode_answer(answer: Draft | RequestRefusedError) -> tuple[bytes, ...]:
    """Turn a draft or a refusal into its parts."""
    if isinstance(answer, Draft):
        serial = answer.serial.to_bytes(20, "big")
        return _OK, answer.tbs, answer.device_id.encode(), answer.spki_sha256, serial
    ((field, message),) = answer.violations
    return _REFUSED, field.encode(), message.encode(), answer.hint.encode(), b""


def decode_answers(parts: Sequence[bytes]) -> list[Draft | RequestRefusedError]:
    """Turn the parts of a reply back into drafts and refusals.

    Raises:
        ValueError: they are not what a preparer sends.
    """
    answers: list[Draft | RequestRefusedError] = []
    for kind, *fields in _groups(parts):
        if kind == _OK:
            tbs, device_id, spki_sha256, serial = fields
            answers.append(Draft(tbs, device_id.decode(), spki_sha256, int.from_bytes(serial, "big")))
        elif kind == _REFUSED:
            field, message, hint, _ = (text.decode() for text in fields)
            answers.append(RequestRefusedError(field, message, hint=hint))
        else:
            raise ValueError("a preparer answered nonsense")
    return answers


def _groups(parts: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (parts[start : start + _PARTS] for start in range(0, len(parts), _PARTS))
