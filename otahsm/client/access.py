"""Cuts clients off at a daemon, and reads its audit trail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import grpc

from otahsm.client.asking import DaemonClient
from otahsm.v1 import access_pb2, access_pb2_grpc, audit_pb2, audit_pb2_grpc

_SECONDS: Final = 30.0
_PAGE: Final = 1000
_FOLLOW_SECONDS: Final = 1.0


class DeniedClient(NamedTuple):
    """Somebody who is cut off: whom, why, who said so, and since when."""

    subject: str
    reason: str
    client: str
    since: datetime

    @classmethod
    def from_message(cls, message: access_pb2.DeniedClient) -> DeniedClient:
        """Read it from the wire."""
        return cls(message.subject, message.reason, message.client, message.deny_time.ToDatetime(tzinfo=UTC))


class AuditEvent(NamedTuple):
    """Something that happened; `details` is a JSON object."""

    id: int
    at: datetime
    name: str
    client: str
    occurrences: int
    details: str

    @classmethod
    def from_message(cls, message: audit_pb2.AuditEvent) -> AuditEvent:
        """Read it from the wire."""
        return cls(
            message.id,
            message.happen_time.ToDatetime(tzinfo=UTC),
            message.name,
            message.client,
            message.occurrences,
            message.details,
        )


class AuditQuery(NamedTuple):
    """Which events are wanted; a name that ends in a dot stands for all that begin with it."""

    name: str = ""
    client: str = ""
    after: datetime | None = None
    before: datetime | None = None

    def message(self) -> audit_pb2.ListAuditEventsRequest:
        """Write it for the wire."""
        message = audit_pb2.ListAuditEventsRequest(name=self.name, client=self.client, page_size=_PAGE)
        if self.after is not None:
            message.happened_after.FromDatetime(self.after)
        if self.before is not None:
            message.happened_before.FromDatetime(self.before)
        return message


class AccessClient(DaemonClient):
    """A client that cuts others off, and reads the audit trail; see `DaemonClient`.

    Every method raises OtahsmError: the daemon can't be reached or refuses.
    """

    async def deny(self, subject: str, reason: str = "") -> DeniedClient:
        """Cut off a client ("uri:", "dns:", "cn:"), a key ("spki:") or a certificate ("sha256:").

        Raises:
            RequestRefusedError: the subject is none of these.
            NotAllowedError: this client may not.
        """
        wanted = access_pb2.DeniedClient(subject=subject, reason=reason)
        request = access_pb2.DenyClientRequest(client=wanted)
        response: access_pb2.DenyClientResponse = await self._access(lambda stub: stub.DenyClient, request)
        return DeniedClient.from_message(response.client)

    async def allow(self, subject: str) -> None:
        """Let somebody in again.

        Raises:
            NotFoundError: it is not cut off.
            NotAllowedError: this client may not.
        """
        await self._access(lambda stub: stub.AllowClient, access_pb2.AllowClientRequest(subject=subject))

    async def denied(self) -> list[DeniedClient]:
        """Return everybody who is cut off by an operator."""
        request = access_pb2.ListDeniedClientsRequest()
        response: access_pb2.ListDeniedClientsResponse = await self._access(
            lambda stub: stub.ListDeniedClients, request
        )
        return [DeniedClient.from_message(item) for item in response.clients]

    async def events(self, query: AuditQuery, *, follow: bool = False) -> AsyncGenerator[AuditEvent, None]:
        """Yield events, the earlier first; with `follow`, go on with what comes, until it is stopped."""
        request = query.message()
        while True:
            response: audit_pb2.ListAuditEventsResponse = await self._call(
                lambda channel: audit_pb2_grpc.AuditServiceStub(channel).ListAuditEvents, request
            )
            for message in response.events:
                yield AuditEvent.from_message(message)
            request.page_token = response.next_page_token
            if response.at_end:
                if not follow:
                    return
                await asyncio.sleep(_FOLLOW_SECONDS)

    async def _access(self, method: Callable[[Any], Any], request: object) -> Any:
        return await self._call(lambda channel: method(access_pb2_grpc.AccessServiceStub(channel)), request)

    async def _call(self, method: Callable[[grpc.aio.Channel], Any], request: object) -> Any:
        async def call(channel: grpc.aio.Channel, seconds: float) -> Any:
            return await method(channel)(request, timeout=seconds)

        return await self._ask(call, seconds=_SECONDS)
