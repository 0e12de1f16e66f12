"""`otahsm.v1.AccessService` and `AuditService`. Thin: `otahsm.authority.denied_clients` decides."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.authority import Denied, EventFilter, Issuance, LedgerQueries
from otahsm.daemon.edge.tls import Context, caller_of
from otahsm.daemon.wire.ledger import microseconds_of, text_of
from otahsm.daemon.wire.paging import numbered_page
from otahsm.v1 import access_pb2, access_pb2_grpc, audit_pb2, audit_pb2_grpc


class AccessService(access_pb2_grpc.AccessServiceServicer):
    """`otahsm.v1.AccessService`."""

    def __init__(self, issuance: Issuance) -> None:
        self._clients = issuance.clients

    async def DenyClient(  # noqa: N802 - the name is the wire's
        self, request: access_pb2.DenyClientRequest, context: Context
    ) -> access_pb2.DenyClientResponse:
        """Cut a client off."""
        wanted = request.client
        denied = await self._clients.deny(wanted.subject, wanted.reason, caller_of(context))
        return access_pb2.DenyClientResponse(client=_message(denied))

    async def AllowClient(  # noqa: N802
        self, request: access_pb2.AllowClientRequest, context: Context
    ) -> access_pb2.AllowClientResponse:
        """Let a client in again."""
        await self._clients.allow(request.subject, caller_of(context))
        return access_pb2.AllowClientResponse()

    async def ListDeniedClients(  # noqa: N802
        self, request: access_pb2.ListDeniedClientsRequest, context: Context
    ) -> access_pb2.ListDeniedClientsResponse:
        """Tell who is cut off."""
        denied = await self._clients.listed()
        return access_pb2.ListDeniedClientsResponse(clients=map(_message, denied))


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """`otahsm.v1.AuditService`.

    Args:
        inspection: where events are read.
    """

    def __init__(self, queries: LedgerQueries) -> None:
        self._queries = queries

    async def ListAuditEvents(  # noqa: N802
        self, request: audit_pb2.ListAuditEventsRequest, context: Context
    ) -> audit_pb2.ListAuditEventsResponse:
        """Return a page of events."""
        return await self._list(request)

    async def _list(self, request: audit_pb2.ListAuditEventsRequest) -> audit_pb2.ListAuditEventsResponse:
        after, size = numbered_page(request.page_token, request.page_size)
        page = await self._queries.events(event_filter_of(request), after, size)
        response = audit_pb2.ListAuditEventsResponse(next_page_token=str(page.next_after), at_end=page.at_end)
        for event in page.events:
            message = response.events.add(
                id=event.id,
                name=event.name,
                client=event.client,
                occurrences=event.occurrences,
                details=event.details,
            )
            message.happen_time.FromMicroseconds(event.happened_at)
        return response


def event_filter_of(request: audit_pb2.ListAuditEventsRequest) -> EventFilter:
    """Read which events are wanted. Raises RequestRefusedError."""
    after, before = (
        microseconds_of(field, getattr(request, field)) if request.HasField(field) else None
        for field in ("happened_after", "happened_before")
    )
    return EventFilter(text_of("name", request.name), text_of("client", request.client), after, before)


def _message(denied: Denied) -> access_pb2.DeniedClient:
    moment = Timestamp()
    moment.FromMicroseconds(denied.at)
    return access_pb2.DeniedClient(
        subject=denied.subject, reason=denied.reason, client=denied.client, deny_time=moment
    )
