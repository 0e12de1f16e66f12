"""Who may make a call: rules, without the calls. Which call has which is in the daemon's table of methods."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from otahsm.access.policy import Role


class Open(Enum):
    """Who may make a call whatever its roles are."""

    KNOWN = "every client of the policy"
    TRUSTED = "every client that TLS lets in, and that is not cut off"


class Call(NamedTuple):
    """Who may make a call.

    Attributes:
        roles: whose roles include one of these.
        own: issuers may make it too, for what is their own: the service sees to that.
    """

    roles: frozenset[Role]
    own: bool = False

    def may(self, roles: frozenset[Role]) -> bool:
        """Return whether these roles allow the call."""
        return bool(self.roles & roles) or (self.own and "issuer" in roles)
