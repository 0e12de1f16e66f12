"""Conversions of messages about denied clients and audit events."""

from __future__ import annotations

from otahsm.access import Policy
from otahsm.authority import AuditEvent, Denied, EventFilter
from otahsm.daemon.wire.ledger import microseconds_of, text_of
from otahsm.v1 import access_pb2, audit_pb2


def denied_client(denied: Denied, policy: Policy) -> access_pb2.DeniedClient:
    """Return a denial as a message, with the client of the policy that it reaches."""
    message = access_pb2.DeniedClient(subject=denied.subject, reason=denied.reason, client=denied.client)
    if match := policy.match(denied.subject):
        message.policy_client, message.policy_identity = match.grant.name, match.identity
    message.deny_time.FromMicroseconds(denied.at)
    return message


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
