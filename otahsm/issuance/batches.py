"""Batches: creating and closing them, and finding those that requests name."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from otahsm.access import AccessControl, Grant
from otahsm.errors import BatchClientError, ConflictError, NotFoundError, OtahsmError, RequestRefusedError
from otahsm.issuance.values import IssuanceRequest
from otahsm.ledger import Batch, BatchState, BatchTerms, Change, EventFactory, Ledger, Requester
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.system.clock import Clock, microseconds
from otahsm.templates import NAME

MAX_DEVICES: Final = 100_000_000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KINDS: Final = frozenset({"uuid4", "uuid5", "template", "list"})
_MAX_CLIENTS: Final = 64
_MAX_VALUES: Final = 32
_MAX_TEXT: Final = 256
_SHA256: Final = 32
_KNOWN: Final = 4096  # cached batches


class Scheme(NamedTuple):
    """How the device ids of a batch are chosen. It is stored for clients, and not enforced."""

    kind: str
    value: str = ""
    first_number: int = 0
    list_sha256: bytes = b""
    values: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        """Encode it for the ledger."""
        fields = self._asdict() | {"list_sha256": self.list_sha256.hex(), "values": dict(sorted(self.values))}
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def read(cls, text: str) -> Scheme:
        """Decode what `text` returned."""
        fields: dict[str, Any] = json.loads(text)
        fields["list_sha256"] = bytes.fromhex(fields["list_sha256"])
        fields["values"] = tuple(sorted(fields["values"].items()))
        return cls(**fields)


class NewBatch(NamedTuple):
    """A batch to create, not yet validated; `profile` is empty for the default profile."""

    name: str
    profile: str
    device_count: int
    scheme: Scheme
    deadline: datetime | None
    clients: tuple[str, ...]


class Batches:
    """Creates and closes batches, and caches those that requests name.

    Args:
        ledger: where they are written.
        queries: where they are read.
        profiles: the names of all profiles.
        default_profile: the profile for an empty name.
        clock: the time that a deadline is compared to.
    """

    def __init__(
        self,
        ledger: Ledger,
        queries: LedgerQueries,
        profiles: Collection[str],
        default_profile: str,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._profiles = profiles
        self._default_profile = default_profile
        self._clock = clock
        self._known: dict[str, Batch] = {}  # a cache, of the fields that never change

    async def create(
        self, new: NewBatch, by: Requester, make_event: EventFactory[Batch]
    ) -> Change[Batch | OtahsmError]:
        """Create a batch, or return an existing one with the same terms.

        Args:
            new: the batch.
            by: the client that creates it.
            make_event: makes the audit event if the batch is new.

        Raises:
            RequestRefusedError: a field is invalid.
            ConflictError: the name was used for another batch.
            LedgerUnavailableError: nothing was written.
        """
        terms = self._terms(new)
        is_late = new.deadline is not None and new.deadline <= self._clock()
        if is_late and await self._queries.ask(lambda reader: reader.batch(terms.name)) is None:
            raise RequestRefusedError("batch.deadline_time", "the batch's deadline has already passed")
        change = await self._ledger.acts.create_batch(terms, by, make_event)
        if isinstance(change.result, Batch) and change.result.terms != terms:
            raise ConflictError(
                f"a different batch {terms.name} already exists",
                hint="Choose another name: names can't be reused.",
            )
        return change

    def check_again(self, terms: BatchTerms) -> None:
        """Check that a held batch can be created still. Raises RequestRefusedError."""
        self._check_profile(terms.profile)
        if terms.deadline is not None and terms.deadline <= microseconds(self._clock()):
            raise RequestRefusedError("batch.deadline_time", "the batch's deadline has already passed")

    async def get(self, name: str) -> BatchState:
        """Return a batch and its progress. Raises NotFoundError, LedgerUnavailableError."""
        _check_name(name)
        state = await self._queries.ask(lambda reader: reader.batch(name))
        if state is None:
            raise unknown_batch(name)
        return state

    async def page(self, after: int, size: int, *, newest_first: bool) -> list[BatchState]:
        """Return the batches that come after an id. Raises LedgerUnavailableError."""
        return await self._queries.ask(lambda reader: reader.batches(after, size, newest_first=newest_first))

    async def close(
        self, name: str, by: Requester, make_event: EventFactory[BatchState]
    ) -> Change[BatchState | OtahsmError]:
        """Close a batch: nothing more is issued in it. Raises NotFoundError, LedgerUnavailableError."""
        _check_name(name)
        state, event = await self._ledger.acts.close_batch(name, by, make_event)
        if state is None:
            raise unknown_batch(name)
        return Change(state, event)

    async def named_by(self, requests: Collection[IssuanceRequest]) -> Mapping[str, Batch | OtahsmError]:
        """Return the batches that requests name, or an error for each that can't be found."""
        found: dict[str, Batch | OtahsmError] = {}
        for name in {request.batch for request in requests} - {""}:
            try:
                found[name] = self._known.get(name) or await self._find(name)
            except OtahsmError as error:
                found[name] = error
        return found

    async def _find(self, name: str) -> Batch:
        batch = (await self.get(name)).batch
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[name] = batch
        return batch

    def _terms(self, new: NewBatch) -> BatchTerms:
        profile = new.profile or self._default_profile
        self._check_profile(profile)
        if not 1 <= new.device_count <= MAX_DEVICES:
            raise RequestRefusedError("batch.device_count", f"a batch has 1 to {MAX_DEVICES:,} devices")
        if len(new.clients) > _MAX_CLIENTS or not all(map(_fits, new.clients)):
            raise RequestRefusedError(
                "batch.clients", f"at most {_MAX_CLIENTS} clients, of at most {_MAX_TEXT} characters"
            )
        _check_name(new.name, "batch.name")
        _check_scheme(new.scheme)
        deadline = None if new.deadline is None else microseconds(new.deadline)
        return BatchTerms(
            new.name,
            profile,
            new.device_count,
            new.scheme.text(),
            deadline,
            tuple(sorted(set(new.clients))),
        )

    def _check_profile(self, profile: str) -> None:
        if profile not in self._profiles:
            raise RequestRefusedError(
                "batch.profile",
                f"there is no profile {profile[:64]!a}; there are {', '.join(sorted(self._profiles))}",
            )


def admit(batch: Batch | OtahsmError, grant: Grant, access: AccessControl, profile: str) -> int:
    """Check that a client may issue in a batch, under this profile; return the id of the batch.

    Args:
        batch: what `Batches.named_by` found.
        grant: what the client may do.
        access: knows which client a name of the batch's clients is.
        profile: a name that is not empty.

    Raises:
        BatchClientError: the batch is for other clients.
        RequestRefusedError: the batch is for another profile.
        OtahsmError: there was no batch to be found.
    """
    if isinstance(batch, OtahsmError):
        raise batch
    terms = batch.terms
    if not access.may_issue_in(grant, terms.clients):
        raise BatchClientError(f"{grant.name} may not issue in the batch {terms.name}")
    if terms.profile != profile:
        raise RequestRefusedError(
            "profile",
            f"the batch {terms.name} is for the profile {terms.profile}, not {profile}",
            hint="Use the profile of the batch, or omit the batch.",
        )
    return batch.id


def _check_name(name: str, field: str = "name") -> None:
    if not _NAME.fullmatch(name):
        raise RequestRefusedError(
            field,
            f"invalid batch name {name[:64]!a}: use 1 to 64 letters, digits, dots, underscores and hyphens",
        )


def _check_scheme(scheme: Scheme) -> None:
    if scheme.kind not in _KINDS or not _fits(scheme.value, least=0):
        raise RequestRefusedError("batch.id_scheme", f"the kind is one of {', '.join(sorted(_KINDS))}")
    if len(scheme.list_sha256) not in (0, _SHA256) or scheme.first_number < 0:
        raise RequestRefusedError("batch.id_scheme", "the digest has 32 octets, and no number is negative")
    if len(scheme.values) > _MAX_VALUES or not all(
        NAME.fullmatch(name) and _fits(value) for name, value in scheme.values
    ):
        raise RequestRefusedError(
            "batch.id_scheme", f"at most {_MAX_VALUES} values, with names of small letters"
        )


def _fits(text: str, least: int = 1) -> bool:
    return least <= len(text) <= _MAX_TEXT and text.isprintable()


def unknown_batch(name: str) -> NotFoundError:
    """Return the error for a batch that doesn't exist, or that the caller may not see."""
    return NotFoundError(f"there is no batch {name[:64]!a}", hint="`otahsm batch list` shows all batches.")
