"""What the daemon fails with is what its clients fail with: every error, by every method."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from otahsm.client import (
    AccessClient,
    AuditQuery,
    Batch,
    BatchClient,
    CertificateRequest,
    DaemonClient,
    IdScheme,
    IssuingClient,
    LedgerClient,
    NotRevoked,
    Query,
    Refusal,
    RevokingClient,
    ToRevoke,
    TransparencyClient,
)
from otahsm.errors import (
    KINDS,
    Code,
    NotAllowedError,
    OtahsmError,
    QuotaError,
    RequestRefusedError,
    UnknownError,
)
from otahsm.pki import Reason, SerialNumber

from support.refusing import RefusingDaemon

HINT = "do this about it"
REQUEST = CertificateRequest(b"csr", "device-1")
BATCH = Batch("batch-1", 1, IdScheme("uuid4"))


def error_of(kind: type[OtahsmError]) -> OtahsmError:
    """Make one, with all that its class carries."""
    if kind is UnknownError:
        return UnknownError(Code.ABORTED, "TOO_NEW", "the daemon is newer", hint=HINT)
    if issubclass(kind, RequestRefusedError):
        return kind("csr.subject", "it is wrong", hint=HINT)
    if issubclass(kind, QuotaError):
        return kind("it is enough", 2.5, hint=HINT)
    return kind("it failed", hint=HINT)


ERRORS = [error_of(kind) for kind in KINDS.values()]


def facts(error: OtahsmError) -> tuple[object, ...]:
    return (
        type(error),
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


async def endless() -> AsyncIterator[CertificateRequest]:
    while True:
        yield REQUEST


CALLS: dict[str, tuple[type[DaemonClient], Callable[[Any], Awaitable[object]]]] = {
    "authority": (IssuingClient, lambda client: client.authority()),
    "profiles": (IssuingClient, lambda client: client.profiles()),
    "reset_device": (IssuingClient, lambda client: client.reset_device("device-1")),
    "issue": (IssuingClient, lambda client: drained(client.issue(endless()))),
    "by_serial": (LedgerClient, lambda client: client.by_serial(1)),
    "by_device": (LedgerClient, lambda client: client.by_device("device-1")),
    "page": (LedgerClient, lambda client: client.page(Query())),
    "everything": (LedgerClient, lambda client: drained(client.everything(Query()))),
    "counts": (LedgerClient, lambda client: client.counts(Query())),
    "create": (BatchClient, lambda client: client.create(BATCH)),
    "get": (BatchClient, lambda client: client.get("batch-1")),
    "close_batch": (BatchClient, lambda client: client.close_batch("batch-1")),
    "batches": (BatchClient, lambda client: drained(client.everything())),
    "revoke": (
        RevokingClient,
        lambda client: drained(client.revoke([ToRevoke(serial=SerialNumber(1))], Reason.SUPERSEDED)),
    ),
    "crl": (RevokingClient, lambda client: client.crl()),
    "deny": (AccessClient, lambda client: client.deny("cn:line-1")),
    "allow": (AccessClient, lambda client: client.allow("cn:line-1")),
    "denied": (AccessClient, lambda client: client.denied()),
    "events": (AccessClient, lambda client: drained(client.events(AuditQuery()))),
    "checkpoint": (TransparencyClient, lambda client: client.checkpoint()),
    "prove_inclusion": (TransparencyClient, lambda client: client.prove_inclusion(1)),
    "prove_consistency": (TransparencyClient, lambda client: client.prove_consistency(1)),
}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[RefusingDaemon]:
    async with RefusingDaemon.running(tmp_path) as running:
        yield running


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_fails_with_the_error_that_the_daemon_fails_with(
    daemon: RefusingDaemon, name: str
) -> None:
    kind, call = CALLS[name]
    async with kind(daemon.address, daemon.tls, patience=0) as client:
        for error in ERRORS:
            daemon.error = error
            with pytest.raises(OtahsmError) as raised:
                await call(client)
            assert facts(raised.value) == facts(error)


@pytest.mark.parametrize("in_items", [True, False])
async def test_a_refused_request_carries_the_error_that_the_daemon_fails_with(
    daemon: RefusingDaemon, *, in_items: bool
) -> None:
    daemon.in_items = in_items
    async with IssuingClient(daemon.address, daemon.tls, patience=0) as client:
        for error in ERRORS:
            daemon.error = error
            stream = client.issue([REQUEST])
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
    async with RevokingClient(daemon.address, daemon.tls, patience=0) as client:
        for error in ERRORS:
            daemon.error = error
            (failed,) = [
                item async for item in client.revoke([ToRevoke(serial=SerialNumber(1))], Reason.SUPERSEDED)
            ]
            assert isinstance(failed, NotRevoked)
            assert facts(failed.error) == facts(error)
