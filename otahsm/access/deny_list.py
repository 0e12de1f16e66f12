"""Clients that are denied whatever the policy says: by an operator, by a CRL, or by expiry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final, NamedTuple

from otahsm.access.caller import Caller
from otahsm.errors import ClientDeniedError

# What may be denied: a name, a public key, or one certificate.
SUBJECTS: Final = ("uri:", "dns:", "cn:", "spki:", "sha256:")


class Denied(NamedTuple):
    """A client that an operator has denied.

    Attributes:
        subject: one of `SUBJECTS`, and a name or the SHA-256 in hexadecimal.
        reason: a free text.
        client: the operator who denied it.
        at: when, in microseconds since the Unix epoch.
    """

    subject: str
    reason: str
    client: str
    at: int


class DenyList:
    """The clients that are denied at some moment.

    Args:
        denied: those that an operator has denied.
        distrusted: certificates that their CA has revoked, or whose CA is no longer trusted: their
            SHA-256, and why.
    """

    def __init__(
        self, denied: Iterable[Denied] = (), distrusted: Mapping[bytes, str] = MappingProxyType({})
    ) -> None:
        self.denied = {item.subject: item for item in denied}
        self.distrusted = dict(distrusted)

    def check(self, caller: Caller, now: datetime, *, by_name: bool = True) -> None:
        """Check that a caller is not denied.

        Args:
            caller: who makes the call.
            now: the time of the call.
            by_name: whether its name counts, or only its key and its certificate.

        Raises:
            ClientDeniedError: it is.
        """
        if caller.not_after <= now:
            raise ClientDeniedError(
                f"the certificate of {caller.identity} expired on {caller.not_after:%Y-%m-%d %H:%M:%S} UTC",
                hint="Get a new certificate from the operator CA and reconnect.",
            )
        if why := self.distrusted.get(caller.certificate_sha256):
            raise ClientDeniedError(
                f"{caller.identity} is denied: {why}",
                hint="Get a new certificate from the operator CA and reconnect.",
            )
        if self.denied and self.names(caller, by_name=by_name):
            raise ClientDeniedError(f"an operator has denied {caller.identity}")

    def names(self, caller: Caller, *, by_name: bool = True) -> bool:
        """Return whether an operator has denied a caller, by its name, its key or its certificate."""
        subjects = (f"spki:{caller.spki_sha256.hex()}", f"sha256:{caller.certificate_sha256.hex()}")
        return (by_name and caller.identity in self.denied) or any(item in self.denied for item in subjects)
