"""The certification authority: a method for each RPC, from values to values.

Each method decides what the caller may see, does the work, and has the audit event written. Whether the
caller may make the call at all is checked before. What a caller may not see is reported as not found. Every
method may raise OtahsmError; after LedgerUnavailableError, nothing was changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from otahsm.access import AccessControl, Caller, Denied
from otahsm.authority.approvals import Approvals
from otahsm.authority.call_log import log_refused, log_revoked, tampering_logged
from otahsm.authority.changes import Changes
from otahsm.authority.client_quotas import ClientQuotaUses, QuotaUse
from otahsm.authority.crls import CrlName, Crls
from otahsm.authority.denied_clients import DeniedClients
from otahsm.authority.life_cycle import LifeCycle
from otahsm.authority.values import AuthorityState, BatchPage, CertificateKey, FoundCertificate, Profiles
from otahsm.authority.visibility import Visibility
from otahsm.errors import (
    BatchClientError,
    LedgerTamperedError,
    NotAllowedError,
    NotFoundError,
    OtahsmError,
    QuotaError,
    RequestRefusedError,
)
from otahsm.issuance.authorities import Authorities
from otahsm.issuance.batches import Batches, NewBatch, unknown_batch
from otahsm.issuance.queue import IssuanceQueue
from otahsm.issuance.values import IssuanceRequest, Outcome
from otahsm.ledger import (
    BatchState,
    CertificateRecord,
    CountKey,
    EventFilter,
    EventPage,
    Filter,
    Ledger,
    Page,
    RevocationRequest,
    Status,
    StoredCrl,
)
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.pki.serial import SerialNumber
from otahsm.revocation.revoking import RevocationOutcome, Revocations
from otahsm.system.clock import Clock
from otahsm.transparency.audit import AuditLog, EventName
from otahsm.transparency.log import LeafProof, Signed, Transparency

_HAS_A_CHAIN: Final = frozenset({Status.ISSUED, Status.SUPERSEDED, Status.REVOKED})


class CertificateAuthority:
    """Implements all RPCs of the daemon. `otahsm.authority.assembly` builds one.

    Attributes:
        access: decides which client may do what.
        approvals: lists held acts, confirms and rejects them.
        audit: records audit events.
        authorities: the CAs.
        clients: denies clients and allows them again.
        life: starts and closes it, and reports its health.
    """

    def __init__(  # noqa: PLR0913 - one for each part
        self,
        *,
        access: AccessControl,
        approvals: Approvals,
        audit: AuditLog,
        authorities: Authorities,
        batches: Batches,
        changes: Changes,
        clients: DeniedClients,
        clock: Clock,
        crls: Crls,
        ledger: Ledger,
        life: LifeCycle,
        profiles: Profiles,
        queries: LedgerQueries,
        queue: IssuanceQueue,
        quotas: ClientQuotaUses,
        revocations: Revocations,
        transparency: Transparency,
    ) -> None:
        self.access = access
        self.approvals = approvals
        self.audit = audit
        self.authorities = authorities
        self.life = life
        self.clients = clients
        self._batches = batches
        self._changes = changes
        self._visibility = Visibility(access, clock)
        self._crls = crls
        self._ledger = ledger
        self._profiles = profiles
        self._queries = queries
        self._queue = queue
        self._quotas = quotas
        self._revocations = revocations
        self._transparency = transparency

    def client_of(self, caller: Caller) -> str:
        """Return the identity by which the ledger, the audit log and the log know a caller."""
        return self.access.principal_of(caller).identity

    def note_decision(self, caller: Caller, call: str, error: NotAllowedError | None) -> None:
        """Record whether a call was allowed.

        Args:
            caller: the client.
            call: the path of the method.
            error: why it was denied; None if it was allowed.
        """
        if error is None:
            self._count(EventName.ACCESS_ALLOWED, caller, {"call": call})
        else:
            about = {"call": call, "reason": error.reason}
            self._count(EventName.ACCESS_DENIED, caller, about, message=error.message)

    # Issuing

    async def issue(self, caller: Caller, requests: Sequence[IssuanceRequest]) -> list[Outcome]:
        """Issue certificates; return one outcome for each request, in order.

        Args:
            caller: the client that requests them.
            requests: at least one; an invalid request fails alone.
        """
        try:
            self.life.require_intact()
            outcomes = await self._queue.submit(requests)
        except LedgerTamperedError as error:  # what was issued before is not told again either
            outcomes = [error.as_value()] * len(requests)
        refusals = [outcome for outcome in outcomes if isinstance(outcome, OtahsmError)]
        for refusal in refusals:
            if isinstance(refusal, NotAllowedError | QuotaError | BatchClientError):
                about = {"reason": refusal.reason}
                self._count(EventName.REQUEST_DENIED, caller, about, message=refusal.message)
        log_refused("requests.refused", self.client_of(caller), refusals)
        return outcomes

    # CAs and profiles

    def get_authority(self, name: str) -> AuthorityState:
        """Return a CA and its health; "" is the name of [ca]. Raises NotFoundError."""
        authority = self.authorities.by_name.get(name)
        if authority is None:
            raise NotFoundError(f"there is no CA {name[:64]!a}")
        own = authority.chain.trust_anchor
        anchors = dict.fromkeys(one.chain.trust_anchor for one in self.authorities.by_name.values())
        return AuthorityState(
            authority.chain,
            self.life.ready_signers,
            self.life.trouble,
            self.life.supervisor.states,
            [anchor for anchor in anchors if anchor != own],
        )

    def list_profiles(self) -> Profiles:
        """Return all profiles."""
        return self._profiles

    # The ledger

    async def get_certificate(self, caller: Caller, key: CertificateKey) -> FoundCertificate:
        """Return the record of a certificate or an intent, with the certificate's chain.

        Raises:
            NotFoundError: there is none that the caller may see.
        """
        if isinstance(key, SerialNumber):
            record = await self._queries.ask(lambda reader: reader.by_serial(key))
            name = f"serial number {key.hex()}"
        else:
            profile = key.profile or self._profiles.default
            record = await self._queries.ask(lambda reader: reader.by_device(key.device_id, profile))
            name = f"device id {key.device_id[:128]!a} and profile {profile[:64]!a}"
        if record is None or not self._visibility.of_certificate(caller, record):
            raise NotFoundError(f"the ledger has no certificate with {name}")
        return FoundCertificate(record, self._chain_of(record))

    def visible(self, caller: Caller, criteria: Filter) -> Filter:
        """Restrict a filter to the certificates that the caller may list: its own, or all.

        Raises:
            NotAllowedError: it requests another client's.
        """
        return self._visibility.within(caller, criteria)

    async def list_certificates(
        self, caller: Caller, criteria: Filter, after: bytes, *, size: int, full: bool
    ) -> Page:
        """Return a page of the matching certificates that the caller may see.

        Args:
            caller: the client.
            criteria: which certificates, and in which order.
            after: the key of the last certificate of the previous page; `START` for the first page.
            size: the most records to return.
            full: whether to include the certificates themselves.
        """
        visible = self.visible(caller, criteria)
        return await self._queries.ask(lambda reader: reader.page(visible, after, size=size, full=full))

    async def count_certificates(self, criteria: Filter) -> Mapping[CountKey, int]:
        """Count the certificates of a period by day, profile, client and status.

        Raises:
            RequestRefusedError: there would be too many counts.
        """
        return await self._queries.count(criteria)

    # Revoking

    async def revoke(
        self, caller: Caller, requests: Sequence[RevocationRequest | RequestRefusedError]
    ) -> list[RevocationOutcome]:
        """Revoke certificates durably; return one outcome for each request, in order.

        Args:
            caller: the client.
            requests: at least one; a malformed one is an error, and fails alone. So does one that is held.
        """
        outcomes, event = await self._revocations.revoke(requests, self._changes.requester(caller))
        self.audit.done(event)
        log_revoked(self.client_of(caller), outcomes)
        return outcomes

    async def get_crl(self, name: CrlName) -> StoredCrl:
        """Return the latest CRL of a name.

        Raises:
            NotFoundError: it does not exist.
            LedgerTamperedError: nothing is published from a ledger that was changed.
            OtahsmError: the reason why there is none yet.
        """
        self.life.require_intact(crls=False)
        return await self._crls.get(name)

    async def reset_device(self, caller: Caller, device_id: str, profile: str) -> SerialNumber:
        """Allow a device a certificate for another key; return the serial number of its current one.

        Raises:
            NotFoundError: it has none under the profile.
            HeldError: it exceeds a quota, and a second principal can confirm it.
        """
        name = profile or self._profiles.default
        event_of = self._changes.reset(self.access.principal_of(caller), device_id)
        change = await self._ledger.acts.reset(device_id, name, self._changes.requester(caller), event_of)
        serial = self._changes.settle(change)
        if serial is None:
            raise NotFoundError(
                f"the device {device_id[:128]!a} has no certificate under the profile {name[:64]!a}",
                hint="Check device id and profile. A device that was reset can request a new certificate.",
            )
        return serial

    # The log

    async def get_checkpoint(self, *, make_new: bool) -> Signed:
        """Return the latest checkpoint, or a new one."""
        with tampering_logged():
            if make_new:
                return await self._transparency.make_checkpoint()
            return await self._transparency.checkpoint()

    async def prove_inclusion(self, caller: Caller, serial: SerialNumber) -> LeafProof:
        """Prove that the log contains a certificate. Raises NotFoundError if the caller may not see it."""
        with tampering_logged():
            proven = await self._transparency.prove_inclusion(serial)
        if not self._visibility.of_leaf(caller, proven.leaf):
            raise NotFoundError("the ledger has no certificate with this serial number")
        return proven

    async def prove_consistency(self, old_size: int) -> bytes:
        """Prove that the log only grew since it had `old_size` leaves."""
        with tampering_logged():
            return await self._transparency.prove_consistency(old_size)

    # Batches

    async def create_batch(self, caller: Caller, new: NewBatch) -> BatchState:
        """Create a batch, or return an existing one with the same terms. Raises HeldError."""
        event_of = self._changes.created(self.access.principal_of(caller))
        change = await self._batches.create(new, self._changes.requester(caller), event_of)
        batch = self._changes.settle(change)
        return await self._batches.get(batch.terms.name)

    async def get_batch(self, caller: Caller, name: str) -> BatchState:
        """Return a batch and its progress."""
        state = await self._batches.get(name)
        if not self._visibility.of_batch(caller, state):
            raise unknown_batch(name)
        return state

    async def list_batches(self, caller: Caller, after: int, size: int, *, newest_first: bool) -> BatchPage:
        """Return those of the next `size` batches that the caller may see.

        Args:
            caller: the client.
            after: the id of the last batch of the previous page; 0 for the first page.
            size: the most batches to read.
            newest_first: in reverse order of creation.
        """
        states = await self._batches.page(after, size, newest_first=newest_first)
        visible = [state for state in states if self._visibility.of_batch(caller, state)]
        return BatchPage(visible, states[-1].batch.id if len(states) == size else None)

    async def close_batch(self, caller: Caller, name: str) -> BatchState:
        """Close a batch: nothing more is issued in it. Raises HeldError."""
        event_of = self._changes.closed(self.access.principal_of(caller))
        return self._changes.settle(
            await self._batches.close(name, self._changes.requester(caller), event_of)
        )

    # Access

    async def deny_client(
        self, caller: Caller, subject: str, reason: str, *, allow_unknown_name: bool, validate_only: bool
    ) -> Denied:
        """Deny a client, a key or a certificate; return the denial."""
        return await self.clients.deny(
            subject, reason, caller, allow_unknown_name=allow_unknown_name, validate_only=validate_only
        )

    async def allow_client(self, caller: Caller, subject: str) -> None:
        """Allow a denied client, key or certificate again."""
        await self.clients.allow(subject, caller)

    async def list_denied_clients(self) -> list[Denied]:
        """Return all clients, keys and certificates that operators have denied."""
        return await self.clients.listed()

    async def list_quotas(self, client: str) -> list[QuotaUse]:
        """Return what a client of the policy, "" for all, has used of its quotas. Raises NotFoundError."""
        return await self._quotas.listed(client)

    async def reset_quota(self, caller: Caller, client: str) -> QuotaUse:
        """Reset a client's quotas per day and per second; return its use. Raises NotFoundError."""
        return await self._quotas.reset(client, caller)

    async def list_audit_events(self, criteria: EventFilter, after: int, size: int) -> EventPage:
        """Return at most `size` of the events that come after an id, in the order that is asked for."""
        if self.access.policy.knows(criteria.client):
            criteria = criteria._replace(owner=self.access.policy.owner_filter(criteria.client))
        return await self._queries.ask(lambda reader: reader.events(criteria, after, size))

    def _count(
        self, name: EventName, caller: Caller, details: Mapping[str, str], *, message: str = ""
    ) -> None:
        client = self.access.principal_of(caller)
        self.audit.count(name, client.identity, client.details(details), message=message)

    def _chain_of(self, record: CertificateRecord) -> tuple[bytes, ...]:
        """Return a certificate and its intermediates, without the trust anchor; empty if there is none."""
        if record.status not in _HAS_A_CHAIN or record.certificate is None:
            return ()
        authority = self.authorities.of_certificate(record.certificate)
        return record.certificate, *authority.chain.intermediates
