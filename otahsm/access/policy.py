"""What each client is allowed to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, time
from typing import Final, Literal, NamedTuple

from otahsm.access.caller import Caller
from otahsm.access.quota import Quotas
from otahsm.errors import NotAllowedError
from otahsm.patterns import Pattern

Role = Literal["issuer", "auditor", "operator", "admin"]

EVERY_PROFILE: Final = "*"
ANY_BELOW: Final = "/*"
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_ENDS: Final = "24:00"


class Times(NamedTuple):
    """Days of the week (0 is Monday) and hours on each of them, in UTC; without an end, until midnight."""

    days: frozenset[int]
    start: time
    end: time | None

    def __str__(self) -> str:
        days = ",".join(DAYS[day] for day in sorted(self.days))
        return f"{days} {self.start:%H:%M}-{self.end.strftime('%H:%M') if self.end else DAY_ENDS}"

    def hold(self, moment: datetime) -> bool:
        """Return whether a moment is within these hours."""
        utc = moment.astimezone(UTC)
        return (
            utc.weekday() in self.days
            and self.start <= utc.time()
            and (self.end is None or utc.time() < self.end)
        )


class Grant(NamedTuple):
    """What one client may do.

    Attributes:
        name: the client's name in the policy.
        identities: the identities of the client; one may end in `/*` (see `Policy`).
        device_ids, batches: patterns that must match as a whole; None allows all.
        times: the hours in which it is allowed; empty for always.
        until: when the grant expires; None for never.
    """

    name: str
    identities: tuple[str, ...]
    roles: frozenset[Role]
    profiles: frozenset[str] = frozenset()
    device_ids: Pattern | None = None
    batches: Pattern | None = None
    times: tuple[Times, ...] = ()
    until: datetime | None = None
    quotas: Quotas = Quotas()

    def check_time(self, now: datetime) -> None:
        """Raise NotAllowedError if the client is not allowed at this time."""
        if self.until is not None and now >= self.until:
            raise NotAllowedError(f"the grant of {self.name} expired on {self.until:%Y-%m-%d %H:%M:%S %Z}")
        if self.times and not any(times.hold(now) for times in self.times):
            raise NotAllowedError(
                f"{self.name} is not allowed at this time",
                hint="`otahsm policy explain` shows its hours. All times are UTC.",
            )

    def check_order(self, profile: str, batch: str) -> None:
        """Check what an order names; its device id is for `check_device`.

        Args:
            profile: a name that is not empty.
            batch: empty for none.

        Raises:
            NotAllowedError: the client may not.
        """
        if "issuer" not in self.roles:
            raise NotAllowedError(
                f"{self.name} lacks the role issuer (it has: {', '.join(sorted(self.roles))})"
            )
        if profile not in self.profiles and EVERY_PROFILE not in self.profiles:
            raise NotAllowedError(f"{self.name} may not issue under the profile {profile[:64]!a}")
        if self.batches is not None and not self.batches.fullmatch(batch):
            what = f"in the batch {batch[:64]!a}" if batch else "outside of a batch"
            raise NotAllowedError(f"{self.name} may not issue {what}")

    def check_device(self, device_id: str) -> None:
        """Raise NotAllowedError if the client may not issue for a device."""
        if self.device_ids is not None and not self.device_ids.fullmatch(device_id):
            raise NotAllowedError(f"{self.name} may not issue for the device id {device_id[:128]!a}")


class Match(NamedTuple):
    """A client of the policy, and the one of its identities by which it was found."""

    grant: Grant
    identity: str


class Policy:
    """Every client's grant.

    A client is found by the most specific of its identities: its public key, else its exact name, else the
    longest name with a `*` that matches.

    Args:
        grants: the grants of all clients; no two share a name or an identity.
    """

    def __init__(self, grants: Iterable[Grant]) -> None:
        self.grants: Mapping[str, Grant] = {grant.name: grant for grant in grants}
        self._by_identity: dict[str, Grant] = {}
        below: dict[str, Grant] = {}
        for grant in self:
            for identity in grant.identities:
                if identity.endswith(ANY_BELOW):
                    below[identity.removesuffix("*")] = grant
                else:
                    self._by_identity[identity] = grant
        self._below = sorted(below.items(), key=lambda item: -len(item[0]))

    def __iter__(self) -> Iterator[Grant]:
        return iter(self.grants.values())

    def of(self, caller: Caller) -> Grant | None:
        """Return what a caller may do; None if the policy does not name it."""
        return self._by_identity.get(f"spki:{caller.spki_sha256.hex()}") or self.named(caller.identity)

    def named(self, identity: str) -> Grant | None:
        """Return what the client with this identity may do; None if the policy does not name it."""
        match = self.match(identity)
        return match and match.grant

    def match(self, identity: str) -> Match | None:
        """Return the client that a name or a pinned key ("spki:") is of; None if it is nobody's."""
        exact = self._by_identity.get(identity)
        if exact is not None:
            return Match(exact, identity)
        return next(
            (
                Match(grant, f"{start}*")
                for start, grant in self._below
                if identity.startswith(start) and len(identity) > len(start)
            ),
            None,
        )

    def is_pinned_admin(self, caller: Caller) -> bool:
        """Return whether a caller is an admin by its key alone, and its name is not one of that admin's."""
        pinned = self._by_identity.get(f"spki:{caller.spki_sha256.hex()}")
        return pinned is not None and "admin" in pinned.roles and self.named(caller.identity) is not pinned
