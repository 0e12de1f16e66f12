"""A signer's desk without a token, and what an honest daemon asks it for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from otahsm.config.subject import parse_subject
from otahsm.errors import SigningRefusedError
from otahsm.patterns import compile_pattern
from otahsm.pki.certificate import Binding
from otahsm.pki.crls.building import Reason, RevokedCertificate
from otahsm.pki.crls.distribution import BACKDATED, COMPLETE
from otahsm.pki.keytypes import sign
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import Profile
from otahsm.pki.serial import SerialNumber, make_serial
from otahsm.pki.template import ProfileTemplate, Terms
from otahsm.tlog import Checkpoint, VerifierKey, leaf_hash, node_hash, root_of
from otahsm.token.desk import codec
from otahsm.token.desk.codec import (
    NO_CHECKPOINT,
    CertificateToSign,
    CrlToSign,
    LastCheckpoint,
    encode_entries,
)
from otahsm.token.desk.desk import Desk
from otahsm.token.desk.journal import files_of
from otahsm.token.desk.memory import Known, Memory
from otahsm.token.setup import CheckpointMandate, Mandate
from otahsm.token.signer import OneSession

from support.attacks.forging import key_of
from support.authority import issuer_of, mandate_of

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
WEEK = 7 * 86400
ISSUER = issuer_of("ec-p256")
PROFILES = {
    "ota-connect": Profile(device_id=compile_pattern("device-[0-9]+"), key_types=frozenset({"ec-p256"})),
    "named": Profile(subject=parse_subject(["O=Acme", "OU={plant}"])),
}
SPKI = encode_spki(key_of("ec-p256").public_key())
VERIFIER = VerifierKey.from_spki("example.com/log", encode_spki(key_of("ed25519").public_key()))


class SoftKey:
    """A key that is in no token."""

    def __init__(self, name: str) -> None:
        self._key = key_of(name)

    def sign(self, message: bytes) -> bytes:
        return sign(self._key, message)


def begin(folder: Path) -> None:
    """Have the signers of a folder know that neither the CA nor the log has signed anything."""
    Memory(folder).begin(Known({VERIFIER.vkey: NO_CHECKPOINT}, {ISSUER.key_identifier: ()}), "for a test")


@dataclasses.dataclass
class Signer:
    """A desk, with a clock of the test's own."""

    folder: Path
    now: datetime = NOW
    mandate: Mandate = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.mandate = mandate_of(PROFILES, self.folder)._replace(
            checkpoint=CheckpointMandate(mandate_of({}).authorities[""].access, VERIFIER)
        )
        begin(self.folder)
        self.restart()

    def restart(self) -> None:
        session = OneSession([SoftKey("ec-p256"), SoftKey("ed25519")])
        self.desk = Desk(self.mandate, session, lambda: self.now)

    def ask(self, request: Sequence[bytes], count: int = 1) -> list[bytes | SigningRefusedError]:
        return codec.decode_signatures(list(self.desk.handle(list(request))), count)

    def journal(self) -> list[str]:
        folder = self.folder / "journal"
        return [line for path in files_of(folder) for line in path.read_text().splitlines()]

    def refusals(self) -> int:
        return sum(line.startswith("refused ") for line in self.journal())


def serial_at(moment: datetime = NOW, random: bytes = b"\xa5" * 14) -> SerialNumber:
    return make_serial(random, int(moment.timestamp() * 1000))


def values(
    device_id: str = "device-1",
    spki: bytes = SPKI,
    *,
    profile: str = "ota-connect",
    serial: SerialNumber | None = None,
    attributes: tuple[tuple[str, str], ...] = (),
) -> CertificateToSign:
    """What an honest daemon asks for."""
    serial = serial or serial_at()
    template = ProfileTemplate(Terms(PROFILES[profile], ISSUER, None))
    tbs = template.fill(serial, Binding(device_id, spki), attributes)
    return CertificateToSign(serial, Binding(device_id, spki), attributes, sha256(tbs).digest())


def entry(number: int, reason: Reason = Reason.KEY_COMPROMISE, at: datetime = NOW) -> RevokedCertificate:
    return RevokedCertificate(SerialNumber(number), at, reason)


def crl(
    number: int,
    *entries: RevokedCertificate,
    scope: str = COMPLETE,
    this_update: int = SECONDS - BACKDATED,
    next_update: int = SECONDS + WEEK,
) -> CrlToSign:
    return CrlToSign(scope, number, this_update, next_update, encode_entries(entries))


LAST = crl(5, entry(7), entry(9))


def sign_crl(signer: Signer, *crls: CrlToSign, authority: str = "") -> list[bytes | SigningRefusedError]:
    return signer.ask(codec.encode_crls(authority, crls), len(crls))


LEAVES = [leaf_hash(bytes([number])) for number in range(4)]
THREE, FOUR = Checkpoint(VERIFIER.name, 3, root_of(LEAVES[:3])), Checkpoint(VERIFIER.name, 4, root_of(LEAVES))
PROOF = [LEAVES[2], LEAVES[3], node_hash(*LEAVES[:2])]  # RFC 9162, section 2.1.4.1


def sign_checkpoint(
    signer: Signer, checkpoint: Checkpoint, proof: Sequence[bytes] = (), last: int = 0
) -> bytes | LastCheckpoint | SigningRefusedError:
    parts = list(signer.desk.handle(codec.encode_checkpoint(checkpoint, last, proof)))
    try:
        return codec.decode_checkpoint_answer(parts)
    except SigningRefusedError as error:
        return error
