"""A policy, ready to decide by: what `policy.toml` allows each client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from otahsm.access.caller import Caller
from otahsm.access.quota import Quotas
from otahsm.config import (
    ANY_BELOW,
    EVERY_PROFILE,
    ClientPolicy,
    PolicyConfig,
    Role,
    Times,
    compile_pattern,
    parse_times,
)
from otahsm.errors import NotAllowedError


class Grant(NamedTuple):
    """What one client may do.

    Attributes:
        name: the client's in the policy.
        device_ids, batches: patterns that must match as a whole, in linear time; None: anything.
        times: when; empty for always.
        until: and no later; None for no end.
    """

    name: str
    roles: frozenset[Role]
    profiles: frozenset[str]
    device_ids: Any
    batches: Any
    times: tuple[Times, ...]
    until: datetime | None
    quotas: Quotas

    def check_time(self, now: datetime) -> None:
        """Raise NotAllowedError at times that are not the client's."""
        if self.until is not None and now >= self.until:
            raise NotAllowedError(f"{self.name} was allowed in until {self.until:%Y-%m-%d %H:%M:%S %Z}")
        if self.times and not any(times.hold(now) for times in self.times):
            raise NotAllowedError(
                f"{self.name} is not allowed in at this time",
                hint="`otahsm policy explain` shows when it is. All times are UTC.",
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
            raise NotAllowedError(f"{self.name} is no issuer: its roles are {_listed(self.roles)}")
        if profile not in self.profiles and EVERY_PROFILE not in self.profiles:
            raise NotAllowedError(f"{self.name} may not issue under the profile {profile[:64]!a}")
        if self.batches is not None and not self.batches.fullmatch(batch):
            what = f"in the batch {batch[:64]!a}" if batch else "outside of a batch"
            raise NotAllowedError(f"{self.name} may not issue {what}")

    def check_device(self, device_id: str) -> None:
        """Raise NotAllowedError if the client may not issue for a device."""
        if self.device_ids is not None and not self.device_ids.fullmatch(device_id):
            raise NotAllowedError(f"{self.name} may not issue for the device id {device_id[:128]!a}")


class Policy:
    """Every client's grant.

    A client is known by the most specific of its identities: its public key, else its exact name, else the
    longest name with a `*` that fits.

    Args:
        config: what the file says.
    """

    def __init__(self, config: PolicyConfig) -> None:
        self.grants: Mapping[str, Grant] = {
            name: _grant(name, client) for name, client in config.clients.items()
        }
        self._by_identity: dict[str, Grant] = {}
        below: dict[str, Grant] = {}
        for name, client in config.clients.items():
            for identity in client.identities:
                if identity.endswith(ANY_BELOW):
                    below[identity.removesuffix("*")] = self.grants[name]
                else:
                    self._by_identity[identity] = self.grants[name]
        self._below = sorted(below.items(), key=lambda item: -len(item[0]))

    def __iter__(self) -> Iterator[Grant]:
        return iter(self.grants.values())

    def of(self, caller: Caller) -> Grant | None:
        """Return what a caller may do; None: it is not known."""
        return self._by_identity.get(f"spki:{caller.spki_sha256.hex()}") or self.named(caller.identity)

    def named(self, identity: str) -> Grant | None:
        """Return what whoever has this identity may do; None: nobody knows it."""
        exact = self._by_identity.get(identity)
        if exact is not None:
            return exact
        return next(
            (
                grant
                for start, grant in self._below
                if identity.startswith(start) and len(identity) > len(start)
            ),
            None,
        )


def _grant(name: str, client: ClientPolicy) -> Grant:
    return Grant(
        name,
        client.roles,
        client.profiles,
        compile_pattern(client.device_ids) if client.device_ids is not None else None,
        compile_pattern(client.batches) if client.batches is not None else None,
        tuple(map(parse_times, client.times)),
        client.until,
        Quotas(client.per_second, client.per_day, client.total),
    )


def _listed(names: frozenset[Role]) -> str:
    return ", ".join(sorted(names))
