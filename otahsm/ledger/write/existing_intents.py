"""Conflicts of new intents with existing ones: the same device, key, or request id of a client (I3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, literal_column, select, union_all

from otahsm.access import Owner
from otahsm.ledger.records import (
    Barred,
    Conflict,
    InProgress,
    Intent,
    JournalResult,
    Renewal,
    Replay,
    Superseded,
)
from otahsm.ledger.schema import certificates, intents, live, revocations, serial_octets
from otahsm.pki.crls.building import Reason
from otahsm.pki.serial import SerialNumber

NEVER: Final = Renewal(same_key_seconds=0, new_key_seconds=0)


class Fresh(NamedTuple):
    """The intent has no conflict. `supersedes` is the certificate that it supersedes, if any."""

    supersedes: Superseded | None


class ExistingIntents:
    """The existing intents that share a device id, a key or a request id with new ones.

    Args:
        connection: in a transaction.
        group: the new intents.
        renewals: when a device's certificate may be superseded, by profile.
        now: the time for renewals, in seconds since the Unix epoch; None for each intent's own.
    """

    def __init__(
        self,
        connection: Connection,
        group: Sequence[Intent],
        renewals: Mapping[str, Renewal],
        now: int | None,
    ) -> None:
        self._renewals = renewals
        self._now = now
        self._by_request: dict[tuple[str, str], Any] = {}
        self._by_device: dict[tuple[str, str], Any] = {}
        self._by_key: dict[bytes, Any] = {}
        known = (
            select(
                intents.c.id,
                serial_octets,
                intents.c.request_id,
                intents.c.profile,
                intents.c.device_id,
                intents.c.spki_sha256,
                intents.c.not_before,
                intents.c.not_after,
                intents.c.superseded_at,
                intents.c.client,
                intents.c.client_certificate_sha256,
                intents.c.policy_client,
                certificates.c.der,
                revocations.c.revoked_at,
                revocations.c.reason,
            )
            .select_from(intents.outerjoin(certificates).outerjoin(revocations))
            .where(intents.c.void_reason.is_(None))
        )
        # One look-up per index: SQLite scans the whole table for OR, and for an empty list.
        lookups = [
            known.where(live, intents.c.device_id.in_([intent.device_id for intent in group])),
            known.where(intents.c.spki_sha256.in_([intent.spki_sha256 for intent in group])),
        ]
        if names := {intent.request_id for intent in group} - {""}:
            # Exactly the condition of the index; otherwise it is not used.
            lookups.append(
                known.where(
                    live, intents.c.request_id.in_(names), intents.c.request_id != literal_column("''")
                )
            )
        query = union_all(*lookups)
        for row in connection.execute(query):
            self._remember(row)

    def _remember(self, row: Row[Any] | _Reserved) -> None:
        # Of several with the same key, a revocation for key compromise takes precedence.
        known = self._by_key.get(row.spki_sha256)
        if known is None or not _is_compromised(known):
            self._by_key[row.spki_sha256] = row
        if row.superseded_at is not None:
            return
        if row.request_id:
            self._by_request[row.client, row.request_id] = row
        self._by_device[row.device_id, row.profile] = row

    def answer(self, intent: Intent) -> JournalResult | Fresh:
        """Return the result for an intent, or `Fresh` if it has no conflict."""
        device = self._by_device.get((intent.device_id, intent.profile))
        if refusal := self._refusal(intent, device):
            return refusal
        if device is None:
            return Fresh(supersedes=None)
        same_key = device.spki_sha256 == intent.spki_sha256
        if device.der is not None and self._may_supersede(device, intent, same_key=same_key):
            return Fresh(
                supersedes=Superseded(device.id, device.serial, device.spki_sha256, device.not_after)
            )
        if not same_key:
            return Conflict(
                f"the device id {intent.device_id} has the certificate {_serial(device)}, for another key",
                _owner(device),
            )
        return (
            InProgress()
            if device.der is None
            else Replay(
                device.der,
                SerialNumber.from_key(device.serial),
                device.not_before,
                device.not_after,
                _owner(device),
            )
        )

    def _refusal(self, intent: Intent, device: Any) -> Barred | Conflict | None:
        """Return a conflict that no renewal window resolves; None if there is none."""
        key = self._by_key.get(intent.spki_sha256)
        request = self._by_request.get((intent.client, intent.request_id))
        if barred := _barred(device, key):
            return barred
        if key is not None and key.device_id != intent.device_id:
            return Conflict(
                f"the public key belongs to the device {key.device_id}, certificate {_serial(key)}",
                _owner(key),
            )
        if request is not None and (request.device_id, request.profile) != (intent.device_id, intent.profile):
            return Conflict(
                f"the request id {intent.request_id} was used for the device {request.device_id} under the"
                f" profile {request.profile}, certificate {_serial(request)}",
                _owner(request),
            )
        return None

    def _may_supersede(self, device: Row[Any], intent: Intent, *, same_key: bool) -> bool:
        """Return whether a certificate is within its renewal window, so that it may be superseded."""
        renewal = self._renewals.get(intent.profile, NEVER)
        window = renewal.same_key_seconds if same_key else renewal.new_key_seconds
        now = intent.intended_at // 1_000_000 if self._now is None else self._now
        left = device.not_after - now
        # If the CA expires soon, a new certificate would not expire later, and so be in its window too.
        return window > 0 and left <= window and intent.not_after > device.not_after

    def reserve(self, intent: Intent) -> None:
        """Make this intent visible to the rest of the group."""
        self._remember(_Reserved(intent))


class _Reserved:
    """An intent of the same group, with the attributes of a row."""

    der: None = None
    superseded_at: None = None
    revoked_at: None = None
    reason: None = None

    def __init__(self, intent: Intent) -> None:
        self.serial = intent.serial.key
        self.request_id = intent.request_id
        self.profile = intent.profile
        self.device_id = intent.device_id
        self.spki_sha256 = intent.spki_sha256
        self.client = intent.client
        self.client_certificate_sha256 = intent.client_certificate_sha256
        self.policy_client = intent.policy_client


def _owner(row: Any) -> Owner:
    return Owner(row.client, row.client_certificate_sha256, row.policy_client or "")


def _serial(row: Any) -> str:
    return SerialNumber.from_key(row.serial).hex()


def _barred(device: Any, key: Any) -> Barred | None:
    if device is not None and device.revoked_at is not None:
        return Barred(f"the device {device.device_id} has the certificate {_revoked(device)}", _owner(device))
    if key is not None and _is_compromised(key):
        return Barred(f"the public key was that of the certificate {_revoked(key)}", _owner(key))
    return None


def _is_compromised(row: Any) -> bool:
    return bool(row.reason == Reason.KEY_COMPROMISE.value)


def _revoked(row: Any) -> str:
    moment = datetime.fromtimestamp(row.revoked_at, UTC)
    return f"{_serial(row)}, which was revoked on {moment:%Y-%m-%d %H:%M:%S} UTC ({row.reason})"
