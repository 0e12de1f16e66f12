"""What each client is allowed to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, time
from typing import Final, Literal, NamedTuple

from otahsm.access.caller import Caller, Owner, Principal
from otahsm.access.quota import Quotas
from otahsm.errors import NotAllowedError
from otahsm.patterns import Pattern

Role = Literal["issuer", "auditor", "operator", "admin"]

EVERY_PROFILE: Final = "*"
ANY_BELOW: Final = "/*"
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_ENDS: Final = "24:00"
ACTS_PER_DAY: Final = 100
FLEET_ACTS_PER_DAY: Final = 1000


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
        formerly: names that it had in the policy before: what the ledger has under them is its own.
        acts_per_day: how many acts of each kind that can't be undone it may do in 24 hours without another.
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
    formerly: frozenset[str] = frozenset()
    acts_per_day: int = ACTS_PER_DAY

    @property
    def names(self) -> frozenset[str]:
        """Its name, and those that it had before."""
        return self.formerly | {self.name}

    def check_time(self, now: datetime) -> None:
        """Raise NotAllowedError if the client is not allowed at this time."""
        self.check_until(now)
        if self.times and not any(times.hold(now) for times in self.times):
            raise NotAllowedError(
                f"{self.name} is not allowed at this time",
                hint="`otahsm policy explain` shows its hours. All times are UTC.",
            )

    def check_until(self, now: datetime) -> None:
        """Raise NotAllowedError if the grant has expired."""
        if self.until is not None and now >= self.until:
            raise NotAllowedError(f"the grant of {self.name} expired on {self.until:%Y-%m-%d %H:%M:%S %Z}")

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


class Below(NamedTuple):
    """Selects identities that start with `start`, except other clients' and those that start as theirs do."""

    start: str
    others: frozenset[str]
    others_start: frozenset[str]


class OwnerFilter(NamedTuple):
    """Selects what the ledger has of a client.

    Attributes:
        names: its names in the policy. Rows of older versions have none: the other attributes select those.
        identities: its identities.
        below: its other identities.
        certificate_sha256: the SHA-256 of one of its certificates; empty for none.
        identity: the identity of the caller that asks for its own; empty otherwise.
    """

    names: frozenset[str]
    identities: frozenset[str] = frozenset()
    below: frozenset[Below] = frozenset()
    certificate_sha256: bytes = b""
    identity: str = ""


class Policy:
    """Every client's grant.

    A client is found by the most specific of its identities: its public key, else its exact name, else the
    longest name with a `*` that matches.

    Args:
        grants: the grants of all clients; no two share a name or an identity.
        acts_per_day: as in `Grant`, of all clients together.
    """

    def __init__(self, grants: Iterable[Grant], acts_per_day: int = FLEET_ACTS_PER_DAY) -> None:
        self.acts_per_day = acts_per_day
        self.grants: Mapping[str, Grant] = {grant.name: grant for grant in grants}
        self._by_name = {name: grant for grant in self for name in grant.names}
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
        return self._pinned(caller) or self.named(caller.identity)

    def _pinned(self, caller: Caller) -> Grant | None:
        return self._by_identity.get(_pin_of(caller))

    def principal(self, caller: Caller) -> Principal:
        """Return the client that a caller is. Its name does not matter if the policy pins its key."""
        if grant := self._pinned(caller):
            return Principal(_pin_of(caller), grant.name)
        grant = self.named(caller.identity)
        return Principal(caller.identity, "" if grant is None else grant.name)

    def subjects_of(self, caller: Caller) -> frozenset[str]:
        """Return the names and digests of which each, if it is denied, denies a caller.

        The name in the certificate of a client that is pinned by key may be another's, so it is not one of
        them; the names that the policy has for that client are.
        """
        grant = self._pinned(caller)
        names = set() if grant is None else set(filter(_is_a_name, grant.identities))
        if grant is None or self.named(caller.identity) is grant:
            names.add(caller.identity)
        return frozenset({*names, _pin_of(caller), f"sha256:{caller.certificate_sha256.hex()}"})

    def is_name_of(self, grant: Grant, text: str) -> bool:
        """Return whether a text is a client's name in the policy, now or before, or one of its identities."""
        return text in grant.names or self.named(text) is grant

    def is_owner(self, grant: Grant, owner: Owner) -> bool:
        """Return whether something in the ledger belongs to a client.

        In rows of older versions, the identity counts as the name.
        """
        if owner.policy_client:
            return owner.policy_client in grant.names
        return self.named(owner.client) is grant

    def knows(self, name: str) -> bool:
        """Return whether a client has a name, or had it before."""
        return name in self._by_name

    def of_name(self, name: str) -> Grant | None:
        """Return what the client may do that has a name, or had it before; None if there is none."""
        return self._by_name.get(name)

    def owner_filter(self, name: str) -> OwnerFilter:
        """Return what selects the rows of a client, by a name in the policy that it has or once had."""
        grant = self._by_name.get(name)
        if grant is None:
            return OwnerFilter(frozenset({name}))
        exact = frozenset(item for item in grant.identities if not item.endswith(ANY_BELOW))
        below = frozenset(
            Below(
                start,
                frozenset(
                    item
                    for item, other in self._by_identity.items()
                    if other is not grant and item.startswith(start)
                ),
                frozenset(
                    item for item, other in self._below if other is not grant and item.startswith(start)
                ),
            )
            for start, its in self._below
            if its is grant
        )
        return OwnerFilter(grant.names, exact, below)

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


def _is_a_name(identity: str) -> bool:
    return not identity.startswith("spki:") and not identity.endswith(ANY_BELOW)


def _pin_of(caller: Caller) -> str:
    return f"spki:{caller.spki_sha256.hex()}"
