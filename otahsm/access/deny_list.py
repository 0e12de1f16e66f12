"""Who has been cut off, whatever the policy says: by an operator, by its CA, or by the clock."""

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
    """Somebody an operator has cut off.

    Attributes:
        subject: one of `SUBJECTS`, and a name or the SHA-256 in hexadecimal.
        reason: why, for people.
        client: who said so.
        at: when, in microseconds since the Unix epoch.
    """

    subject: str
    reason: str
    client: str
    at: int


class DenyList:
    """Everybody who is cut off at some moment.

    Args:
        denied: by an operator.
        distrusted: certificates that their CA has revoked, or whose CA is not trusted any more: their
            SHA-256, and why.
    """

    def __init__(
        self, denied: Iterable[Denied] = (), distrusted: Mapping[bytes, str] = MappingProxyType({})
    ) -> None:
        self.denied = {item.subject: item for item in denied}
        self.distrusted = dict(distrusted)

    def check(self, caller: Caller, now: datetime) -> None:
        """Raise CutOffError if a caller is cut off."""
        if caller.not_after <= now:
            raise ClientDeniedError(
                f"the certificate of {caller.identity} ended at {caller.not_after:%Y-%m-%d %H:%M:%S} UTC",
                hint="Take a new certificate of the operator CA, and connect anew.",
            )
        if why := self.distrusted.get(caller.certificate_sha256):
            raise ClientDeniedError(
                f"{caller.identity} is cut off: {why}", hint="Take a new certificate, and connect anew."
            )
        if self.denied and self.names(caller):
            raise ClientDeniedError(f"{caller.identity} is cut off by an operator")

    def names(self, caller: Caller) -> bool:
        """Tell whether an operator has denied a caller, by its name, its key or its certificate."""
        subjects = (
            caller.identity,
            f"spki:{caller.spki_sha256.hex()}",
            f"sha256:{caller.certificate_sha256.hex()}",
        )
        return any(subject in self.denied for subject in subjects)
