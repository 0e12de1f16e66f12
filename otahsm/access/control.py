"""Decides by the current policy and the current deny list."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final

from otahsm.access.caller import Caller, Owner, Principal
from otahsm.access.calls import Call, Open
from otahsm.access.deny_list import DenyList
from otahsm.access.policy import Grant, OwnerFilter, Policy
from otahsm.errors import NotAllowedError

_SEES_ALL: Final = frozenset({"auditor", "operator", "admin"})


class AccessControl:
    """The one place that allows or refuses a call.

    Args:
        policy: what each client may do.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._deny_list = DenyList()
        self._listeners: list[Callable[[], None]] = []

    @property
    def policy(self) -> Policy:
        """The current policy."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self._notify()

    @property
    def deny_list(self) -> DenyList:
        """The current deny list."""
        return self._deny_list

    @deny_list.setter
    def deny_list(self, deny_list: DenyList) -> None:
        self._deny_list = deny_list
        self._notify()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the policy or the deny list changes."""
        self._listeners.append(listener)

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    def principal_of(self, caller: Caller) -> Principal:
        """Return the client that a caller is."""
        return self._policy.principal(caller)

    def _check_denied(self, caller: Caller, now: datetime) -> None:
        subjects = self._policy.subjects_of(caller) if self._deny_list.denied else ()
        self._deny_list.check(caller, subjects, now)

    def grant_of(self, caller: Caller, now: datetime) -> Grant:
        """Return what a caller may do now.

        Raises:
            ClientDeniedError: the caller is denied.
            NotAllowedError: the policy does not name the caller, or does not allow it at this time.
        """
        self._check_denied(caller, now)
        grant = self._policy.of(caller)
        if grant is None:
            raise NotAllowedError(
                f"the policy has no client {caller.identity}",
                hint="An operator can add it to policy.toml; `otahsm policy explain` shows what is allowed.",
            )
        grant.check_time(now)
        return grant

    def still_granted(self, caller: Caller, now: datetime) -> Grant:
        """Return what a client may do that asked for something before, whatever its hours are.

        Args:
            caller: as it was then.
            now: the time.

        Raises:
            ClientDeniedError: it is denied.
            NotAllowedError: the policy does not name it any more, or its grant expired.
        """
        self._check_denied(caller, now)
        grant = self._policy.of(caller)
        if grant is None:
            raise NotAllowedError(f"the policy has no client {caller.identity} any more")
        grant.check_until(now)
        return grant

    def check_call(self, caller: Caller, name: str, call: Call | Open, now: datetime) -> None:
        """Check that a caller may make a call at all.

        Args:
            caller: who makes the call.
            name: the name of the call, for the error.
            call: the rule of the call.
            now: the time of the call.

        Raises:
            ClientDeniedError, NotAllowedError: the caller may not make it.
        """
        if call is Open.TRUSTED:
            self._check_denied(caller, now)
            return
        grant = self.grant_of(caller, now)
        if isinstance(call, Call) and not call.may(grant.roles):
            roles = sorted(call.roles | ({"issuer"} if call.own else set()))
            raise NotAllowedError(
                f"{grant.name} may not call {name}: it lacks the role {' or '.join(roles)}"
                f" (it has: {', '.join(sorted(grant.roles))})"
            )

    def may_see_batch(self, caller: Caller, batch: str, clients: Collection[str], now: datetime) -> bool:
        """Return whether a caller may see a batch: it may issue in it, or has a role that sees everything.

        Args:
            caller: who makes the call.
            batch: the name of the batch.
            clients: the clients that may issue in it, by name or identity; empty for all.
            now: the time of the call.

        Raises:
            ClientDeniedError, NotAllowedError: the caller may do nothing now.
        """
        grant = self.grant_of(caller, now)
        if grant.roles & _SEES_ALL:
            return True
        named = grant.batches is None or grant.batches.fullmatch(batch)
        return named and self.may_issue_in(grant, clients)

    def may_issue_in(self, grant: Grant, clients: Collection[str]) -> bool:
        """Return whether a client is one of those of a batch; `clients` as for `may_see_batch`."""
        return not clients or any(self._policy.is_name_of(grant, client) for client in clients)

    def may_see(self, caller: Caller, owner: Owner, now: datetime) -> bool:
        """Return whether a caller may see what a client was issued: it is that client, or sees everything.

        Args:
            caller: who makes the call.
            owner: to whom it was issued.
            now: the time of the call.

        Raises:
            ClientDeniedError, NotAllowedError: the caller may do nothing now.
        """
        grant = self.grant_of(caller, now)
        if grant.roles & _SEES_ALL or self._policy.is_owner(grant, owner):
            return True
        return not owner.policy_client and caller.certificate_sha256 == owner.certificate_sha256

    def seen_of(self, caller: Caller, client: str, now: datetime) -> OwnerFilter | None:
        """Return what selects the certificates of a client that a caller may list; None to select by nothing.

        Args:
            caller: who makes the call.
            client: the requested client, by its name in the policy or its identity; empty for any.
            now: the time of the call.

        Raises:
            ClientDeniedError, NotAllowedError: the caller may not see them, or may do nothing now.
        """
        grant = self.grant_of(caller, now)
        if grant.roles & _SEES_ALL:
            return self._policy.owner_filter(client) if client and ":" not in client else None
        if client and not self._policy.is_name_of(grant, client):
            raise NotAllowedError(f"{grant.name} may not see the certificates of other clients")
        own = self._policy.owner_filter(grant.name)
        identity = self._policy.principal(caller).identity
        return own._replace(certificate_sha256=caller.certificate_sha256, identity=identity)
