"""A network process that was taken over: what it gets of the signers at a socket, as the daemon's user.

python hostile_daemon.py CONFIG    prints a JSON object: what was tried, and what came of it
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from otahsm.config import load_config, section
from otahsm.pki.certificate import Binding
from otahsm.pki.crls.building import Reason, RevokedCertificate
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.serial import SerialNumber, make_serial
from otahsm.pki.template import ProfileTemplate, Terms
from otahsm.system.clock import from_microseconds
from otahsm.tlog import Checkpoint
from otahsm.token.configured import mandate_of
from otahsm.token.desk import codec
from otahsm.token.desk.codec import CertificateToSign, CrlToSign, encode_entries
from otahsm.workers import frames
from otahsm.workers.frames import Kind

CONFIG = load_config(Path(sys.argv[1]))
MANDATE = mandate_of(CONFIG)
SOCKET = str(section(CONFIG.token, "token").signer_socket)
ISSUER = MANDATE.authorities[""].issuer
SPKI = encode_spki(ec.generate_private_key(ec.SECP256R1()).public_key())
NOW = int(time.time())


class Signer:
    """A signer, to which this process says what it likes."""

    def __init__(self, setup: Sequence[bytes]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(SOCKET)
        self._file = self._socket.makefile("rb")
        self.answer: list[bytes] = []
        self.said = self.exchange(Kind.SETUP, setup)

    def exchange(self, kind: Kind, parts: Sequence[bytes]) -> str:
        """Return "signed", "refused", or what else it answers."""
        self._socket.sendall(frames.encode(kind, parts))
        while True:
            head = self._file.read(frames.HEADER.size)
            if len(head) < frames.HEADER.size:
                return "closed"
            header = frames.decode_header(head)
            answer = self.answer = frames.decode_body(header, self._file.read(header.length))
            if header.kind is Kind.PROGRESS:
                continue
            if header.kind is not Kind.RESPONSE:
                return header.kind.name.lower()
            if any(part.startswith(b"\x00") for part in answer):
                return "signed"
            return "refused" if answer else "nothing"

    def last(self) -> int:
        """Return the size of the checkpoint that was signed last."""
        self.exchange(Kind.REQUEST, codec.encode_checkpoint(Checkpoint("x", 1, bytes(32)), 1 << 50, []))
        answer = codec.decode_checkpoint_answer(self.answer)
        assert isinstance(answer, codec.LastCheckpoint)
        return answer.size

    def ask(self, parts: Sequence[bytes]) -> str:
        return self.exchange(Kind.REQUEST, parts)


def values(device_id: str) -> CertificateToSign:
    serial = make_serial(os.urandom(14), time.time_ns() // 1_000_000)
    terms = MANDATE.profiles["ota-connect"]
    tbs = ProfileTemplate(Terms(terms.profile, ISSUER, terms.crls)).fill(serial, Binding(device_id, SPKI))
    return CertificateToSign(serial, Binding(device_id, SPKI), (), sha256(tbs).digest())


def certificate(item: CertificateToSign, profile: str = "ota-connect") -> list[bytes]:
    return codec.encode_certificates(profile, [item])


def crl(number: int, *serials: int, scope: str = "") -> list[bytes]:
    moment = from_microseconds(NOW * 1_000_000)
    entries = [RevokedCertificate(SerialNumber(each), moment, Reason.KEY_COMPROMISE) for each in serials]
    return codec.encode_crls("", [CrlToSign(scope, number, NOW, NOW + 3600, encode_entries(entries))])


def read(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a device, perhaps
            return f"read {len(file.read())} octets"
    except OSError as error:
        return error.strerror or "failed"


def main() -> None:
    honest = [b"0", MANDATE.digest]
    signer = Signer(honest)
    of_another_digest = values("device-1")._replace(tbs_sha256=sha256(b"a sub-CA").digest())
    old = values("device-1")
    old = old._replace(serial=make_serial(os.urandom(14), (NOW - 3600) * 1000))
    asked: dict[str, Callable[[], str]] = {
        # The limit: it may ask for any device that the profiles allow.
        "a certificate of a device": lambda: signer.ask(certificate(values("device-1"))),
        "a CRL with two entries": lambda: signer.ask(crl(1000, 7, 9)),
        "octets": lambda: signer.ask([b"0", b"a TBS of a sub-CA"]),
        "octets in place of the probe": lambda: signer.ask([codec.PROBE, b"a TBS of a sub-CA"]),
        "another TBS": lambda: signer.ask(certificate(of_another_digest)),
        "another profile": lambda: signer.ask(certificate(values("device-1"), "sub-ca")),
        "an id that is no device's": lambda: signer.ask(certificate(values("../gateway"))),
        "a certificate of an hour ago": lambda: signer.ask(certificate(old)),
        "an empty CRL": lambda: signer.ask(crl(1001)),
        "an empty CRL of another spelling": lambda: signer.ask(crl(1001, scope="http://CRL.example.com/x")),
        "an older CRL": lambda: signer.ask(crl(999, 7, 9, 11)),
        "a checkpoint of no tree": lambda: signer.ask(
            codec.encode_checkpoint(Checkpoint("x", 1 << 40, bytes(32)), signer.last(), [])
        ),
        "another configuration": lambda: Signer([b"0", bytes(32)]).said,
        "another token": lambda: Signer([b"7", MANDATE.digest]).said,
        "a token of its own": lambda: Signer([b'["pkcs11:token=x", "/tmp", {}, 1]', *MANDATE.encode()]).said,
        "the PIN": lambda: read("/etc/otahsm/secrets/pin"),
        "the journal": lambda: read("/var/lib/otahsm-signer/login/signed/journal/00000001.log"),
    }
    sys.stdout.write(json.dumps({what: ask() for what, ask in asked.items()}))


if __name__ == "__main__":
    main()
