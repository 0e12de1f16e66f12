"""The client of a daemon: one connection, and a part for each of its services."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from otahsm.client.access import AccessClient
from otahsm.client.approvals import ApprovalClient
from otahsm.client.batches import BatchClient
from otahsm.client.calls import Calls
from otahsm.client.connection import ClientTls
from otahsm.client.issuance import IssuanceClient
from otahsm.client.ledger import LedgerClient
from otahsm.client.replicas import Replicas
from otahsm.client.revocation import RevocationClient
from otahsm.client.rpc_errors import from_rpc
from otahsm.client.transparency import TransparencyClient

_PAUSE: Final = 0.1
_HEALTH_SECONDS: Final = 5.0


class Client:
    """A client of one daemon, or of several that share a ledger. Use it as an asynchronous context manager.

    Args:
        targets: the daemon's address, `host:port`, or the addresses of several. A host may be a name with
            several addresses. A daemon's TLS certificate must be valid for the host in its own address.
            Daemons that can't sign or be reached are skipped; their unanswered requests are sent to others.
        tls: the operator CA, and this client's certificate and key.
        patience: for how many seconds without any progress temporary failures are retried.
        trust_anchors: the fleet's root certificates in DER. Certificates that don't lead to one of them are
            refused. Without them, those that the daemon names first are used: a daemon that lies from the
            beginning is not noticed.

    Attributes:
        issuance: issues certificates; lists CAs and profiles.
        ledger: queries the ledger.
        batches: creates, reads and closes batches.
        revocation: revokes certificates, and fetches CRLs.
        access: denies clients, and reads the audit log.
        approvals: lists, confirms and rejects held acts.
        transparency: fetches checkpoints and proofs.

    Raises:
        ConfigError: a TLS file can't be read, there is no target, or a trust anchor is not a root.
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        tls: ClientTls,
        *,
        patience: float = 30.0,
        trust_anchors: Sequence[bytes] = (),
    ) -> None:
        self._replicas = Replicas([targets] if isinstance(targets, str) else targets, tls)
        calls = Calls(self._replicas, patience)
        self.issuance = IssuanceClient(calls, trust_anchors)
        self.ledger = LedgerClient(calls)
        self.batches = BatchClient(calls)
        self.revocation = RevocationClient(calls)
        self.access = AccessClient(calls)
        self.approvals = ApprovalClient(calls)
        self.transparency = TransparencyClient(calls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._replicas.close()

    async def wait_until_serving(self, seconds: float) -> bool:
        """Wait up to `seconds` for a daemon that can sign; return whether there is one.

        Raises:
            OtahsmError: the daemon can't be reached, or refuses this client.
        """
        deadline = time.monotonic() + seconds
        while True:
            target, channel = await self._replicas.choose()
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            try:
                response = await check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS)
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    return True
                if time.monotonic() >= deadline:
                    return False
            except grpc.aio.AioRpcError as error:
                if time.monotonic() >= deadline:
                    raise from_rpc(error, target) from None
            await asyncio.sleep(_PAUSE)
