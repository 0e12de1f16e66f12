"""Cutting clients off, on all daemons: who is cut off is in the ledger, and looked up every second."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from otahsm.access import SUBJECTS, AccessControl, Caller, Denied, DenyList
from otahsm.errors import NotAllowedError, NotFoundError, RequestRefusedError
from otahsm.ledger import Ledger
from otahsm.ledger.queries import LedgerQueries
from otahsm.system.clock import Clock, microseconds
from otahsm.transparency.audit import AuditLog, EventName

_MAX_TEXT: Final = 512
_DIGESTS: Final = ("spki:", "sha256:")
_DIGEST: Final = 64  # hexadecimal digits
_DIGITS: Final = frozenset("0123456789abcdef")


class DeniedClients:
    """Cuts clients off and lets them in again.

    Args:
        ledger: where that is written.
        inspection: where it is read; of its own, so that it waits for nobody's questions.
        access: told of who is cut off.
        audit: told of what is done.
        clock: tells when.
    """

    def __init__(
        self,
        ledger: Ledger,
        queries: LedgerQueries,
        access: AccessControl,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._access = access
        self._audit = audit
        self._clock = clock
        self._distrusted: Mapping[bytes, str] = {}
        self._denied: list[Denied] = []

    async def deny(self, subject: str, reason: str, caller: Caller) -> Denied:
        """Cut a client off, or a key or a certificate; return how it is.

        Args:
            subject: "uri:", "dns:", "cn:" and a name; "spki:" or "sha256:" and a digest.
            reason: why, for people.
            caller: who says so.

        Raises:
            RequestRefusedError: the subject is none.
            NotAllowedError: an operator may not cut off an admin, and nobody itself.
            LedgerUnavailableError: nothing was changed.
        """
        check_subject(subject, reason)
        now = self._clock()
        denied = Denied(subject, reason, caller.identity, microseconds(now))
        self._check_target(denied, caller, now)
        details = {"subject": subject, "reason": reason}
        change = await self._ledger.deny(
            denied, lambda _: self._audit.event(EventName.CLIENT_CUT_OFF, caller.identity, details)
        )
        self._audit.done(change.event)
        await self.look()
        return change.result

    async def allow(self, subject: str, caller: Caller) -> None:
        """Let a client in again.

        Raises:
            NotFoundError: it is not cut off.
            LedgerUnavailableError: nothing was changed.
        """
        details = {"subject": subject}
        change = await self._ledger.allow(
            subject, lambda _: self._audit.event(EventName.CLIENT_LET_IN, caller.identity, details)
        )
        if change.result is None:
            raise NotFoundError(
                f"{subject[:128]!a} is not cut off", hint="`otahsm client list` shows who is."
            )
        self._audit.done(change.event)
        await self.look()

    async def listed(self) -> list[Denied]:
        """Return everybody who is cut off by an operator. Raises LedgerUnavailableError."""
        return await self._queries.denied()

    def distrust(self, distrusted: Mapping[bytes, str]) -> None:
        """Take whose certificates don't count any more, by their SHA-256, and why."""
        self._distrusted = distrusted
        self._access.deny_list = DenyList(self._denied, distrusted)

    async def look(self) -> None:
        """See who is cut off. Raises LedgerUnavailableError."""
        denied = await self._queries.denied()
        if denied != self._denied:
            self._denied = denied
            self._access.deny_list = DenyList(denied, self._distrusted)

    def _check_target(self, denied: Denied, caller: Caller, now: datetime) -> None:
        if DenyList([denied]).names(caller):
            raise NotAllowedError("nobody cuts off itself", hint="Let another operator or admin do it.")
        if "admin" in self._access.grant_of(caller, now).roles:
            return
        target = self._access.policy.named(denied.subject)
        if denied.subject.startswith(_DIGESTS) or (target is not None and "admin" in target.roles):
            # Whose a digest is, nobody can tell.
            raise NotAllowedError(
                f"{denied.subject} is not for an operator to cut off: that takes an admin",
                hint="Name the client: uri:, dns: or cn:. Admins are for admins alone to cut off.",
            )


def check_subject(subject: str, reason: str) -> None:
    """Check whom somebody wants to cut off, and why. Raises RequestRefusedError."""
    kind, _, rest = subject.partition(":")
    digest = kind in {"spki", "sha256"}
    if (
        f"{kind}:" not in SUBJECTS
        or not rest
        or len(subject) > _MAX_TEXT
        or not subject.isprintable()
        or (digest and (len(rest) != _DIGEST or not set(rest) <= _DIGITS))
    ):
        raise RequestRefusedError(
            "subject",
            f"it must begin with one of {' '.join(SUBJECTS)} and a name, or a SHA-256 of 64 small digits",
        )
    if len(reason) > _MAX_TEXT or not reason.isprintable():
        raise RequestRefusedError("reason", f"it has at most {_MAX_TEXT} printable characters")
