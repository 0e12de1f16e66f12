"""What the issuance cycle must answer, said without a database: a model to hold the real one against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from otahsm.pki.crls.building import Reason
from otahsm.pki.profile import Profile


class Asked(NamedTuple):
    """One request; `sound` is false if the signature of its CSR is not good."""

    device: str
    key: int
    profile: str
    name: str
    sound: bool


class Kind(Enum):
    """What may be answered."""

    NEW = "a new certificate"
    REPLAY = "the certificate that there is"
    IN_PROGRESS = "it is being issued"
    CONFLICT = "something of it belongs to another certificate"
    REVOKED = "its certificate, or its key's, is revoked"
    REFUSED = "its CSR is no good"
    UNUSABLE = "the CA is not valid now"


@dataclass(eq=False)
class Certificate:
    """A certificate that is made, or that was."""

    asked: Asked
    not_after: datetime
    der: bytes | None = None
    live: bool = True
    revoked: Reason | None = None
    supersedes: Certificate | None = None


@dataclass
class Expected:
    """What one request may be answered; the certificate that is replayed, or made if all goes well."""

    kinds: set[Kind]
    certificate: Certificate | None = None


@dataclass
class Model:
    """All certificates that there are, and the rules.

    Args:
        profiles: by name.
        begin, end: when the CA is valid.
    """

    profiles: dict[str, Profile]
    begin: datetime
    end: datetime
    certificates: list[Certificate] = field(default_factory=list)
    _leaving: list[Certificate] = field(default_factory=list)

    def expect(self, batch: Sequence[Asked], now: datetime) -> list[Expected]:
        """Return what a batch is answered. What is new is in `certificates` from now on, without DER."""
        self._leaving = []
        return [self._expect(asked, now) for asked in batch]

    def _expect(self, asked: Asked, now: datetime) -> Expected:
        if not self.begin <= now <= self.end:
            return Expected({Kind.UNUSABLE})
        if not asked.sound:
            return Expected({Kind.REFUSED})
        current = self.current(asked.device, asked.profile)
        if refusals := self._refusals(asked, current):
            return Expected(refusals)
        profile = self.profiles[asked.profile]
        new = Certificate(asked, min(now + profile.validity, self.end))
        if current is not None:
            same_key = current.asked.key == asked.key
            if current.der is None:
                return Expected({Kind.IN_PROGRESS if same_key else Kind.CONFLICT})
            window = profile.renewal if same_key else profile.rekey
            if not (window and current.not_after - now <= window and new.not_after > current.not_after):
                return Expected({Kind.REPLAY}, current) if same_key else Expected({Kind.CONFLICT})
            current.live, new.supersedes = False, current
            self._leaving.append(current)
        self.certificates.append(new)
        return Expected({Kind.NEW}, new)

    def _refusals(self, asked: Asked, current: Certificate | None) -> set[Kind]:
        """What no window changes; which of several is told does not matter."""
        found = set()
        of_key = [one for one in self.certificates if one.asked.key == asked.key]
        if current is not None and current.revoked:
            found.add(Kind.REVOKED)
        if any(one.revoked is Reason.KEY_COMPROMISE for one in of_key):
            found.add(Kind.REVOKED)
        if any(one.asked.device != asked.device for one in of_key):
            found.add(Kind.CONFLICT)
        for one in self.certificates:
            # What a batch supersedes keeps its name until the batch is written.
            if (one.live or one in self._leaving) and asked.name and one.asked.name == asked.name:
                same = (one.asked.device, one.asked.profile) == (asked.device, asked.profile)
                found |= set() if same else {Kind.CONFLICT}
        return found

    def fail(self, expected: Sequence[Expected]) -> None:
        """What was to be made came to nothing; what it would have superseded is live again."""
        for each in reversed(expected):
            if each.kinds == {Kind.NEW} and each.certificate is not None:
                self.certificates.remove(each.certificate)
                if each.certificate.supersedes is not None:
                    each.certificate.supersedes.live = True

    def current(self, device: str, profile: str) -> Certificate | None:
        """The certificate that a device has, or is getting."""
        for one in self.certificates:
            if one.live and (one.asked.device, one.asked.profile) == (device, profile):
                return one
        return None

    def reset(self, device: str, profile: str) -> bool:
        """Let a device have another one; tell whether it had any."""
        current = self.current(device, profile)
        if current is not None:
            current.live = False
        return current is not None

    def revoke(self, device: str, reason: Reason) -> int:
        """Revoke all of a device; return how many it has."""
        having = [one for one in self.certificates if one.asked.device == device]
        for one in having:
            one.revoked = one.revoked or reason
        return len(having)
