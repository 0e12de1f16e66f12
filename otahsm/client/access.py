"""Denied clients and quotas of a daemon, and its audit log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Final, NamedTuple

from otahsm.client.calls import Calls, Service
from otahsm.client.moments import moment_of
from otahsm.v1 import access_pb2, access_pb2_grpc, audit_pb2, audit_pb2_grpc

_SECONDS: Final = 30.0
_PAGE: Final = 1000
_FOLLOW_SECONDS: Final = 1.0


class DeniedClient(NamedTuple):
    """A denied subject, the reason, the client that denied it, and since when (UTC).

    Attributes:
        policy_client: the client of the daemon's policy that has this name or key; "" if none has.
        policy_identity: the identity by which it has it.
    """

    subject: str
    reason: str
    client: str
    since: datetime
    policy_client: str = ""
    policy_identity: str = ""

    @classmethod
    def from_message(cls, message: access_pb2.DeniedClient) -> DeniedClient:
        """Return the value of a message."""
        since = moment_of(message.deny_time)
        reached = message.policy_client, message.policy_identity
        return cls(message.subject, message.reason, message.client, since, *reached)


class ClientQuota(NamedTuple):
    """What a client of the policy has used of its quotas, on all daemons.

    Attributes:
        client: its name in the policy.
        total, day: how many certificates it has had in total, and today (UTC), while it had quotas.
        total_limit, day_limit, second_limit: how many it may have; None for no limit.
        available_now: how many the quota per second allows now; None without one.
    """

    client: str
    total: int
    day: int
    total_limit: int | None
    day_limit: int | None
    second_limit: int | None
    available_now: int | None

    @classmethod
    def from_message(cls, message: access_pb2.ClientQuota) -> ClientQuota:
        """Return the value of a message."""
        return cls(
            message.policy_client,
            message.total_count,
            message.day_count,
            message.total_limit if message.HasField("total_limit") else None,
            message.day_limit if message.HasField("day_limit") else None,
            message.second_limit if message.HasField("second_limit") else None,
            message.available_now_count if message.HasField("available_now_count") else None,
        )


class AuditEvent(NamedTuple):
    """An event of the audit log; `details` is a JSON object."""

    id: int
    at: datetime
    name: str
    client: str
    occurrences: int
    details: str

    @classmethod
    def from_message(cls, message: audit_pb2.AuditEvent) -> AuditEvent:
        """Return the value of a message."""
        return cls(
            message.id,
            moment_of(message.happen_time),
            message.name,
            message.client,
            message.occurrences,
            message.details,
        )


class AuditQuery(NamedTuple):
    """Selects audit events, and their order.

    Attributes:
        name: one that ends in a dot stands for all that begin with it; empty for any.
        client: empty for any.
        after, before: the range of time, with a time zone; `after` is inclusive, `before` exclusive.
        newest_first: whether to return the latest first.
    """

    name: str = ""
    client: str = ""
    after: datetime | None = None
    before: datetime | None = None
    newest_first: bool = False

    def message(self) -> audit_pb2.ListAuditEventsRequest:
        """Return it as a message."""
        message = audit_pb2.ListAuditEventsRequest(
            name=self.name, client=self.client, page_size=_PAGE, newest_first=self.newest_first
        )
        if self.after is not None:
            message.happened_after.FromDatetime(self.after)
        if self.before is not None:
            message.happened_before.FromDatetime(self.before)
        return message


class AccessClient:
    """`Client.access`: denies clients, resets quotas, and reads the audit log.

    Every method raises OtahsmError: the daemon can't be reached or refuses.
    """

    def __init__(self, calls: Calls) -> None:
        self._access = Service(calls, access_pb2_grpc.AccessServiceStub, _SECONDS)
        self._audit = Service(calls, audit_pb2_grpc.AuditServiceStub, _SECONDS)

    async def deny(
        self, subject: str, reason: str = "", *, allow_unknown_name: bool = False, validate_only: bool = False
    ) -> DeniedClient:
        """Deny a client ("uri:", "dns:", "cn:"), a key ("spki:") or a certificate ("sha256:").

        Args:
            subject: what is denied.
            reason: a human-readable reason.
            allow_unknown_name: whether the name may be one that no client of the policy has.
            validate_only: whether to return whom it would reach, and deny nobody.

        Raises:
            RequestRefusedError: the subject is malformed, or no client of the policy has the name.
            NotAllowedError: this client may not.
        """
        denied = access_pb2.DeniedClient(subject=subject, reason=reason)
        request = access_pb2.DenyClientRequest(
            client=denied, allow_unknown_name=allow_unknown_name, validate_only=validate_only
        )
        response = await self._access.call(lambda stub: stub.DenyClient, request)
        return DeniedClient.from_message(response.client)

    async def allow(self, subject: str) -> None:
        """Allow a denied subject again.

        Raises:
            NotFoundError: it is not denied.
            NotAllowedError: this client may not.
        """
        request = access_pb2.AllowClientRequest(subject=subject)
        await self._access.call(lambda stub: stub.AllowClient, request)

    async def denied(self) -> list[DeniedClient]:
        """Return all subjects that operators have denied."""
        request = access_pb2.ListDeniedClientsRequest()
        response = await self._access.call(lambda stub: stub.ListDeniedClients, request)
        return [DeniedClient.from_message(item) for item in response.clients]

    async def quotas(self, client: str = "") -> list[ClientQuota]:
        """Return what clients of the policy have used of their quotas.

        Args:
            client: the name of one in the policy; empty for all.

        Raises:
            NotFoundError: the policy has no such client.
            NotAllowedError: this client may not.
        """
        request = access_pb2.GetQuotasRequest(policy_client=client)
        response = await self._access.call(lambda stub: stub.GetQuotas, request)
        return [ClientQuota.from_message(item) for item in response.quotas]

    async def reset_quota(self, client: str) -> ClientQuota:
        """Let a client have its quotas per day and per second once more; its total stays as it is.

        Args:
            client: its name in the policy.

        Raises:
            NotFoundError: the policy has no such client.
            NotAllowedError: this client may not.
        """
        request = access_pb2.ResetQuotaRequest(policy_client=client)
        response = await self._access.call(lambda stub: stub.ResetQuota, request)
        return ClientQuota.from_message(response.quota)

    async def events(self, query: AuditQuery, *, follow: bool = False) -> AsyncGenerator[AuditEvent, None]:
        """Yield events in the order in which they were written, or in reverse.

        Args:
            query: which, and in which order.
            follow: go on with what comes, until it is stopped. Not with the newest first.
        """
        request = query.message()
        while True:
            response = await self._audit.call(lambda stub: stub.ListAuditEvents, request)
            for message in response.events:
                yield AuditEvent.from_message(message)
            request.page_token = response.next_page_token
            if response.at_end:
                if not follow:
                    return
                await asyncio.sleep(_FOLLOW_SECONDS)
