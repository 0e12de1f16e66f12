"""`policy.toml`: which client may make which call. What it does not allow is refused."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Final, Self

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from otahsm.access import (
    ACTS_PER_DAY,
    ANY_BELOW,
    DAY_ENDS,
    DAYS,
    FLEET_ACTS_PER_DAY,
    Grant,
    Policy,
    Quotas,
    Role,
    Times,
    check_identity,
)
from otahsm.config.fields import ListOf, Pattern, Section, SetOf
from otahsm.patterns import compile_pattern

_KINDS: Final = ("uri:", "dns:", "cn:", "spki:")
_TIMES: Final = re.compile(
    r"(?P<first>[A-Za-z]{3})(-(?P<last>[A-Za-z]{3}))? (?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)"
)
_MAX_QUOTA: Final = 10**12


def parse_times(text: str) -> Times:
    """Read times such as "Mon-Fri 06:00-22:00" or "Sun 00:00-24:00".

    Raises:
        ValueError: the text has another form, or the end is not after the start.
    """
    wrong = ValueError("must be days and hours in UTC, as in Mon-Fri 06:00-22:00 or Sat 08:00-24:00")
    match = _TIMES.fullmatch(text)
    if not match:
        raise wrong
    try:
        first = DAYS.index(match["first"].capitalize())
        last = DAYS.index((match["last"] or match["first"]).capitalize())
        start = time.fromisoformat(match["start"])
        end = None if match["end"] == DAY_ENDS else time.fromisoformat(match["end"])
    except ValueError:
        raise wrong from None
    if end is not None and end <= start:
        raise ValueError("the end must be after the start; write two entries for hours across midnight")
    span = range(first, last + 1 if first <= last else last + 1 + len(DAYS))  # Sat-Mon wraps around
    return Times(frozenset(day % len(DAYS) for day in span), start, end)


def _identity(text: str) -> str:
    check_identity(text, _KINDS)
    if "*" in text and not (
        text.startswith("uri:") and text.endswith(ANY_BELOW) and text.count("*") == 1 and "://" in text[:-2]
    ):
        raise ValueError("* is only allowed after the last / of a URI, as in uri:spiffe://a.org/b/*")
    return text


def _times(text: str) -> str:
    parse_times(text)
    return text


Identity = Annotated[str, AfterValidator(_identity)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Quota = Annotated[int, Field(ge=1, le=_MAX_QUOTA)]
Acts = Annotated[int, Field(ge=0, le=_MAX_QUOTA)]  # 0: each takes two


class ClientPolicy(Section):
    """[clients.NAME]: one client, whichever certificate it uses, and what it may do."""

    identities: Annotated[ListOf[Identity], Field(min_length=1)]
    roles: Annotated[SetOf[Role], Field(min_length=1)]
    profiles: SetOf[str] = frozenset()
    device_ids: Pattern | None = None
    batches: Pattern | None = None
    times: ListOf[Annotated[str, AfterValidator(_times)]] = ()
    until: AwareDatetime | None = None
    per_second: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    per_day: Quota | None = None
    total: Quota | None = None
    formerly: SetOf[Name] = frozenset()
    acts_per_day: Acts = ACTS_PER_DAY

    @model_validator(mode="after")
    def _issuers_have_profiles(self) -> Self:
        for_issuers = {"profiles", "device_ids", "batches", "per_second", "per_day", "total"}
        given = sorted(for_issuers & self.model_fields_set)
        if "issuer" not in self.roles and given:
            raise ValueError(f"only a client with the role issuer can have {', '.join(given)}")
        if "issuer" in self.roles and not self.profiles:
            raise ValueError('an issuer needs profiles: a list of names, or ["*"] for every profile')
        return self

    @model_validator(mode="after")
    def _operators_have_acts(self) -> Self:
        if "acts_per_day" in self.model_fields_set and not self.roles & {"operator", "admin"}:
            raise ValueError("only a client with the role operator or admin can have acts_per_day")
        return self

    def build(self, name: str) -> Grant:
        """Return what the client with this name may do."""
        return Grant(
            name,
            self.identities,
            self.roles,
            self.profiles,
            compile_pattern(self.device_ids) if self.device_ids is not None else None,
            compile_pattern(self.batches) if self.batches is not None else None,
            tuple(map(parse_times, self.times)),
            self.until,
            Quotas(self.per_second, self.per_day, self.total),
            self.formerly,
            self.acts_per_day,
        )


class PolicyConfig(Section):
    """The whole file."""

    acts_per_day: Acts = FLEET_ACTS_PER_DAY
    clients: dict[Name, ClientPolicy] = {}  # noqa: RUF012 - pydantic copies it

    @model_validator(mode="after")
    def _identities_are_apart(self) -> Self:
        owners: dict[str, str] = {}
        for name, client in self.clients.items():
            for identity in client.identities:
                if owners.setdefault(identity, name) != name:
                    raise ValueError(f"{owners[identity]} and {name} both have the identity {identity}")
        return self

    @model_validator(mode="after")
    def _former_names_are_apart(self) -> Self:
        owners: dict[str, str] = {}
        for name, client in self.clients.items():
            for former in sorted(client.formerly):
                if former in self.clients:
                    raise ValueError(f"{name} was formerly {former}, but there still is a client {former}")
                if owners.setdefault(former, name) != name:
                    raise ValueError(f"{owners[former]} and {name} both were formerly {former}")
        return self

    def build(self) -> Policy:
        """Return the policy that decides."""
        grants = [client.build(name) for name, client in self.clients.items()]
        return Policy(grants, self.acts_per_day)
