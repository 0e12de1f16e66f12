"""Answers requests for signatures: each by its kind, from the mandate, and in the journal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol, TypeVar

from otahsm.errors import EvidenceError, SigningRefusedError
from otahsm.system.clock import Clock, microseconds, rfc3339, utc_now
from otahsm.tlog.encoding import decode_number
from otahsm.token.desk import checkpoints, codec
from otahsm.token.desk.certificates import Certificates
from otahsm.token.desk.codec import (
    CertificateToSign,
    CrlToSign,
    LastCheckpoint,
    encode_refusal,
    encode_signature,
)
from otahsm.token.desk.crls import Crls
from otahsm.token.desk.journal import Journal, one_line
from otahsm.token.desk.memory import Memory
from otahsm.token.setup import PROBE, Mandate

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Built(NamedTuple):
    """A certificate that is to be signed, its line for the journal, and the answer if it was refused."""

    tbs: bytes
    line: str
    refusal: bytes = b""


class Key(Protocol):
    """A key that is ready to sign."""

    def sign(self, message: bytes) -> bytes:
        """Sign a message; return a signature that verifies."""


class Sessions(Protocol):
    """Sessions with a token, each with all keys in the order of the mandate's."""

    def map(
        self, work: Callable[[Sequence[Key], _Item], _Result], items: Iterable[_Item]
    ) -> Iterator[_Result]:
        """Do something for each item, in a session that is free; yield the results in order."""


class Desk:
    """Answers requests for signatures.

    Args:
        mandate: what may be signed.
        sessions: what signs.
        clock: returns the time.
    """

    def __init__(self, mandate: Mandate, sessions: Sessions, clock: Clock = utc_now) -> None:
        self._mandate = mandate
        self._sessions = sessions
        self._names = list(mandate.authorities)
        self._memory = Memory(mandate.folder)
        self._journal = Journal(mandate.folder)
        self._clock = clock
        self._certificates = Certificates(mandate)
        self._crls = Crls(self._memory, lambda: int(clock().timestamp()))
        self._journal.start()

    def handle(self, request: list[bytes]) -> Iterator[bytes]:
        """Answer a request: one part for each signature that it asks for, in order.

        Each is a signature or a refusal, and in the journal before this ends.

        Raises:
            TokenUnavailableError: the token failed, or the journal can't be written.
            TokenRefusedError: the token refuses.
        """
        kind, *parts = request
        try:
            match kind, parts:
                case codec.PROBE, []:
                    self._journal.touch()
                    yield from self._sessions.map(_probe, [PROBE])
                case codec.CERTIFICATES, [profile, *items]:
                    yield from self._sign_certificates(profile.decode(), codec.decode_certificates(items))
                case codec.CRLS, [authority, *items]:
                    yield from self._sign_crls(authority.decode(), codec.decode_crls(items))
                case codec.CHECKPOINT, [_, _, _, *_]:
                    yield self._sign_checkpoint(parts)
                case codec.LAST_NUMBERS, [authority]:
                    yield self._last_numbers(authority.decode())
                case _:
                    yield self._refuse("a request", "it asks for nothing that is signed here")
        except (ValueError, TypeError, RecursionError, EvidenceError):
            yield self._refuse("a request", "it is malformed")

    def _sign_certificates(self, profile: str, items: Iterable[CertificateToSign]) -> Iterator[bytes]:
        known = self._mandate.profiles.get(profile)
        number = self._names.index(known.authority) if known else 0
        now = microseconds(self._clock()) // 1000
        # All are built before the first is signed: in turns, each would find the processor's caches cold.
        built = [self._built(profile, item, now) for item in items]
        lines = []

        def sign(keys: Sequence[Key], item: _Built) -> bytes:
            return item.refusal or encode_signature(keys[number].sign(item.tbs))

        try:
            for item, answer in zip(built, self._sessions.map(sign, built), strict=True):
                lines.append(item.line)
                yield answer
        finally:
            self._journal.append(lines)

    def _built(self, profile: str, item: CertificateToSign, now: int) -> _Built:
        try:
            tbs = self._certificates.build(profile, item, now)
        except SigningRefusedError as error:
            refusal, line = _refusal(f"certificate {item.serial.hex()}", error)
            return _Built(b"", line, refusal)
        return _Built(tbs, f"certificate {item.serial.key.hex()} {item.tbs_sha256.hex()}")

    def _sign_crls(self, name: str, crls: Sequence[CrlToSign]) -> Iterator[bytes]:
        authority = self._mandate.authorities.get(name)
        if authority is None:
            refusal = self._refuse(f"{len(crls)} CRLs", f"there is no CA {name[:64]!a} that signs")
            yield from [refusal] * len(crls)
            return
        number = self._names.index(name)

        def sign(keys: Sequence[Key], crl: CrlToSign) -> tuple[bytes, str, CrlToSign | None]:
            try:
                tbs = self._crls.build(crl, authority)
            except SigningRefusedError as error:
                return *_refusal(f"CRL {crl.number} of {json.dumps(crl.scope)}", error), None
            facts = f"{authority.issuer.key_identifier.hex()} {crl.number} {sha256(tbs).hexdigest()}"
            signed = f"crl {facts} {json.dumps(crl.scope)}"
            return encode_signature(keys[number].sign(tbs)), signed, crl

        with self._memory.locked():
            if len({crl.scope for crl in crls}) < len(crls):
                raise ValueError("two CRLs of one scope in a request")
            answers = list(self._sessions.map(sign, crls))
            signed = [crl for _, _, crl in answers if crl is not None]
            self._memory.keep_crls(authority.issuer.key_identifier, signed)
            self._journal.append([line for _, line, _ in answers])
        yield from (answer for answer, _, _ in answers)

    def _sign_checkpoint(self, parts: Sequence[bytes]) -> bytes:
        log = self._mandate.checkpoint
        if log is None:
            return self._refuse("a checkpoint", "the configuration has no [checkpoint]")
        vkey, origin = log.verifier_key.vkey, log.verifier_key.name
        with self._memory.locked():
            try:
                last = self._memory.checkpoint(vkey)
                if decode_number(parts[0].decode()) != last.size:
                    return codec.encode_last_checkpoint(last)
                checkpoint = checkpoints.build(origin, parts[1:], last)
            except SigningRefusedError as error:
                answer, line = _refusal("a checkpoint", error)
                self._journal.append([line])
                return answer
            text = checkpoint.encode()
            (signature,) = self._sessions.map(lambda keys, text: keys[-1].sign(text), [text])
            self._memory.keep_checkpoint(vkey, LastCheckpoint(checkpoint.size, checkpoint.root))
            self._journal.append([f"checkpoint {checkpoint.size} {checkpoint.root.hex()} {origin}"])
        return encode_signature(signature)

    def _last_numbers(self, name: str) -> bytes:
        authority = self._mandate.authorities.get(name)
        if authority is None:
            return self._refuse("a CRL number", f"there is no CA {name[:64]!a} that signs")
        with self._memory.locked():
            try:
                last = self._memory.last_crls(authority.issuer.key_identifier)
            except SigningRefusedError as error:
                return encode_refusal(error)
        return codec.encode_last_crls(last)

    def _refuse(self, what: str, why: str) -> bytes:
        answer, line = _refusal(what, SigningRefusedError(why))
        self._journal.append([line])
        return answer


def _probe(keys: Sequence[Key], line: bytes) -> bytes:
    return encode_signature(keys[0].sign(line))


def _refusal(what: str, error: SigningRefusedError) -> tuple[bytes, str]:
    """Return the answer, and the line for the journal."""
    return encode_refusal(error), f"refused {rfc3339(utc_now())} {one_line(what)}: {one_line(error.message)}"
