"""Makes CRLs: takes a number, reads the revocations, builds the TBS, has it signed, and records the CRL.

These invariants hold whatever is killed, at any time:

- a CRL number is taken durably before anything is signed with it, and never taken twice: numbers only rise
- a CRL contains everything that is on any CRL of its scope with a lower number: see `otahsm.ledger.CrlReader`
- a CRL is released only if it is durably in the ledger and its signature verifies
- as long as certificates contain a URL, there is a CRL for it, which is replaced before it expires
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from otahsm.config import CrlConfig
from otahsm.errors import (
    AuthorityUnusableError,
    LedgerTamperedError,
    NotContinuedError,
    OtahsmError,
    TokenUnavailableError,
)
from otahsm.ledger import AUTHORITIES, COMPLETE, CrlNumber, CrlReader, CrlRow, CrlState, Ledger, StoredCrl
from otahsm.pki.certificate import assemble
from otahsm.pki.crls.building import Reason, RevokedCertificate
from otahsm.pki.crls.distribution import BACKDATED
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes import signature_is_valid
from otahsm.revocation.seen_crls import SeenCrls
from otahsm.system.clock import Clock
from otahsm.token.desk.codec import ENTRY_OCTETS, MOST_ENTRIES, CrlToSign, LastCrl, encode_entries
from otahsm.token.desk.crls import build
from otahsm.token.pool import SignerPool

_HOUR: Final = 3600
_AT_ONCE: Final = 64  # CRLs in one request to a signer, and in one transaction
_OCTETS_AT_ONCE: Final = 16 * 1024 * 1024
_MAX_OCTETS: Final = MOST_ENTRIES * ENTRY_OCTETS

_Result = TypeVar("_Result")


class CrlSchedule(NamedTuple):
    """How long a CRL is valid, and how often a new one is made; in seconds."""

    validity: int
    refresh: int

    @classmethod
    def of(cls, config: CrlConfig | None) -> CrlSchedule:
        """Return the schedule of a [crl] section, or of its defaults if there is none."""
        fields = CrlConfig.model_fields
        validity = config.validity_hours if config else fields["validity_hours"].default
        refresh = config.refresh_hours if config else fields["refresh_hours"].default
        return cls(validity * _HOUR, refresh * _HOUR)


def is_due(crl: CrlRow | None, revoked: int, now: int, schedule: CrlSchedule) -> bool:
    """Return whether a CRL must be made: there is none, it lacks a revocation, or it is time.

    If the clock went back, the latest CRL may not be valid yet; verifiers refuse such a CRL.

    Args:
        crl: the latest CRL, if there is one.
        revoked: the number of certificates that should be on it.
        now: seconds since the Unix epoch.
        schedule: the validity and refresh time of CRLs.
    """
    if crl is None or crl.revoked != revoked:
        return True
    early = now < crl.this_update
    late = now >= crl.this_update + BACKDATED + schedule.refresh
    return early or late or crl.next_update < now + schedule.validity - schedule.refresh


class CrlMaker:
    """Makes the CRLs that are due.

    Args:
        name: the CA's name.
        issuer: the CA certificate; it may sign CRLs.
        schedule: the validity and refresh time of CRLs.
        signers: sign the CRLs.
        ledger: where CRLs are recorded.
        reader: reads the revocations, in the thread.
        seen: the CRLs that are known, which the ledger's must not fall behind.
        clock: returns the time, with a time zone.

    Attributes:
        looked: set when no CRL of the ledger is older than one that signers of this machine signed.
    """

    def __init__(  # noqa: PLR0913 - one for each part
        self,
        *,
        name: str,
        issuer: Issuer,
        schedule: CrlSchedule,
        signers: SignerPool,
        ledger: Ledger,
        reader: CrlReader,
        seen: SeenCrls,
        clock: Clock,
    ) -> None:
        self._name = name
        self._issuer = issuer
        self._schedule = schedule
        self._signers = signers
        self._ledger = ledger
        self._reader = reader
        self._seen = seen
        # Reading, building and writing take long, so they run in a thread, not on the event loop.
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="crl")
        self._clock = clock
        self._too_large: TokenUnavailableError | None = None
        self.looked = asyncio.Event()

    def due(self, state: CrlState, *, complete: bool) -> list[str]:
        """Return the scopes whose CRL must be made now.

        Args:
            state: the current CRLs and revocations.
            complete: whether the complete CRL must exist even if nothing is revoked.
        """
        now = self._now()
        shards = [url for url, is_complete in state.urls.items() if not is_complete]
        scopes = [*([AUTHORITIES] if shards else []), *shards]
        if complete or state.revoked[COMPLETE] or COMPLETE in state.crls:
            scopes.insert(0, COMPLETE)
        return [
            scope
            for scope in scopes
            if self._seen.is_behind(scope, state.crls.get(scope))
            or is_due(state.crls.get(scope), state.revoked.get(scope, 0), now, self._schedule)
        ]

    async def state(self) -> CrlState:
        """Return the existing CRLs, and what they should contain.

        Raises:
            LedgerUnavailableError: the ledger can't be read.
            LedgerTamperedError: a CRL in it is older than what was published.
        """
        return await self.off_the_loop(self._checked_state)

    async def make_due(self, *, complete: bool) -> CrlState | None:
        """Make what is due; return the state afterwards, or None if another daemon is making CRLs.

        Raises:
            LedgerUnavailableError: the ledger can't be read or written.
            LedgerTamperedError: a CRL in it is older than what was published.
            TokenUnavailableError: the token can't sign now.
            TokenRefusedError: the token refused, and an operator must act.
            AuthorityUnusableError: the CA certificate is not valid now, by the clock of this machine.
        """
        state = await self.state()
        if not self._seen.has_asked and (state.crls or self.due(state, complete=complete)):
            await self._ask_signers()
            state = await self.state()
        if not any(self._seen.is_behind(scope, row) for scope, row in state.crls.items()):
            self.looked.set()
        if not self.due(state, complete=complete):
            return state
        if not await self.off_the_loop(self._reader.take_turn):
            return None
        try:
            scopes = self.due(await self.state(), complete=complete)
            if scopes:
                await self._make(scopes)
            return await self.state()
        finally:
            await self.off_the_loop(self._reader.end_turn)

    async def off_the_loop(self, work: Callable[[], _Result]) -> _Result:
        """Run something in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, work)

    async def _make(self, scopes: list[str]) -> None:
        """Make CRLs with the same number, since they have different scopes (RFC 5280, section 5.2.3).

        One that is too large, or that a signer refuses, fails; the others are made.
        """
        now = self._now()
        self._check_clock(now)
        await self._ask_signers()
        number = await self._ledger.take_crl_number(
            self._issuer.key_identifier, above=self._seen.highest, earliest=now - BACKDATED, now=now
        )
        self._too_large = None
        failure: OtahsmError | None = None
        drafts = self._drafts(scopes, number, now + self._schedule.validity)
        while chunk := await self.off_the_loop(partial(_take, drafts)):
            answers = await self._signers.sign_crls(self._name, [draft.crl for draft in chunk])
            signed = [
                (draft, answer)
                for draft, answer in zip(chunk, answers, strict=True)
                if isinstance(answer, bytes)
            ]
            # If they don't reach the ledger, they must be made anew.
            self._seen.note_signed({draft.crl.scope: LastCrl(number.number) for draft, _ in signed})
            failure = next((each for each in answers if isinstance(each, OtahsmError)), failure)
            if made := await self.off_the_loop(partial(self._assemble, signed)):
                await self._ledger.write_crls(self._issuer.key_identifier, made)
        if isinstance(failure, NotContinuedError):
            raise LedgerTamperedError(failure.message, hint=failure.hint)
        if failure is not None:
            raise failure
        if self._too_large is not None:
            raise self._too_large

    def _checked_state(self) -> CrlState:
        # In one go: between the two, the thread may read a newer CRL, and this one's number would be lower.
        state = self._reader.state()
        self._seen.check_numbers(state)
        return state

    async def _ask_signers(self) -> None:
        self._seen.note_signed(await self._signers.last_crls(self._name))
        self._seen.has_asked = True

    def _drafts(self, scopes: list[str], number: CrlNumber, next_update: int) -> Iterator[_Draft]:
        """Build the TBSCertLists lazily, one by one. Runs in the thread."""
        for scope in scopes:
            entries = _Counted(self._entries(scope))
            crl = CrlToSign(scope, *number, next_update, encode_entries(entries))
            if len(crl.entries) > _MAX_OCTETS:
                self._too_large = TokenUnavailableError(
                    f"a CRL of {entries.count} certificates is too large for a signer",
                    hint="Split the CRL for new certificates with [crl] shards.",
                )
                continue
            row = CrlRow(*number, next_update, entries.count)
            yield _Draft(crl, row, build(crl, self._issuer))

    def _entries(self, scope: str) -> Iterator[RevokedCertificate]:
        if scope == AUTHORITIES:
            return
        for serial, revoked_at, reason in self._reader.revoked(scope):
            yield RevokedCertificate(serial, _moment(revoked_at), Reason(reason))

    def _assemble(self, signed: list[tuple[_Draft, bytes]]) -> list[StoredCrl]:
        """Return the signed CRLs. Raises TokenUnavailableError if a signature does not verify."""
        key, algorithm = self._issuer.public_key, self._issuer.algorithm
        for (_, _, tbs), signature in signed:
            if not signature_is_valid(key, algorithm, signature, tbs):
                raise TokenUnavailableError("the token's signature of a CRL does not verify")
        return [
            StoredCrl(crl.scope, row, assemble(tbs, algorithm, signature))
            for (crl, row, tbs), signature in signed
        ]

    def _check_clock(self, now: int) -> None:
        first, last = self._issuer.not_before, self._issuer.not_after
        if not first <= _moment(now) <= last:
            raise AuthorityUnusableError(
                f"no CRL is made: it is {_moment(now):%Y-%m-%d}, and the CA certificate is valid from"
                f" {first:%Y-%m-%d} to {last:%Y-%m-%d}",
                hint="Check the clock of the daemon's machine.",
            )

    def _now(self) -> int:
        return int(self._clock().timestamp())


class _Draft(NamedTuple):
    crl: CrlToSign
    row: CrlRow
    tbs: bytes


class _Counted:
    """Counts CRL entries while they are iterated."""

    def __init__(self, entries: Iterator[RevokedCertificate]) -> None:
        self._entries = entries
        self.count = 0

    def __iter__(self) -> Iterator[RevokedCertificate]:
        for entry in self._entries:
            self.count += 1
            yield entry


def _take(drafts: Iterator[_Draft]) -> list[_Draft]:
    """Take as many drafts as go into one request to a signer."""
    chunk: list[_Draft] = []
    for draft in islice(drafts, _AT_ONCE):
        chunk.append(draft)
        if sum(len(item.crl.entries) for item in chunk) >= _OCTETS_AT_ONCE:
            break
    return chunk


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
