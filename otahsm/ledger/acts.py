"""What can't be undone, as the daemon does it: bounded by quotas, and what exceeds them held."""

from __future__ import annotations

from collections.abc import Sequence

from otahsm.access import Denied
from otahsm.errors import OtahsmError
from otahsm.ledger.act_values import ActEvents, Decided, Decider, Requester, ToReset
from otahsm.ledger.records import (
    Batch,
    BatchState,
    BatchTerms,
    Change,
    EventFactory,
    RevocationAnswer,
    RevocationRequest,
)
from otahsm.ledger.write import batches, confirmed, denials, outcomes, revocation
from otahsm.ledger.write.writer import Writer
from otahsm.pki.serial import SerialNumber
from otahsm.system.clock import Clock, microseconds


class Acts:
    """The acts of an open ledger, each in one transaction with what counts it.

    A result that is an error says that it is held, or can't even be held: then nothing else was changed, and
    the event of the change is that of the held act. Every method raises LedgerUnavailableError: nothing was
    changed, or it is not known whether it was.

    Args:
        writer: of the ledger.
        clock: the time of acts, and of quotas.
    """

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock

    async def revoke(
        self, targets: Sequence[RevocationRequest], by: Requester, now: int | None = None
    ) -> Change[list[RevocationAnswer]]:
        """Revoke certificates; return an answer for each target, in order: see `revocation.revoke`.

        Args:
            targets: at least one.
            by: who requests it.
            now: microseconds since the Unix epoch; None for the clock's time.
        """
        at = self._now() if now is None else now
        return await self._writer.transaction(
            lambda connection: revocation.revoke(connection, targets, by, at), with_events=True
        )

    async def reset(
        self, device_id: str, profile: str, by: Requester, make_event: EventFactory[SerialNumber]
    ) -> Change[SerialNumber | OtahsmError | None]:
        """Allow a device a certificate for a new key, regardless of the profile's renewal windows.

        The result is the serial number of its current certificate, which stays valid; None if it has none.

        Args:
            device_id: the device.
            profile: the profile.
            by: who requests it.
            make_event: makes the audit event, which is written in the same transaction if anything is reset.
        """
        now, target = self._now(), ToReset(device_id, profile)
        return await self._writer.transaction(
            lambda connection: outcomes.reset(connection, target, by, now, make_event), with_events=True
        )

    async def deny(
        self, denied: Denied, by: Requester, make_event: EventFactory[Denied]
    ) -> Change[Denied | OtahsmError]:
        """Deny a client; the result is the denial, or the existing one. `make_event` as for `reset`."""
        now = self._now()
        return await self._writer.transaction(
            lambda connection: denials.deny(connection, denied, by, now, make_event), with_events=True
        )

    async def create_batch(
        self, terms: BatchTerms, by: Requester, make_event: EventFactory[Batch]
    ) -> Change[Batch | OtahsmError]:
        """Create a batch; the result is the batch, or an existing one with that name, whatever its terms.

        `make_event` as for `reset`.
        """
        now = self._now()
        return await self._writer.transaction(
            lambda connection: batches.create(connection, terms, by.identity, by, now, make_event),
            with_events=True,
        )

    async def close_batch(
        self, name: str, by: Requester, make_event: EventFactory[BatchState]
    ) -> Change[BatchState | OtahsmError | None]:
        """Close a batch; the result is None if it does not exist. `make_event` as for `reset`."""
        now = self._now()
        return await self._writer.transaction(
            lambda connection: batches.close(connection, name, by, now, make_event), with_events=True
        )

    async def confirm(self, act_id: int, digest: bytes, by: Decider, make_events: ActEvents) -> Decided:
        """Do what a held act asks for: see `confirmed.confirm`.

        Raises:
            NotFoundError: there is no such held act.
            NotHeldError: it was rejected, or it lapsed.
            RequestRefusedError: the digest is not that of the act.
            LedgerTamperedError: somebody changed it in the database.
            ConflictError, InProgressError, NotFoundError: it can't be done now.
        """
        now = self._now()
        return _given(
            await self._writer.transaction(
                lambda connection: confirmed.confirm(connection, act_id, digest, by, make_events, now),
                with_events=True,
            )
        )

    async def reject(self, act_id: int, by: Decider) -> Decided:
        """Reject a held act, so that it is never done.

        Raises:
            NotFoundError: there is no such held act.
            NotHeldError: it was confirmed, or it lapsed.
            LedgerTamperedError: somebody changed it in the database.
        """
        now = self._now()
        return _given(
            await self._writer.transaction(
                lambda connection: confirmed.reject(connection, act_id, by, now), with_events=True
            )
        )

    def _now(self) -> int:
        return microseconds(self._clock())


def _given(decided: Decided | OtahsmError) -> Decided:
    if isinstance(decided, OtahsmError):
        raise decided
    return decided
