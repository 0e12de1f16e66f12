"""What a signer is asked for, and what it answers, as the parts of messages."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from otahsm.errors import NotContinuedError, SigningLateError, SigningRefusedError
from otahsm.pki.certificate import Binding
from otahsm.pki.crls.building import Reason, RevokedCertificate
from otahsm.pki.serial import SERIAL_BYTES, SerialNumber
from otahsm.tlog import EMPTY_ROOT, Checkpoint

CERTIFICATES: Final = b"certificates"
CRLS: Final = b"crls"
CHECKPOINT: Final = b"checkpoint"
LAST_NUMBERS: Final = b"last crl numbers"
PROBE: Final = b"probe"

_SIGNED: Final = b"\x00"
_REFUSED: Final = b"\x01"
_ANOTHER: Final = b"\x02"
_KINDS: Final[Mapping[str, type[SigningRefusedError]]] = {
    kind.reason: kind for kind in (SigningLateError, NotContinuedError)
}
_ENTRY: Final = struct.Struct(f"!{SERIAL_BYTES}sqB")  # serial number, seconds since 1970, reason
ENTRY_OCTETS: Final = _ENTRY.size
MOST_ENTRIES: Final = 1_000_000  # of a CRL: a signer works on it for some seconds
_REASONS: Final = {reason.code: reason for reason in Reason}


class CertificateToSign(NamedTuple):
    """All that a certificate has of its own, and the digest of its TBS as it was journalled."""

    serial: SerialNumber
    binding: Binding
    attributes: tuple[tuple[str, str], ...]
    tbs_sha256: bytes


class CrlToSign(NamedTuple):
    """All that a CRL has of its own.

    Attributes:
        scope: the URL of a shard, or one of the names in `otahsm.pki.crls.distribution`.
        number: the CRL number.
        this_update, next_update: seconds since the Unix epoch.
        entries: the entries, encoded by `encode_entries`.
    """

    scope: str
    number: int
    this_update: int
    next_update: int
    entries: bytes


class LastCrl(NamedTuple):
    """The last CRL of a scope that was signed.

    Attributes:
        number: its number.
        is_forgotten: whether an operator had signers forget the rest, so that the next need not continue it.
    """

    number: int
    is_forgotten: bool = False


class LastCheckpoint(NamedTuple):
    """The last checkpoint that was signed: the number of leaves, and the root. 0 leaves: none was signed."""

    size: int
    root: bytes


NO_CHECKPOINT: Final = LastCheckpoint(0, EMPTY_ROOT)


def encode_certificates(profile: str, items: Iterable[CertificateToSign]) -> list[bytes]:
    """Ask for signatures of certificates of one profile."""
    parts = [CERTIFICATES, profile.encode()]
    for serial, (device_id, spki), attributes, tbs_sha256 in items:
        said = json.dumps(attributes).encode() if attributes else b""
        parts += (serial.key + tbs_sha256, device_id.encode(), spki, said)
    return parts


def decode_certificates(parts: Sequence[bytes]) -> Iterator[CertificateToSign]:
    """Decode certificates, each when it is its turn. Raises ValueError: they are malformed."""
    for head, device_id, spki, said in zip(*[iter(parts)] * 4, strict=True):
        if len(head) != SERIAL_BYTES + 32:
            raise ValueError("a serial number or a digest is missing")
        attributes = tuple((str(name), str(value)) for name, value in json.loads(said)) if said else ()
        serial = SerialNumber.from_key(head[:SERIAL_BYTES])
        yield CertificateToSign(serial, Binding(device_id.decode(), spki), attributes, head[SERIAL_BYTES:])


def encode_crls(authority: str, crls: Iterable[CrlToSign]) -> list[bytes]:
    """Ask for signatures of CRLs of one CA."""
    parts = [CRLS, authority.encode()]
    for *facts, entries in crls:
        parts += (json.dumps(facts).encode(), entries)
    return parts


def decode_crls(parts: Sequence[bytes]) -> list[CrlToSign]:
    """Decode CRLs. Raises ValueError: they are malformed."""
    crls = []
    for facts, entries in zip(*[iter(parts)] * 2, strict=True):
        scope, number, this_update, next_update = json.loads(facts)
        numbers = (number, this_update, next_update)
        if type(scope) is not str or any(type(each) is not int for each in numbers):
            raise ValueError("a CRL has no scope, or no number")
        if len(entries) > MOST_ENTRIES * ENTRY_OCTETS:
            raise ValueError("a CRL has too many entries")
        crls.append(CrlToSign(scope, *numbers, entries))
    return crls


def encode_entries(revoked: Iterable[RevokedCertificate]) -> bytes:
    """Encode the entries of a CRL, each in as many octets."""
    return b"".join(
        _ENTRY.pack(serial.to_bytes(SERIAL_BYTES, "big"), int(revoked_at.timestamp()), reason.code)
        for serial, revoked_at, reason in revoked
    )


def decode_entries(entries: bytes) -> list[RevokedCertificate]:
    """Decode the entries of a CRL. Raises ValueError: they are malformed."""
    try:
        return [
            RevokedCertificate(
                SerialNumber.from_key(serial), datetime.fromtimestamp(seconds, UTC), _REASONS[reason]
            )
            for serial, seconds, reason in _ENTRY.iter_unpack(entries)
        ]
    except (struct.error, KeyError, OverflowError, OSError):
        raise ValueError("an entry of a CRL is malformed") from None


def split_entries(entries: bytes) -> set[bytes]:
    """Return the entries of a CRL, each as its octets."""
    size = _ENTRY.size
    return {entries[at : at + size] for at in range(0, len(entries), size)}


def encode_checkpoint(checkpoint: Checkpoint, last: int, proof: Iterable[bytes]) -> list[bytes]:
    """Ask for the signature of a checkpoint; `proof` is that it continues the last one, of this size."""
    return [CHECKPOINT, b"%d" % last, b"%d" % checkpoint.size, checkpoint.root, *proof]


def encode_last_numbers(authority: str) -> list[bytes]:
    """Ask for the numbers of the CRLs of a CA that were signed last."""
    return [LAST_NUMBERS, authority.encode()]


def encode_last_crls(last: Mapping[str, LastCrl]) -> bytes:
    """Answer with the last CRL of each scope."""
    return encode_signature(json.dumps(last).encode())


def encode_signature(signature: bytes) -> bytes:
    """Answer with a signature."""
    return _SIGNED + signature


def encode_refusal(error: SigningRefusedError) -> bytes:
    """Answer that there will be none, why, and what to do."""
    return _REFUSED + json.dumps([error.reason, error.message, error.hint]).encode()


def encode_last_checkpoint(last: LastCheckpoint) -> bytes:
    """Answer that another checkpoint was signed last."""
    return _ANOTHER + json.dumps([last.size, last.root.hex()]).encode()


def decode_signatures(parts: Sequence[bytes], count: int) -> list[bytes | SigningRefusedError]:
    """Decode the answers to `count` requests. Raises ValueError: they are malformed."""
    if len(parts) != count:
        raise ValueError(f"it returned {len(parts)} answers to {count} requests")
    return [_decode_answer(part) for part in parts]


def decode_checkpoint_answer(parts: Sequence[bytes]) -> bytes | LastCheckpoint:
    """Decode the answer to a checkpoint: a signature, or what was signed last.

    Raises:
        SigningRefusedError: it was refused.
        ValueError: it is malformed.
    """
    (part,) = parts
    if part.startswith(_ANOTHER):
        size, root = json.loads(part[1:])
        return LastCheckpoint(int(size), bytes.fromhex(root))
    return _accepted(part)


def decode_last_crls(parts: Sequence[bytes]) -> dict[str, LastCrl]:
    """Decode the last CRL of each scope. Raises SigningRefusedError; ValueError: it is malformed."""
    (part,) = parts
    last = json.loads(_accepted(part))
    if not isinstance(last, dict):
        raise ValueError("the numbers of CRLs are malformed")  # noqa: TRY004 - as every malformed answer
    return {scope: LastCrl(int(number), bool(forgotten)) for scope, (number, forgotten) in last.items()}


def _accepted(part: bytes) -> bytes:
    answer = _decode_answer(part)
    if isinstance(answer, SigningRefusedError):
        raise answer
    return answer


def _decode_answer(part: bytes) -> bytes | SigningRefusedError:
    if part.startswith(_SIGNED):
        return part[1:]
    if part.startswith(_REFUSED):
        reason, message, hint = json.loads(part[1:])
        kind = _KINDS.get(reason, SigningRefusedError)
        return kind(f"a signer refused: {message}", hint=str(hint))
    raise ValueError("it returned neither a signature nor a refusal")
