"""The cycle without a network: a real ledger, real preparers, real signers, and a clock of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from cryptography import x509

from otahsm.authority import Caller, CertificateAuthority, IssuanceRequest, Issued, assemble
from otahsm.errors import AuthorityUnusableError, OtahsmError
from otahsm.ledger import LedgerReader
from otahsm.system.clock import microseconds

from support.clocks import clock_of_signers
from support.devices import new_request
from support.harness import Fleet
from support.ledger_reader import rows

CALLER = Caller("cn:quickstart", bytes(32))


def order() -> IssuanceRequest:
    request = new_request()
    return IssuanceRequest(CALLER, "", "", request.device_id, request.csr)


@asynccontextmanager
async def authority_at(fleet: Fleet, now: datetime) -> AsyncIterator[CertificateAuthority]:
    problems: list[OtahsmError | None] = []
    with clock_of_signers(now, fleet.folder) as clock:
        authority = assemble(fleet.config, lambda *event: problems.append(event[2]), clock=clock)
        await authority.life.start()
        try:
            await authority.life.wait_until_serving()
            yield authority
        finally:
            await authority.life.close(30)


def root_of(fleet: Fleet) -> x509.Certificate:
    return x509.load_pem_x509_certificate(fleet.root_pem.read_bytes())


async def test_a_certificate_begins_before_now_and_ends_after_its_days(fleet: Fleet) -> None:
    now = datetime(2030, 6, 1, 12, 0, 0, 987654, tzinfo=UTC)
    async with authority_at(fleet, now) as authority:
        (outcome,) = await authority.issue(CALLER, [order()])
    assert isinstance(outcome, Issued)
    certificate = x509.load_der_x509_certificate(outcome.certificate)
    assert certificate.not_valid_before_utc == datetime(2030, 6, 1, 11, 0, 0, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(2031, 6, 1, 12, 0, 0, tzinfo=UTC)
    assert outcome.validity == (certificate.not_valid_before_utc, certificate.not_valid_after_utc)


async def test_one_clock_tells_the_time_to_everything_that_is_written_of_a_certificate(fleet: Fleet) -> None:
    now = datetime(2030, 6, 1, 12, 0, 0, 987654, tzinfo=UTC)
    async with authority_at(fleet, now) as authority:
        (outcome,) = await authority.issue(CALLER, [order()])
        assert isinstance(outcome, Issued)
    milliseconds = microseconds(now) // 1000
    assert outcome.serial.milliseconds == milliseconds
    assert fleet.config.ledger is not None
    reader = LedgerReader(fleet.config.ledger)
    entry = reader.by_serial(outcome.serial)
    reader.close()
    assert entry is not None
    assert (entry.intended_at, entry.recorded_at) == (1000 * milliseconds, microseconds(now))


async def test_a_certificate_never_outlives_its_issuer(fleet: Fleet) -> None:
    root = root_of(fleet)
    async with authority_at(fleet, root.not_valid_after_utc - timedelta(days=10)) as authority:
        (outcome,) = await authority.issue(CALLER, [order()])
    assert isinstance(outcome, Issued)
    assert outcome.validity.not_after == root.not_valid_after_utc


async def test_a_certificate_never_begins_before_its_issuer(fleet: Fleet) -> None:
    root = root_of(fleet)
    async with authority_at(fleet, root.not_valid_before_utc) as authority:
        (outcome,) = await authority.issue(CALLER, [order()])
    assert isinstance(outcome, Issued)
    assert outcome.validity.not_before == root.not_valid_before_utc


async def test_a_ca_that_has_ended_issues_nothing_and_leaves_no_trace(fleet: Fleet) -> None:
    async with authority_at(fleet, root_of(fleet).not_valid_after_utc + timedelta(seconds=1)) as authority:
        outcomes = await authority.issue(CALLER, [order(), order()])
    assert all(isinstance(outcome, AuthorityUnusableError) for outcome in outcomes)
    assert rows(fleet) == []


async def test_a_clock_that_jumps_back_before_the_ca_is_named(fleet: Fleet) -> None:
    async with authority_at(fleet, datetime(1970, 1, 1, tzinfo=UTC)) as authority:
        (outcome,) = await authority.issue(CALLER, [order()])
    assert isinstance(outcome, AuthorityUnusableError)
    assert "1970-01-01" in outcome.message
    assert "clock" in outcome.hint
