"""The requests and responses of preparers, and their encoding as byte strings for the pipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from otahsm.errors import RequestRefusedError
from otahsm.pki.certificate import Binding
from otahsm.pki.keytypes.spki import type_of_spki
from otahsm.pki.names import common_names
from otahsm.pki.profile import Profile
from otahsm.templates import plain

_OK: Final = b"ok"
_REFUSED: Final = b"refused"
_MAX_TEXT: Final = 1000  # characters


class Task(NamedTuple):
    """One CSR to check.

    Attributes:
        profile: the name of the profile that it is to meet.
        device_id: what its common name must be; empty to accept any.
        csr: the CSR, in DER.
    """

    profile: str
    device_id: str
    csr: bytes


def encode_setup(profiles: Mapping[str, Profile]) -> list[bytes]:
    """Encode profiles, by name, as the parts of a setup message."""
    return [part for name, profile in profiles.items() for part in (name.encode(), profile.encode())]


def decode_setup(parts: Sequence[bytes]) -> dict[str, Profile]:
    """Decode the parts of a setup message."""
    return {name.decode(): Profile.decode(profile) for name, profile in _groups(parts, 2)}


def encode_tasks(tasks: Iterable[Task]) -> list[bytes]:
    """Encode tasks as the parts of a request."""
    parts: list[bytes] = []
    for profile, device_id, csr in tasks:
        parts += (profile.encode(), device_id.encode("utf-8", "replace"), csr)
    return parts


def decode_tasks(parts: Sequence[bytes]) -> Iterator[Task]:
    """Decode the parts of a request."""
    for profile, device_id, csr in _groups(parts, 3):
        yield Task(profile.decode(), device_id.decode(), csr)


def encode_answer(answer: Binding | RequestRefusedError) -> tuple[bytes, bytes, bytes]:
    """Encode what a CSR asks to bind, or a refusal."""
    if isinstance(answer, Binding):
        return _OK, answer.device_id.encode(), answer.spki
    ((field, message),) = answer.violations
    return _REFUSED + field.encode(), message.encode(), answer.hint.encode()


def decode_answers(tasks: Sequence[Task], parts: Sequence[bytes]) -> list[Binding | RequestRefusedError]:
    """Decode the response to tasks: of a process that parsed hostile octets, so it is not believed.

    Raises:
        ValueError: it is malformed, or returns what is not in a CSR. An honest preparer does neither.
    """
    answers: list[Binding | RequestRefusedError] = []
    for task, (head, second, third) in zip(tasks, _groups(parts, 3), strict=True):
        if head == _OK:
            binding = Binding(second.decode(), third)
            _compare(task, binding)
            answers.append(binding)
        elif head.startswith(_REFUSED):
            field = _shown(head.removeprefix(_REFUSED))
            answers.append(RequestRefusedError(field, _shown(second), hint=_shown(third)))
        else:
            raise ValueError("it returned neither what a CSR asks for nor a refusal")
    return answers


def _compare(task: Task, binding: Binding) -> None:
    """Look for a device id and a key among the octets of the CSR that they are said to be from.

    The id must be there as a whole common name, the key as a whole SubjectPublicKeyInfo. Nothing is parsed
    (I8). What remains to a preparer that was taken over is to let a CSR pass whose signature is bad, or which
    breaks another of the rules of `check_csr`.

    Raises:
        ValueError: they are not.
    """
    device_id, spki = binding
    if task.device_id and device_id != task.device_id:
        raise ValueError("it returned another device id than the request names")
    if not any(name in task.csr for name in common_names(device_id)):
        raise ValueError("it returned a device id that the CSR does not contain")
    if type_of_spki(spki) is None or spki not in task.csr:
        raise ValueError("it returned a public key that the CSR does not contain")


def _shown(text: bytes) -> str:
    """Decode a text of a process that may have been taken over: short, and in one line."""
    decoded = text.decode("utf-8", "replace")[:_MAX_TEXT]
    return plain(decoded)[:_MAX_TEXT]


def _groups(parts: Sequence[bytes], size: int) -> Iterator[tuple[bytes, ...]]:
    """Split parts into groups of `size`. Raises ValueError if some are left over."""
    return zip(*[iter(parts)] * size, strict=True)
