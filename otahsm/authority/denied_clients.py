"""Denies clients on all daemons: the denials are in the ledger, and each daemon reads them every second."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from otahsm.access import SUBJECTS, AccessControl, Caller, Denied, DenyList, check_identity
from otahsm.authority.changes import Changes
from otahsm.errors import LedgerUnavailableError, NotAllowedError, NotFoundError, RequestRefusedError
from otahsm.ledger import Ledger, LedgerReader
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.system.clock import Clock, microseconds
from otahsm.transparency.audit import AuditLog, EventName

_MAX_TEXT: Final = 512
_DIGESTS: Final = ("spki:", "sha256:")


class DeniedClients:
    """Denies clients, and allows them again.

    Args:
        ledger: where denials are written.
        queries: where denials are read; not shared, so that no other query delays it.
        access: enforces the denials.
        audit: records each change.
        changes: makes the events of denials, and knows the quotas.
        clock: the time of day.
    """

    def __init__(
        self,
        ledger: Ledger,
        queries: LedgerQueries,
        access: AccessControl,
        audit: AuditLog,
        changes: Changes,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._access = access
        self._audit = audit
        self._changes = changes
        self._clock = clock
        self._distrusted: Mapping[bytes, str] = {}
        self._denied: list[Denied] = []

    async def deny(
        self,
        subject: str,
        reason: str,
        caller: Caller,
        *,
        allow_unknown_name: bool = False,
        validate_only: bool = False,
    ) -> Denied:
        """Deny a client, a key or a certificate; return the denial, or the existing one.

        Args:
            subject: "uri:", "dns:", "cn:" and a name; "spki:" or "sha256:" and a digest.
            reason: a human-readable reason.
            caller: the client that requests it.
            allow_unknown_name: whether the name may be one that no client of the policy has.
            validate_only: whether to return what would be recorded, and change nothing.

        Raises:
            RequestRefusedError: the subject or the reason is malformed, or no client of the policy has the
                name.
            NotAllowedError: the caller is an operator, and the subject an admin or no client of the policy;
                or it is the caller itself.
            HeldError: it exceeds a quota, and a second principal can confirm it.
            LedgerUnavailableError: nothing was changed.
        """
        check_subject(subject, reason)
        now = self._clock()
        by = self._access.principal_of(caller)
        denied = Denied(subject, reason, by.identity, microseconds(now))
        self.check_target(subject, caller, now, allow_unknown_name=allow_unknown_name)
        if validate_only:
            return denied
        change = await self._ledger.acts.deny(
            denied, self._changes.requester(caller), self._changes.denied(by, denied)
        )
        result = self._changes.settle(change)
        await self.look_at_once()
        return result

    async def allow(self, subject: str, caller: Caller) -> None:
        """Allow a denied subject again.

        Raises:
            NotFoundError: it is not denied.
            LedgerUnavailableError: nothing was changed.
        """
        by = self._access.principal_of(caller)
        details = by.details({"subject": subject})
        change = await self._ledger.allow(
            subject, lambda _: self._audit.event(EventName.CLIENT_LET_IN, by.identity, details)
        )
        if change.result is None:
            raise NotFoundError(f"{subject[:128]!a} is not denied", hint="`otahsm client list` shows who is.")
        self._audit.done(change.event)
        await self.look_at_once()

    async def listed(self) -> list[Denied]:
        """Return all denials by operators. Raises LedgerUnavailableError."""
        return await self._queries.ask(LedgerReader.denied)

    def distrust(self, distrusted: Mapping[bytes, str]) -> None:
        """Deny certificates, by SHA-256, that their CA revoked or whose CA is no longer trusted."""
        self._distrusted = distrusted
        self._access.deny_list = DenyList(self._denied, distrusted)

    async def look(self) -> None:
        """Read the denials. Raises LedgerUnavailableError: the previous denials stay in force."""
        denied = await self._queries.ask(LedgerReader.denied)
        if denied != self._denied:
            self._denied = denied
            self._access.deny_list = DenyList(denied, self._distrusted)

    async def look_at_once(self) -> None:
        """Apply a change that is already durable; if this fails, the next `look` applies it."""
        with contextlib.suppress(LedgerUnavailableError):
            await self.look()

    def check_target(self, subject: str, caller: Caller, now: datetime, *, allow_unknown_name: bool) -> None:
        """Check that a caller may deny a subject; arguments and errors as for `deny`."""
        if subject in self._access.policy.subjects_of(caller):
            raise NotAllowedError("a client can't deny itself", hint="Let another operator or admin do it.")
        is_admin = "admin" in self._access.grant_of(caller, now).roles
        target = self._access.policy.named(subject)
        is_digest = subject.startswith(_DIGESTS)
        if not is_admin and (is_digest or (target is not None and "admin" in target.roles)):
            # A digest doesn't show whose key or certificate it is: it may be an admin's.
            raise NotAllowedError(
                f"an operator may not deny {subject}: that takes the role admin",
                hint="Name the client by uri:, dns: or cn:. Only an admin can deny an admin.",
            )
        if target is not None or is_digest:
            return
        if not allow_unknown_name:
            raise RequestRefusedError(
                "subject",
                f"no client of the policy has the name {subject}",
                hint="Check the name. Deny a client whose key is pinned by its key (spki:) or --certificate."
                " An admin can deny an unknown name with --anyway.",
            )
        if not is_admin:
            raise NotAllowedError(
                f"an operator may not deny {subject}, which no client of the policy has: that takes"
                " the role admin",
                hint="What the policy does not name is refused anyway.",
            )


def check_subject(subject: str, reason: str) -> None:
    """Check the subject and the reason of a denial. Raises RequestRefusedError."""
    try:
        check_identity(subject, SUBJECTS)
    except ValueError as error:
        raise RequestRefusedError("subject", f"the subject {error}") from None
    if "*" in subject:
        raise RequestRefusedError(
            "subject",
            "the subject must not have a *: each client is denied by its own name",
            hint="To deny all clients of an entry, take it out of the policy and send SIGHUP.",
        )
    if len(subject) > _MAX_TEXT:
        raise RequestRefusedError("subject", f"the subject must have at most {_MAX_TEXT} characters")
    if len(reason) > _MAX_TEXT or not reason.isprintable():
        raise RequestRefusedError("reason", f"the reason must be at most {_MAX_TEXT} printable characters")
