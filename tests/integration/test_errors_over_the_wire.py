"""What the daemon fails with is what its clients fail with: every error, by every method."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from otahsm.client import (
    AuditQuery,
    Batch,
    CertificateRequest,
    Client,
    IdScheme,
    NotRevoked,
    Query,
    Refusal,
    Result,
    ToRevoke,
)
from otahsm.errors import (
    KINDS,
    Code,
    HeldError,
    NotAllowedError,
    OtahsmError,
    QuotaError,
    RequestRefusedError,
    UnknownError,
)
from otahsm.pki.crls.building import Reason
from otahsm.pki.serial import SerialNumber

from support.refusing import RefusingDaemon

HINT = "do this about it"
REQUEST = CertificateRequest(b"csr", "device-1")
TARGETS = [ToRevoke(serial=SerialNumber(1))]
BATCH = Batch("batch-1", 1, IdScheme("uuid4"))


def error_of(kind: type[OtahsmError]) -> OtahsmError:
    """Make one, with all that its class carries."""
    if kind is UnknownError:
        return UnknownError(Code.ABORTED, "TOO_NEW", "the daemon is newer", hint=HINT)
    if issubclass(kind, RequestRefusedError):
        return kind("csr.subject", "it is wrong", hint=HINT)
    if issubclass(kind, QuotaError):
        return kind("it is enough", 2.5, hint=HINT)
    if issubclass(kind, HeldError):
        return kind(17, "reset", datetime(2026, 12, 1, 6, 30, tzinfo=UTC))
    return kind("it failed", hint=HINT)


ERRORS = [error_of(kind) for kind in KINDS.values()]


def facts(error: OtahsmError) -> tuple[object, ...]:
    return (
        type(error),
        error.metadata,
        error.code,
        error.reason,
        error.message,
        error.hint,
        error.exit_code,
        error.violations,
        error.retry_after,
    )


async def drained(items: AsyncIterator[object]) -> None:
    async for _ in items:
        pass


async def refused(asked: Awaitable[Result]) -> None:
    """Raise what a request was refused for: that depends on whether the stream fails before it is read."""
    result = await asked
    assert isinstance(result, Refusal)
    raise result.error


async def endless() -> AsyncIterator[CertificateRequest]:
    while True:
        yield REQUEST


CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "issuance.authority": lambda client: client.issuance.authority(),
    "issuance.profiles": lambda client: client.issuance.profiles(),
    "issuance.reset_device": lambda client: client.issuance.reset_device("device-1"),
    "issuance.issue": lambda client: drained(client.issuance.issue(endless())),
    "issuance.issue_one": lambda client: refused(client.issuance.issue_one(b"csr")),
    "ledger.by_serial": lambda client: client.ledger.by_serial(SerialNumber(1)),
    "ledger.by_device": lambda client: client.ledger.by_device("device-1"),
    "ledger.page": lambda client: client.ledger.page(Query()),
    "ledger.everything": lambda client: drained(client.ledger.everything(Query())),
    "ledger.counts": lambda client: client.ledger.counts(Query()),
    "batches.create": lambda client: client.batches.create(BATCH),
    "batches.get": lambda client: client.batches.get("batch-1"),
    "batches.close": lambda client: client.batches.close("batch-1"),
    "batches.everything": lambda client: drained(client.batches.everything()),
    "revocation.revoke": lambda client: drained(client.revocation.revoke(TARGETS, Reason.SUPERSEDED)),
    "revocation.crl": lambda client: client.revocation.crl(),
    "approvals.held": lambda client: drained(client.approvals.held()),
    "approvals.named": lambda client: drained(client.approvals.named([1])),
    "approvals.confirm": lambda client: client.approvals.confirm(1, bytes(32)),
    "approvals.reject": lambda client: client.approvals.reject(1),
    "access.deny": lambda client: client.access.deny("cn:line-1"),
    "access.allow": lambda client: client.access.allow("cn:line-1"),
    "access.denied": lambda client: client.access.denied(),
    "access.quotas": lambda client: client.access.quotas(),
    "access.reset_quota": lambda client: client.access.reset_quota("line-1"),
    "access.events": lambda client: drained(client.access.events(AuditQuery())),
    "transparency.checkpoint": lambda client: client.transparency.checkpoint(),
    "transparency.prove_inclusion": lambda client: client.transparency.prove_inclusion(SerialNumber(1)),
    "transparency.prove_consistency": lambda client: client.transparency.prove_consistency(1),
}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[RefusingDaemon]:
    async with RefusingDaemon.running(tmp_path) as running:
        yield running


async def test_every_method_of_the_client_is_in_the_table(daemon: RefusingDaemon) -> None:
    async with Client(daemon.address, daemon.tls) as client:
        methods = {
            f"{part}.{name}"
            for part, service in vars(client).items()
            for name, method in inspect.getmembers(service, inspect.isroutine)
            if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)  # it makes calls
            if not (part.startswith("_") or name.startswith("_"))
        }
    assert methods == CALLS.keys()


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_fails_with_the_error_that_the_daemon_fails_with(
    daemon: RefusingDaemon, name: str
) -> None:
    async with Client(daemon.address, daemon.tls, patience=0) as client:
        for error in ERRORS:
            daemon.error = error
            with pytest.raises(OtahsmError) as raised:
                await CALLS[name](client)
            assert facts(raised.value) == facts(error)


@pytest.mark.parametrize("in_items", [True, False])
async def test_a_refused_request_carries_the_error_that_the_daemon_fails_with(
    daemon: RefusingDaemon, *, in_items: bool
) -> None:
    daemon.in_items = in_items
    async with Client(daemon.address, daemon.tls, patience=0) as client:
        for error in ERRORS:
            daemon.error = error
            stream = client.issuance.issue([REQUEST])
            refusal = await anext(stream)
            with contextlib.suppress(type(error)):  # it may end before the source of requests does
                await drained(stream)
            assert isinstance(refusal, Refusal)
            assert facts(refusal.error) == facts(error)
            said = (refusal.code, refusal.reason, refusal.message, refusal.hint, refusal.retry_after)
            assert said == (error.code.name, error.reason, error.message, error.hint, error.retry_after)
            by_policy = isinstance(error, NotAllowedError)
            assert refusal.lasting == (
                error.code in (Code.INVALID_ARGUMENT, Code.ALREADY_EXISTS, Code.PERMISSION_DENIED)
                and not by_policy
            )


async def test_a_target_that_is_not_revoked_carries_the_error_that_the_daemon_fails_with(
    daemon: RefusingDaemon,
) -> None:
    daemon.in_items = True
    async with Client(daemon.address, daemon.tls, patience=0) as client:
        for error in ERRORS:
            daemon.error = error
            (failed,) = [
                item
                async for item in client.revocation.revoke(
                    [ToRevoke(serial=SerialNumber(1))], Reason.SUPERSEDED
                )
            ]
            assert isinstance(failed, NotRevoked)
            assert facts(failed.error) == facts(error)
