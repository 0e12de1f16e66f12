"""The ledger as the issuance cycle uses it: durable writes, in group commits, off the event loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection

from otahsm.access import Denied, Quotas
from otahsm.errors import LedgerUnavailableError
from otahsm.ledger.db.database import Database
from otahsm.ledger.merkle_log import MerkleLog
from otahsm.ledger.read.read_connection import ReadConnection
from otahsm.ledger.records import (
    Accepted,
    AuditEvent,
    Batch,
    BatchState,
    BatchTerms,
    Change,
    CrlNumber,
    EventFactory,
    Intent,
    JournalResult,
    Renewal,
    RevocationAnswer,
    RevocationRequest,
    StoredCrl,
)
from otahsm.ledger.write import batches, denials, events, outcomes, quotas, revocation
from otahsm.ledger.write.journal import write_intents
from otahsm.ledger.write.writer import Writer
from otahsm.pki import SerialNumber
from otahsm.system.clock import Clock, microseconds, utc_now

_NO_LIMITS: Final[Mapping[int, Quotas]] = {}


class Ledger:
    """The ledger of one CA, as one daemon uses it.

    Args:
        database: where it is.
        issuer_key_ids: the key identifiers of the CAs whose certificates it may hold.
        renewals: by profile, when a device's certificate may be superseded; without: never.
        clock: tells when something is written.
    """

    def __init__(
        self,
        database: Database,
        issuer_key_ids: Collection[bytes],
        renewals: Mapping[str, Renewal] | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._renewals = renewals or {}
        self._clock = clock
        self._writer = Writer(database, issuer_key_ids, clock)
        self._reader = ReadConnection(database)
        self.tree = MerkleLog(self._writer, self._reader)

    async def open(self) -> int:
        """Take the ledger, bring its schema up to date, and void what a crash left open.

        Returns:
            How many intents were voided: serials that may have been signed but were never released.

        Raises:
            ConfigError: it can't be used, another daemon holds the file, or it is another CA's.
            LedgerUnavailableError: the server can't be reached.
        """
        return await self._writer.open()

    async def journal(
        self, batch: Sequence[Intent], now: int | None = None, limits: Mapping[int, Quotas] = _NO_LIMITS
    ) -> list[JournalResult]:
        """Write intents durably (step 3); answer each, in order.

        Args:
            batch: at least one.
            now: for the windows of renewals, in seconds since the Unix epoch; None: when each was intended.
            limits: for each `quota_id` of the batch, what is allowed.

        Raises:
            LedgerUnavailableError: nothing was written.
        """
        return await self._writer.transaction(
            lambda connection: self._write_intents(connection, batch, now, limits)
        )

    async def record(self, issued: Mapping[int, bytes]) -> None:
        """Write certificates, DER by intent id, durably (step 5).

        Raises:
            LedgerUnavailableError: nothing was written; nothing may be released.
        """
        now = microseconds(self._clock())
        await self._writer.transaction(
            lambda connection: outcomes.write_certificates(connection, issued, now)
        )
        self._writer.recorded(issued.keys())

    async def void(self, intent_ids: Sequence[int], reason: str) -> None:
        """Say that no certificate will come of these intents, so that their devices may ask again.

        If the ledger can't be written now, that is made up for before the next intents are.
        """
        await self._writer.void(intent_ids, reason)

    async def reset(
        self, device_id: str, profile: str, make_event: EventFactory[SerialNumber]
    ) -> Change[SerialNumber | None]:
        """Let a device have a new certificate, for a new key, whatever the profile's windows are.

        The result is the serial number of the certificate that it has, which stays valid; None: it has none.

        Args:
            device_id: whose.
            profile: under which.
            make_event: makes the audit event, which is written in the same transaction if anything is reset.

        Raises:
            LedgerUnavailableError: nothing was changed.
        """
        now = microseconds(self._clock())
        return await self._writer.transaction(
            lambda connection: outcomes.reset(connection, device_id, profile, now, make_event)
        )

    async def write_events(self, written: Sequence[AuditEvent]) -> None:
        """Write events durably, but for those that are there already. Raises LedgerUnavailableError."""
        await self._writer.transaction(lambda connection: events.write_new(connection, written))

    async def deny(self, denied: Denied, make_event: EventFactory[Denied]) -> Change[Denied]:
        """Deny a client; the result is the denial, or the existing one. `make_event` as for `reset`.

        Raises:
            LedgerUnavailableError: nothing was changed.
        """
        return await self._writer.transaction(lambda connection: denials.deny(connection, denied, make_event))

    async def allow(self, subject: str, make_event: EventFactory[Denied]) -> Change[Denied | None]:
        """Allow a client again; the result is None if it was not denied. `make_event` as for `reset`.

        Raises:
            LedgerUnavailableError: nothing was changed.
        """
        return await self._writer.transaction(
            lambda connection: denials.allow(connection, subject, make_event)
        )

    async def quota_ids(self, clients: Sequence[str]) -> list[int]:
        """Return the ids of the quotas of clients of the policy, in order. Raises LedgerUnavailableError."""
        return await self._writer.transaction(lambda connection: quotas.ids_of(connection, clients))

    async def create_batch(
        self, terms: BatchTerms, creator: str, make_event: EventFactory[Batch]
    ) -> Change[Batch]:
        """Order a batch; the result is it, or the one of the same name that there is, whatever its terms are.

        `make_event` as for `reset`.

        Raises:
            LedgerUnavailableError: nothing was written.
        """
        now = microseconds(self._clock())
        return await self._writer.transaction(
            lambda connection: batches.create(connection, terms, creator, now, make_event)
        )

    async def close_batch(self, name: str, make_event: EventFactory[BatchState]) -> Change[BatchState | None]:
        """Close a batch; the result is None if it does not exist. `make_event` as for `reset`.

        Raises:
            LedgerUnavailableError: nothing was changed.
        """
        now = microseconds(self._clock())
        return await self._writer.transaction(
            lambda connection: batches.close(connection, name, now, make_event)
        )

    async def revoke(
        self, targets: Sequence[RevocationRequest], client: str, now: int
    ) -> list[RevocationAnswer]:
        """Revoke what is not revoked yet; answer each target, in order: see `revocation.revoke`.

        Args:
            targets: at least one.
            client: who asks.
            now: microseconds since the Unix epoch.

        Raises:
            LedgerUnavailableError: nothing was revoked, or it is not known whether it was.
        """
        return await self._writer.transaction(
            lambda connection: revocation.revoke(connection, targets, client, now)
        )

    async def note_crl_urls(self, issuer_key_id: bytes, urls: Sequence[str], *, complete: bool) -> None:
        """Remember that certificates may state these URLs: see `revocation.note_urls`.

        Raises:
            LedgerUnavailableError: nothing was written.
        """
        await self._writer.transaction(
            lambda connection: revocation.note_urls(connection, issuer_key_id, urls, complete=complete)
        )

    async def take_crl_number(
        self, issuer_key_id: bytes, *, above: int, earliest: int, now: int
    ) -> CrlNumber:
        """Take a number for CRLs that are about to be made: see `revocation.take_number`.

        Raises:
            LedgerUnavailableError: none was taken, or it is lost.
        """
        return await self._writer.transaction(
            lambda connection: revocation.take_number(connection, issuer_key_id, above, earliest, now)
        )

    async def write_crls(self, issuer_key_id: bytes, made: Sequence[StoredCrl]) -> None:
        """Write CRLs of a CA, each in the place of an older one of its scope; never over a newer one.

        Raises:
            LedgerUnavailableError: nothing was written.
        """
        await self._writer.transaction(
            lambda connection: revocation.write_crls(connection, issuer_key_id, made)
        )

    @property
    def failure(self) -> LedgerUnavailableError | None:
        """Why the last write failed; None if it didn't."""
        return self._writer.failure

    async def tend(self) -> int:
        """Void what replicas that are gone left open; and if the last write failed, see if one does now.

        Returns:
            How many intents were voided.
        """
        return await self._writer.tend()

    async def close(self) -> None:
        """Let go of the ledger."""
        await self._reader.close()
        await self._writer.close()

    def _write_intents(
        self,
        connection: Connection,
        batch: Sequence[Intent],
        now: int | None,
        limits: Mapping[int, Quotas],
    ) -> list[JournalResult]:
        ids = self._database.take_ids(connection, len(batch))
        answers = write_intents(connection, self._database.slot, ids, batch, self._renewals, now)
        if limits:  # before batches, always: so nobody waits in a circle
            answers = quotas.hold(connection, batch, answers, limits, microseconds(self._clock()))
        if any(intent.batch_id is not None for intent in batch):
            seconds = int(self._clock().timestamp()) if now is None else now
            granted = batches.reserve(connection, batch, answers, seconds)
            quotas.give_back_denied(connection, batch, answers, granted)
            answers = granted
        self._writer.wrote(answer.intent_id for answer in answers if isinstance(answer, Accepted))
        return answers
