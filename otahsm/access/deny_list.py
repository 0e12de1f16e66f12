"""Clients that are denied whatever the policy says: by an operator, by a CRL, or by expiry."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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

    def check(self, caller: Caller, subjects: Collection[str], now: datetime) -> None:
        """Raise ClientDeniedError if a caller is denied; `subjects` as `Policy.subjects_of` returns them."""
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
        if any(subject in self.denied for subject in subjects):
            raise ClientDeniedError(f"an operator has denied {caller.identity}")
