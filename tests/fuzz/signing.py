"""Requests to signers: nothing is signed but what the mandate gives, and all of it is written down."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar
from unittest.mock import patch

from cryptography import x509

from otahsm.errors import AuthorityUnusableError, RequestRefusedError
from otahsm.pki.certificate import Binding, assemble
from otahsm.pki.serial import SerialNumber
from otahsm.pki.template import ProfileTemplate, Terms
from otahsm.tlog import Checkpoint
from otahsm.token.desk import codec
from otahsm.token.desk.codec import CertificateToSign, CrlToSign
from otahsm.token.desk.desk import Desk, Key
from otahsm.token.desk.journal import Journal
from otahsm.token.desk.journal_reading import MachineJournal
from otahsm.token.setup import PROBE, CheckpointMandate

from fuzz.draws import Draws
from support.authority import mandate_of
from support.desks import ISSUER, NOW, PROFILES, SECONDS, SPKI, VERIFIER, begin, serial_at

_TEMPLATES: Final = {name: ProfileTemplate(Terms(PROFILES[name], ISSUER, None)) for name in PROFILES}

patch.object(Journal, "_flush_soon", lambda _: None).start()  # a thread for each input would be too many

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Recorder:
    """A key that keeps what it is to sign."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def sign(self, message: bytes) -> bytes:
        self.messages.append(message)
        return sha256(message).digest()


class Session:
    """A session with the key of the CA and that of the log."""

    def __init__(self) -> None:
        self.ca, self.log = Recorder(), Recorder()

    def map(
        self, work: Callable[[Sequence[Key], _Item], _Result], items: Iterable[_Item]
    ) -> Iterator[_Result]:
        return (work([self.ca, self.log], item) for item in items)


def signing(data: bytes) -> None:
    """Ask a signer a few things, one after another."""
    with tempfile.TemporaryDirectory(prefix="otahsm-fuzz-") as folder:
        _ask(Draws(data), Path(folder))


def _ask(draws: Draws, folder: Path) -> None:
    mandate = mandate_of(PROFILES, folder)
    mandate = mandate._replace(checkpoint=CheckpointMandate(mandate.authorities[""].access, VERIFIER))
    session = Session()
    if draws.number(8):  # else neither a CRL nor a checkpoint is signed
        begin(folder)
    desk = Desk(mandate, session, lambda: NOW)
    answers: list[bytes] = []
    for _ in range(1 + draws.number(4)):
        answers += desk.handle(_request(draws))
    signatures = sum(
        len(answer) > 32 and answer.startswith(codec.encode_signature(b"")) for answer in answers
    )
    for message in session.ca.messages:
        _judge(message)
    for message in session.log.messages:
        assert Checkpoint.parse(message).origin == VERIFIER.name
    journal = MachineJournal(folder)
    written = len(list(journal.entries())) + session.ca.messages.count(PROBE)
    assert journal.findings == []
    assert signatures <= written == len(session.ca.messages) + len(session.log.messages)


def _request(draws: Draws) -> list[bytes]:
    """Draw a request: an honest one that something may be wrong with, or any octets."""
    kind = draws.number(5)
    if kind == 0:
        return codec.encode_certificates(
            draws.one_of([*PROFILES, "another"]), [_certificate(draws) for _ in range(1 + draws.number(3))]
        )
    if kind == 1:
        scope = draws.one_of(["", "authorities", "http://crl.example.com/1.crl", draws.text(20)])
        made, ends = (SECONDS + draws.number(1 << 20) - (1 << 19) for _ in range(2))
        entries = draws.octets(29 * draws.number(4)) + draws.octets(draws.number(2))
        return codec.encode_crls("", [CrlToSign(scope, draws.number(1 << 16), made, ends, entries)])
    if kind == 2:
        root = draws.octets(32)
        last = b"%d" % draws.number(3)
        return [codec.CHECKPOINT, last, draws.text(8).encode(), root, *([root] * draws.number(3))]
    if kind == 3:
        return [
            draws.one_of([codec.PROBE, codec.LAST_NUMBERS]),
            *([draws.text(1).encode()] * draws.number(2)),
        ]
    return [draws.octets(draws.number(64)) for _ in range(draws.number(8))] or [b""]


def _certificate(draws: Draws) -> CertificateToSign:
    device_id = draws.one_of(["device-1", draws.text(24)])
    serial = draws.one_of(
        [serial_at(NOW, b"\x80" + draws.octets(13)), SerialNumber.from_key(draws.octets(20))]
    )
    spki = draws.one_of([SPKI, draws.octets(91)])
    attributes = draws.one_of([(), (("plant", draws.text(24)),), ((draws.text(8), "x"),)])
    binding = Binding(device_id, spki)
    try:
        tbs = _TEMPLATES[draws.one_of(list(PROFILES))].fill(serial, binding, attributes)
    except (RequestRefusedError, AuthorityUnusableError, ValueError, OverflowError, OSError):
        tbs = b""
    return CertificateToSign(serial, binding, attributes, sha256(tbs).digest())


def _judge(message: bytes) -> None:
    """Look at what the CA's key was to sign, with a parser that is not ours."""
    if message == PROBE:
        return
    whole = assemble(message, ISSUER.algorithm, b"no signature")
    try:
        crl = x509.load_der_x509_crl(whole)
    except ValueError:
        certificate = x509.load_der_x509_certificate(whole)
    else:
        assert crl.issuer.public_bytes() == ISSUER.subject
        assert crl.next_update_utc is not None
        return
    assert certificate.issuer.public_bytes() == ISSUER.subject
    kinds = {type(extension.value) for extension in certificate.extensions}
    assert x509.BasicConstraints not in kinds
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert not usage.key_cert_sign
    assert not usage.crl_sign
    assert ISSUER.not_before <= certificate.not_valid_before_utc
    assert certificate.not_valid_after_utc <= ISSUER.not_after
