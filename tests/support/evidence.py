"""A ledger with real certificates and CRLs, whose CA is in memory: what `verify` compares with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from otahsm.ledger import (
    Accepted,
    ComparedCertificates,
    ComparedCrls,
    CrlRow,
    Intent,
    Ledger,
    RevocationRequest,
    StoredCrl,
    Verdict,
    compare_certificates,
    compare_crls,
    snapshot,
)
from otahsm.pki.certificate import Binding, assemble
from otahsm.pki.crls.building import Reason, RevokedCertificate
from otahsm.pki.crls.distribution import AUTHORITIES, BACKDATED, COMPLETE, CrlLocation
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes import KeyType, PrivateKey, generate_key, sign
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import Profile
from otahsm.pki.serial import make_serial
from otahsm.pki.template import ProfileTemplate, Terms

from support.acts import by
from support.attacks.forging import key_of
from support.authority import crl, issuer_of
from support.homes import Home, PostgresHome, ledger_in

ISSUER = issuer_of("ec-p256")
LOCATION = CrlLocation("http://crl.example.com/fleet-{shard}.crl", 2)
SHARDS = LOCATION.urls
NOW = datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
HOUR = 3600
WEEK = 7 * 24 * HOUR
NUMBER = 7
REVOKED = ("device-1", "device-2", "device-3")


@dataclass(frozen=True)
class Certificate:
    """A certificate, and what a ledger says of it."""

    intent: Intent
    der: bytes

    @property
    def url(self) -> str:
        return LOCATION.url(LOCATION.shard_of(self.intent.serial))


def certificate(
    number: int,
    *,
    ca: KeyType = "ec-p256",
    signer: PrivateKey | None = None,
    device_id: str = "",
    spki: bytes = b"",
    at: int = SECONDS,
) -> Certificate:
    """Issue a certificate of a CA; `signer` is another key than the CA's."""
    issuer = issuer_of(ca)
    device_id = device_id or f"device-{number}"
    spki = spki or encode_spki(generate_key("ec-p256").public_key())
    serial = make_serial(b"\xa5" * 13 + bytes([number]), 1000 * at + number)
    terms = Terms(Profile(), issuer, LOCATION if issuer is ISSUER else None)
    tbs = ProfileTemplate(terms).fill(serial, Binding(device_id, spki))
    intent = Intent(
        serial=serial,
        request_id="",
        profile="ota-connect",
        device_id=device_id,
        spki_sha256=sha256(spki).digest(),
        tbs_sha256=sha256(tbs).digest(),
        issuer_key_id=issuer.key_identifier,
        not_before=at - HOUR,
        not_after=at + 365 * 24 * HOUR,
        client="cn:test",
        client_certificate_sha256=bytes(32),
        intended_at=1_000_000 * at,
    )
    return Certificate(intent, assemble(tbs, issuer.algorithm, sign(signer or key_of(ca), tbs)))


def listed(certificates: Sequence[Certificate], at: int = SECONDS) -> list[RevokedCertificate]:
    return [
        RevokedCertificate(item.intent.serial, datetime.fromtimestamp(at, UTC), Reason.SUPERSEDED)
        for item in certificates
    ]


def made(
    scope: str, certificates: Sequence[Certificate], number: int = NUMBER, at: int = SECONDS + HOUR
) -> StoredCrl:
    """Make a CRL, and its row."""
    row = CrlRow(number, at - BACKDATED, at + WEEK, len(certificates))
    this_update, next_update = (datetime.fromtimestamp(seconds, UTC) for seconds in row[1:3])
    der = crl(
        listed(certificates),
        number=number,
        made=this_update,
        life=next_update - this_update,
        url=scope if scope in SHARDS else None,
        only_authorities=scope == AUTHORITIES,
    )
    return StoredCrl(scope, row, der)


async def record(ledger: Ledger, issued: Sequence[Certificate]) -> None:
    answers = await ledger.journal([item.intent for item in issued])
    ids = [answer.intent_id for answer in answers if isinstance(answer, Accepted)]
    await ledger.record(dict(zip(ids, (item.der for item in issued), strict=True)))


async def fill(home: Home, count: int = 8) -> list[Certificate]:
    """Issue certificates, revoke three of them, and make all CRLs an hour later."""
    issued = [certificate(number) for number in range(1, count + 1)]
    ledger = ledger_in(home, ISSUER.key_identifier)
    await ledger.open()
    await ledger.note_crl_urls(ISSUER.key_identifier, SHARDS, complete=False)
    await record(ledger, issued)
    orders = [RevocationRequest(None, name, "", Reason.SUPERSEDED) for name in REVOKED]
    await ledger.acts.revoke(orders, by("cn:test"), 1_000_000 * SECONDS)
    revoked = [item for item in issued if item.intent.device_id in REVOKED]
    for _ in range(NUMBER):
        await ledger.take_crl_number(ISSUER.key_identifier, above=0, earliest=0, now=SECONDS + HOUR)
    by_scope = {shard: [item for item in revoked if item.url == shard] for shard in SHARDS}
    lists = {COMPLETE: revoked, AUTHORITIES: [], **by_scope}
    crls = [made(scope, certificates) for scope, certificates in lists.items()]
    await ledger.write_crls(ISSUER.key_identifier, crls)
    await ledger.close()
    return issued


def octets(home: Home, value: bytes) -> str:
    """Write octets as the database's SQL has them."""
    return f"'\\x{value.hex()}'" if isinstance(home, PostgresHome) else f"x'{value.hex()}'"


def put(home: Home, intent_id: int, der: bytes) -> None:
    home.change(f"UPDATE certificates SET der = {octets(home, der)} WHERE intent_id = {intent_id}")


def look_at_certificates(
    home: Home, issuers: Sequence[Issuer] = (ISSUER,), now: datetime = NOW, processes: int | None = None
) -> tuple[ComparedCertificates, list[str]]:
    """Compare the certificates; return the result, and the findings."""
    verdict = Verdict()
    with snapshot(home.config) as connection:
        result = compare_certificates(connection, issuers, verdict, now, processes=processes)
    return result, [f"{where}: {what}" for where, what in verdict.findings]


def look_at_crls(
    home: Home, issuers: Sequence[Issuer] = (ISSUER,), now: datetime = NOW
) -> tuple[ComparedCrls, list[str]]:
    """Compare the CRLs; return the result, and the findings."""
    verdict = Verdict()
    with snapshot(home.config) as connection:
        result = compare_crls(connection, issuers, verdict, now)
    return result, [f"{where}: {what}" for where, what in verdict.findings]
