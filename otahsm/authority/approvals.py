"""Held acts: what exceeded a quota, and what a second principal confirms or rejects."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import structlog

from otahsm.access import AccessControl, Caller, Grant, Role
from otahsm.authority.changes import Changes
from otahsm.authority.denied_clients import DeniedClients
from otahsm.errors import LedgerTamperedError, NotAllowedError
from otahsm.issuance.batches import Batches
from otahsm.ledger import (
    Act,
    ActKind,
    ActState,
    BreakGlass,
    Decided,
    Decider,
    Ledger,
    MacKeys,
    ToDeny,
    asked_in,
    not_the_act,
    terms_in,
    unknown_act,
    vouches,
)
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.system.clock import Clock, microseconds
from otahsm.transparency.audit import AuditLog, EventName

GLASS_SECONDS: Final = 600  # in which a break-glass MAC must be used
_PAGE: Final = 100
_OPERATOR: Final[frozenset[Role]] = frozenset({"operator"})
_ROLES: Final[Mapping[ActKind, frozenset[Role]]] = {
    **dict.fromkeys(ActKind, _OPERATOR),
    ActKind.DENIAL: frozenset({"operator", "admin"}),
}

_log = structlog.get_logger()


class HeldAct(NamedTuple):
    """A held act, what became of it, the reason that it gives, and a line for each thing it asks for.

    `newer` is as in `Decided`.
    """

    act: Act
    state: ActState
    reason: str
    asked: Sequence[str]
    newer: Sequence[str] = ()


class HeldPage(NamedTuple):
    """Held acts in the order of their ids, and the id after which the next page starts; None at the end."""

    held: list[HeldAct]
    next_after: int | None


class Glass(NamedTuple):
    """A break-glass request: who asks on the CA's host, and the MAC that shows it."""

    glass: BreakGlass
    mac: bytes


class Approvals:
    """Lists held acts, confirms and rejects them.

    Args:
        access: knows who may.
        audit: logs decisions.
        batches: knows which batches can be created.
        changes: makes the events.
        clients: knows whom a client may deny.
        clock: the time of day.
        keys: of the MACs that break the glass: the ledger's.
        ledger: where held acts are.
        queries: where they are read.
        revoked: called when something may have been revoked.
    """

    def __init__(  # noqa: PLR0913 - one for each part
        self,
        *,
        access: AccessControl,
        audit: AuditLog,
        batches: Batches,
        changes: Changes,
        clients: DeniedClients,
        clock: Clock,
        keys: MacKeys,
        ledger: Ledger,
        queries: LedgerQueries,
        revoked: Callable[[], None],
    ) -> None:
        self._access = access
        self._audit = audit
        self._batches = batches
        self._changes = changes
        self._clients = clients
        self._clock = clock
        self._keys = keys
        self._ledger = ledger
        self._queries = queries
        self._revoked = revoked

    async def listed(self, after: int, size: int, *, decided_too: bool) -> HeldPage:
        """Return held acts, by default those that can be decided.

        Args:
            after: the id of the last act of the previous page; 0 for the first page.
            size: the most acts to return, of which a page has at most 100: each may ask for much.
            decided_too: whether to return all that were ever held.
        """
        now = microseconds(self._clock())
        open_at, most = None if decided_too else now, min(size, _PAGE)
        held = await self._queries.ask(
            lambda reader: [_shown(act, now) for act in reader.acts(after, most, open_at=open_at)]
        )
        return HeldPage(held, held[-1].act.id if len(held) == most else None)

    async def named(self, act_ids: Collection[int]) -> list[HeldAct]:
        """Return some held acts, in order of their ids. Raises NotFoundError: one does not exist."""
        now = microseconds(self._clock())
        found = await self._queries.ask(
            lambda reader: [_shown(act, now) for act in reader.acts_among(act_ids)]
        )
        if missing := sorted(set(act_ids) - {held.act.id for held in found}):
            raise unknown_act(missing[0])
        return found

    async def confirm(
        self, caller: Caller, act_id: int, digest: bytes, glass: Glass | None = None
    ) -> HeldAct:
        """Do what a held act asks for, to what was there then. Confirmed again, it is the same.

        Args:
            caller: a second principal, with the role that the act itself takes.
            act_id: the act.
            digest: of the act that was looked at.
            glass: breaks the glass, so that the caller need not be a second principal.

        Raises:
            NotFoundError: there is no such act, or what it is about is gone.
            NotAllowedError: the caller may not confirm it; or the client that asked for it may not do it now.
            NotHeldError: it was rejected, or it lapsed.
            RequestRefusedError: the digest is another's, or what it asks for is not possible any more.
            LedgerTamperedError: somebody changed it in the database.
        """
        now = self._clock()
        act, kind = await self._find(act_id)
        if act.digest != digest:  # before all else: what is checked here is what is confirmed then
            raise not_the_act(act_id)
        grant = self._check_role(caller, kind, now)
        if act.decision is None:
            self._check_requester(act, kind, now)
            self._check_glass(act, glass, now) if glass else self._check_second(act, grant)
            self._check_kind(act, kind, caller, now)
        by = self._access.principal_of(caller)
        broken = glass.glass if glass else None
        event_of = self._changes.decided(EventName.ACT_CONFIRMED, by, broken)
        decider = Decider(by, event_of, broken, again=act.decision is not None)
        decided = await self._ledger.acts.confirm(act_id, digest, decider, self._changes)
        if broken and decided.events:
            _log.critical(
                "act.glass_broken",
                act=act_id,
                kind=act.kind,
                client=by.identity,
                host_user=broken.user,
                reason=broken.reason,
            )
        self._revoked()
        await self._clients.look_at_once()
        return self._done(decided)

    async def reject(self, caller: Caller, act_id: int) -> HeldAct:
        """Reject a held act, so that it is never done. Its own client may do it, too.

        Raises:
            NotFoundError: there is no such act.
            NotAllowedError: the caller lacks the role that the act itself takes.
            NotHeldError: it was confirmed, or it lapsed.
            LedgerTamperedError: somebody changed it in the database.
        """
        _, kind = await self._find(act_id)
        self._check_role(caller, kind, self._clock())
        by = self._access.principal_of(caller)
        decider = Decider(by, self._changes.decided(EventName.ACT_REJECTED, by))
        return self._done(await self._ledger.acts.reject(act_id, decider))

    async def _find(self, act_id: int) -> tuple[Act, ActKind]:
        (held,) = await self.named([act_id])
        try:
            return held.act, ActKind(held.act.kind)
        except ValueError:
            raise LedgerTamperedError(f"the held act {act_id} is of no kind: it was changed") from None

    def _done(self, decided: Decided) -> HeldAct:
        for event in decided.events:
            self._audit.done(event)
        return _shown(decided.act, microseconds(self._clock()))._replace(newer=decided.newer)

    def _check_role(self, caller: Caller, kind: ActKind, now: datetime) -> Grant:
        grant = self._access.grant_of(caller, now)
        if not grant.roles & _ROLES[kind]:
            raise NotAllowedError(
                f"{grant.name} may not decide about a {kind.noun}: it lacks the role"
                f" {' or '.join(sorted(_ROLES[kind]))} (it has: {', '.join(sorted(grant.roles))})"
            )
        return grant

    def _check_requester(self, act: Act, kind: ActKind, now: datetime) -> None:
        """Check that the client that asked could still ask: it may have been stolen, and then denied."""
        hint = "Reject it. If it should be done, ask for it yourself."
        asked = Caller(act.client, act.certificate_sha256, act.spki_sha256)
        try:
            grant = self._access.still_granted(asked, now)
        except NotAllowedError as error:
            raise type(error)(f"the act {act.id} can't be confirmed: {error.message}", hint=hint) from None
        if not grant.roles & _ROLES[kind]:
            raise NotAllowedError(
                f"the act {act.id} can't be confirmed: {grant.name}, which asked for it, lacks the role now",
                hint=hint,
            )

    def _check_second(self, act: Act, grant: Grant) -> None:
        policy = self._access.policy
        own = policy.of(Caller(act.client, act.certificate_sha256, act.spki_sha256))
        if act.policy_client in grant.names or own is grant or policy.of_name(act.policy_client) is grant:
            raise NotAllowedError(
                f"{grant.name} asked for the act {act.id} itself: it takes a second principal to confirm it",
                hint="Have another operator confirm it. On the CA's host, `otahsm approve confirm"
                " --break-glass` does without, and is logged as such.",
            )

    def _check_glass(self, act: Act, glass: Glass, now: datetime) -> None:
        said = glass.glass
        if abs(microseconds(now) - said.at) > GLASS_SECONDS * 1_000_000:
            raise NotAllowedError(
                f"the break-glass confirmation of the act {act.id} is not of the last 10 minutes",
                hint="Run the command again, and compare the clocks of this host and the daemon.",
            )
        if not vouches(self._keys, act.digest, said, glass.mac):
            raise NotAllowedError(
                f"the break-glass confirmation of the act {act.id} was not made with the ledger's key",
                hint="Run the command on the CA's host, with the [ledger] key_file of this daemon.",
            )

    def _check_kind(self, act: Act, kind: ActKind, caller: Caller, now: datetime) -> None:
        """Check again what was checked when it was asked for, and whether the caller could ask for it."""
        try:
            subject = ToDeny(**json.loads(act.payload)).subject if kind is ActKind.DENIAL else ""
            terms = terms_in(act.payload) if kind is ActKind.BATCH else None
        except (ValueError, TypeError, RecursionError):
            raise LedgerTamperedError(f"the held act {act.id} can't be read: it was changed") from None
        if subject:
            self._clients.check_target(subject, caller, now, allow_unknown_name=True)
        if terms:
            self._batches.check_again(terms)


def _shown(act: Act, now: int) -> HeldAct:
    return HeldAct(act, act.state(now), *asked_in(act))
