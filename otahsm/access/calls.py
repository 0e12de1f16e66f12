"""Rules for who may make a call. The daemon's table of methods has the rule of each call."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from otahsm.access.policy import Role


class Open(Enum):
    """Which clients may make a call whatever their roles are."""

    KNOWN = "every client of the policy"
    TRUSTED = "every client that TLS accepts and that is not denied"


class Call(NamedTuple):
    """Who may make a call.

    Attributes:
        roles: a client needs one of these.
        own: issuers may make it too, for what they own; the service checks that.
    """

    roles: frozenset[Role]
    own: bool = False

    def may(self, roles: frozenset[Role]) -> bool:
        """Return whether these roles allow the call."""
        return bool(self.roles & roles) or (self.own and "issuer" in roles)
