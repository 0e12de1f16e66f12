"""`otahsm.v1.AccessService` and `AuditService`."""

from __future__ import annotations

from otahsm.daemon.edge import Context, caller_of
from otahsm.daemon.services.service import Service
from otahsm.daemon.wire.access import denied_client, event_filter_of, quota_message, write_event
from otahsm.daemon.wire.ledger import text_of
from otahsm.daemon.wire.paging import numbered_page
from otahsm.v1 import access_pb2, access_pb2_grpc, audit_pb2, audit_pb2_grpc


class AccessService(Service, access_pb2_grpc.AccessServiceServicer):
    """`otahsm.v1.AccessService`."""

    async def DenyClient(  # noqa: N802 - the name is the wire's
        self, request: access_pb2.DenyClientRequest, context: Context
    ) -> access_pb2.DenyClientResponse:
        """Deny a client."""
        client = request.client
        denied = await self._authority.deny_client(
            caller_of(context),
            client.subject,
            client.reason,
            allow_unknown_name=request.allow_unknown_name,
            validate_only=request.validate_only,
        )
        return access_pb2.DenyClientResponse(client=denied_client(denied, self._authority.access.policy))

    async def AllowClient(  # noqa: N802
        self, request: access_pb2.AllowClientRequest, context: Context
    ) -> access_pb2.AllowClientResponse:
        """Allow a client again."""
        await self._authority.allow_client(caller_of(context), text_of("subject", request.subject))
        return access_pb2.AllowClientResponse()

    async def ListDeniedClients(  # noqa: N802
        self, request: access_pb2.ListDeniedClientsRequest, context: Context
    ) -> access_pb2.ListDeniedClientsResponse:
        """Return the denied clients."""
        denied = await self._authority.list_denied_clients()
        policy = self._authority.access.policy
        return access_pb2.ListDeniedClientsResponse(clients=(denied_client(item, policy) for item in denied))

    async def GetQuotas(  # noqa: N802
        self, request: access_pb2.GetQuotasRequest, context: Context
    ) -> access_pb2.GetQuotasResponse:
        """Return what clients have used of their quotas."""
        uses = await self._authority.list_quotas(request.policy_client)
        return access_pb2.GetQuotasResponse(quotas=map(quota_message, uses))

    async def ResetQuota(  # noqa: N802
        self, request: access_pb2.ResetQuotaRequest, context: Context
    ) -> access_pb2.ResetQuotaResponse:
        """Reset a client's quotas."""
        use = await self._authority.reset_quota(caller_of(context), request.policy_client)
        return access_pb2.ResetQuotaResponse(quota=quota_message(use))


class AuditService(Service, audit_pb2_grpc.AuditServiceServicer):
    """`otahsm.v1.AuditService`."""

    async def ListAuditEvents(  # noqa: N802
        self, request: audit_pb2.ListAuditEventsRequest, context: Context
    ) -> audit_pb2.ListAuditEventsResponse:
        """Return a page of events."""
        after, size = numbered_page(request.page_token, request.page_size)
        page = await self._authority.list_audit_events(event_filter_of(request), after, size)
        response = audit_pb2.ListAuditEventsResponse(next_page_token=str(page.next_after), at_end=page.at_end)
        for event in page.events:
            write_event(response.events.add(), event)
        return response
