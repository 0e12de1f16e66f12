"""Conversions of messages about denied clients, quotas and audit events."""

from __future__ import annotations

from otahsm.access import Policy
from otahsm.authority import AuditEvent, Denied, EventFilter, QuotaUse
from otahsm.daemon.wire.ledger import microseconds_of, text_of
from otahsm.v1 import access_pb2, audit_pb2


def denied_client(denied: Denied, policy: Policy) -> access_pb2.DeniedClient:
    """Return a denial as a message, with the client of the policy that it reaches."""
    message = access_pb2.DeniedClient(subject=denied.subject, reason=denied.reason, client=denied.client)
    if match := policy.match(denied.subject):
        message.policy_client, message.policy_identity = match.grant.name, match.identity
    message.deny_time.FromMicroseconds(denied.at)
    return message


def quota_message(use: QuotaUse) -> access_pb2.ClientQuota:
    """Return what a client has used of its quotas as a message."""
    return access_pb2.ClientQuota(
        policy_client=use.client,
        total_count=use.taken,
        total_limit=use.quotas.total,
        day_count=use.today,
        day_limit=use.quotas.per_day,
        second_limit=use.quotas.per_second,
        available_now_count=use.at_once,
    )


def event_filter_of(request: audit_pb2.ListAuditEventsRequest) -> EventFilter:
    """Return the filter of a request. Raises RequestRefusedError."""
    after, before = (
        microseconds_of(field, getattr(request, field)) if request.HasField(field) else None
        for field in ("happened_after", "happened_before")
    )
    return EventFilter(
        text_of("name", request.name),
        text_of("client", request.client),
        after,
        before,
        request.newest_first,
    )


def write_event(message: audit_pb2.AuditEvent, event: AuditEvent) -> None:
    """Write an event to a message."""
    message.id = event.id
    message.name = event.name
    message.client = event.client
    message.occurrences = event.occurrences
    message.details = event.details
    message.happen_time.FromMicroseconds(event.happened_at)
