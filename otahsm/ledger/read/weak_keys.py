"""Finds certificates in the ledger whose private keys others can compute, by comparing all RSA keys in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from cryptography import x509
from sqlalchemy import Row, select, type_coerce
from sqlalchemy.types import NullType

from otahsm.config import LedgerConfig
from otahsm.ledger.read.snapshot import snapshot
from otahsm.ledger.schema import certificates, intents, revocations
from otahsm.ledger.tree.verdict import MAX_FINDINGS
from otahsm.pki.keytypes.rsa_pool import RsaNumbers, RsaPool, Weakness, rsa_numbers_of
from otahsm.pki.parsing import PARSE_ERRORS
from otahsm.pki.serial import SerialNumber

_PAGE: Final = 1000  # rows fetched at a time


class WeakCertificate(NamedTuple):
    """A certificate that must be revoked: it is valid, and its private key is no secret.

    Attributes:
        serial: its serial number, in hexadecimal.
        why: at least one weakness.
    """

    serial: str
    device_id: str
    client: str
    why: tuple[Weakness, ...]


@dataclass
class KeyVerdict:
    """The result of comparing all RSA keys.

    Attributes:
        certificates: the number of certificates that were read.
        rsa_certificates: the number of those that have an RSA key.
        ca_keys: the number of CA certificates with an RSA key, which were compared too.
        moduli: the number of distinct moduli that were compared.
        to_revoke: the weak certificates that are neither expired nor revoked.
        settled: the number of weak certificates that are expired or revoked.
        weak_cas: the subjects of CAs with a weak key, and why.
        unread: what names the first certificates that can't be read, at most MAX_FINDINGS.
        unread_count: the number of all of them: their keys were not looked at.
    """

    certificates: int = 0
    rsa_certificates: int = 0
    ca_keys: int = 0
    moduli: int = 0
    to_revoke: list[WeakCertificate] = field(default_factory=list)
    settled: int = 0
    weak_cas: dict[str, tuple[Weakness, ...]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    unread_count: int = 0

    @property
    def good(self) -> bool:
        """Whether every key was looked at, and no weak one is in use."""
        return not (self.to_revoke or self.weak_cas or self.unread_count)


def compare_keys(config: LedgerConfig, authorities: Sequence[bytes], now: datetime) -> KeyVerdict:
    """Compare the RSA keys of all certificates in a ledger, whatever their status, and of its CAs.

    Reads the ledger twice, in a snapshot each: once for the keys, and, if some are weak, for who has them.
    No snapshot is open while keys are compared. Memory is needed for each distinct modulus, not for each
    certificate.

    Args:
        config: the ledger.
        authorities: CA certificates in DER, each of which can be read.
        now: the time, with a time zone.

    Raises:
        ConfigError: as `snapshot`.
        LedgerUnavailableError: as `snapshot`.
    """
    verdict, pool = KeyVerdict(), RsaPool()
    cas = [x509.load_der_x509_certificate(der) for der in dict.fromkeys(authorities)]
    keys_of_cas = [(certificate, numbers) for certificate in cas if (numbers := rsa_numbers_of(certificate))]
    for _, numbers in keys_of_cas:
        pool.add_authority(numbers)
    for row in _rows(config):
        read = _read(row.der)
        if read is None:
            verdict.unread_count += 1
            if len(verdict.unread) < MAX_FINDINGS:
                verdict.unread.append(_name(row))
            continue
        verdict.certificates += 1
        if read.numbers is not None:
            verdict.rsa_certificates += 1
            pool.add_device(read.numbers, _text(row.device_id))
    verdict.ca_keys, verdict.moduli = len(keys_of_cas), len(pool)
    weak = pool.find_weak()
    verdict.weak_cas = {
        certificate.subject.rfc4514_string(): weak[numbers.modulus]
        for certificate, numbers in keys_of_cas
        if numbers.modulus in weak
    }
    for row in _rows(config) if weak else ():
        read = _read(row.der)
        if read is None or read.numbers is None or read.numbers.modulus not in weak:
            continue
        if row.revoked is not None or read.certificate.not_valid_after_utc < now:
            verdict.settled += 1
        else:
            why = weak[read.numbers.modulus]
            verdict.to_revoke.append(
                WeakCertificate(_serial(row), _text(row.device_id), _text(row.client), why)
            )
    return verdict


class _Read(NamedTuple):
    certificate: x509.Certificate
    numbers: RsaNumbers | None


def _rows(config: LedgerConfig) -> Iterator[Row[Any]]:
    """Yield all certificates in the order of their recording, also those whose intent somebody removed."""
    query = (
        select(
            certificates.c.intent_id,
            type_coerce(certificates.c.der, NullType()).label("der"),  # as it is: SQLite stores any value
            type_coerce(intents.c.serial, NullType()).label("serial"),
            intents.c.device_id,
            intents.c.client,
            revocations.c.intent_id.label("revoked"),
        )
        .select_from(
            certificates.outerjoin(intents, intents.c.id == certificates.c.intent_id).outerjoin(
                revocations, revocations.c.intent_id == certificates.c.intent_id
            )
        )
        .order_by(certificates.c.intent_id)
    )
    with snapshot(config) as connection:
        yield from connection.execute(query.execution_options(yield_per=_PAGE))


def _read(der: object) -> _Read | None:
    """Read a certificate; None if that is impossible."""
    if not isinstance(der, bytes):
        return None
    try:
        certificate = x509.load_der_x509_certificate(der)
        return _Read(certificate, rsa_numbers_of(certificate))
    except PARSE_ERRORS:
        return None


def _name(row: Row[Any]) -> str:
    return (
        f"the certificate of intent {row.intent_id}, serial number {_serial(row)}, device {row.device_id!a}"
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else "unknown"


def _serial(row: Row[Any]) -> str:
    return SerialNumber.from_key(row.serial).hex() if isinstance(row.serial, bytes) else "unknown"
