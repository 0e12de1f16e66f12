"""Decides, by the policy and by who is cut off as they are at the moment."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final

from otahsm.access.caller import Caller
from otahsm.access.calls import Call, Open
from otahsm.access.deny_list import DenyList
from otahsm.access.policy import Grant, Policy
from otahsm.errors import NotAllowedError

_SEES_ALL: Final = frozenset({"auditor", "operator", "admin"})


class AccessControl:
    """The one place that says yes or no.

    Args:
        policy: who may do what.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._deny_list = DenyList()
        self._listeners: list[Callable[[], None]] = []

    @property
    def policy(self) -> Policy:
        """The policy that holds now."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self._tell()

    @property
    def deny_list(self) -> DenyList:
        """Who is cut off now."""
        return self._deny_list

    @deny_list.setter
    def deny_list(self, deny_list: DenyList) -> None:
        self._deny_list = deny_list
        self._tell()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have a function called whenever decisions may be others than before."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def grant_of(self, caller: Caller, now: datetime) -> Grant:
        """Return what a caller may do now.

        Raises:
            ClientDeniedError: it is cut off.
            NotAllowedError: the policy does not know it, or this is not its time.
        """
        self._deny_list.check(caller, now)
        grant = self._policy.of(caller)
        if grant is None:
            raise NotAllowedError(
                f"the policy has no client {caller.identity}",
                hint="An operator can add it to policy.toml: `otahsm policy explain` shows what is allowed.",
            )
        grant.check_time(now)
        return grant

    def check_call(self, caller: Caller, name: str, call: Call | Open, now: datetime) -> None:
        """Check that a caller may make a call at all.

        Args:
            caller: who.
            name: the call's, for the error.
            call: who may make it.
            now: when.

        Raises:
            ClientDeniedError, NotAllowedError: it may not.
        """
        if call is Open.TRUSTED:
            self._deny_list.check(caller, now)
            return
        grant = self.grant_of(caller, now)
        if isinstance(call, Call) and not call.may(grant.roles):
            roles = sorted(call.roles | ({"issuer"} if call.own else set()))
            raise NotAllowedError(
                f"{grant.name} may not call {name}: that takes the role {' or '.join(roles)},"
                f" and its roles are {', '.join(sorted(grant.roles))}"
            )

    def may_see_batch(self, caller: Caller, batch: str, clients: Collection[str], now: datetime) -> bool:
        """Tell whether a caller may see a batch: one that it may issue in, or with a role for it all.

        Args:
            caller: who.
            batch: its name.
            clients: whom it is for; empty for everybody.
            now: when.

        Raises:
            CutOffError, NotAllowedError: it may do nothing.
        """
        grant = self.grant_of(caller, now)
        if grant.roles & _SEES_ALL:
            return True
        named = grant.batches is None or grant.batches.fullmatch(batch) is not None
        return named and (not clients or caller.identity in clients)

    def may_see(self, caller: Caller, client: str, certificate_sha256: bytes, now: datetime) -> bool:
        """Tell whether a caller may see what was issued to a client: its own, or with a role for it all.

        Args:
            caller: who.
            client: whom it was issued to, by its identity.
            certificate_sha256: and by its TLS certificate.
            now: when.

        Raises:
            CutOffError, NotAllowedError: it may do nothing.
        """
        grant = self.grant_of(caller, now)
        if grant.roles & _SEES_ALL or caller.certificate_sha256 == certificate_sha256:
            return True
        return client == caller.identity or self._policy.named(client) is grant
