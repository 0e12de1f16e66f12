"""The issuance cycle. Everything else in otahsm exists to uphold it.

A group of requests goes through six steps. Only what passed one step enters the next:

1. **admit**: may this caller request it, does the profile exist, can the CA issue now
2. **prepare**: check the CSR (in a preparer process), draw a serial number, build the TBS; may the caller
   request this device id
3. **journal**: write the intent durably: who, what, which serial, which TBS; reserve room in its batch
4. **sign**: the token signs, and the signature is verified (in a signer process)
5. **record**: the certificate enters the ledger durably
6. **release**: only now may a client see it

These invariants hold whatever is killed, at any time:

- **I1** no certificate is released that is not durably in the ledger (`_release` takes nothing else)
- **I2** no signature is made without a durable intent (`_sign` takes nothing else)
- **I3** a client that repeats a request gets the same certificate; conflicts are refused
- **I4** every signature is verified before it is recorded (the signer returns no other)
- **I5** a bad CSR fails only its own request
- **I6** memory is bounded: the size of a group, and `IssuanceQueue`
- **I8** this process has neither PIN nor session, and parses no CSR
- **I9** a leaf never outlives its issuer, and takes only id and key from its CSR (`pki`)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from otahsm.access import AccessControl, Caller, Grant
from otahsm.errors import (
    BatchClosedError,
    BatchFullError,
    ConflictError,
    InProgressError,
    LedgerTamperedError,
    LedgerUnavailableError,
    NotAllowedError,
    OtahsmError,
    QuotaError,
    RequestRefusedError,
    RevokedError,
    SigningRefusedError,
    TokenRefusedError,
    TokenUnavailableError,
)
from otahsm.issuance.authorities import Authorities, Authority
from otahsm.issuance.batches import Batches, admit
from otahsm.issuance.drafting import Attributed, Draft, Drafting
from otahsm.issuance.quotas import ClientQuotas
from otahsm.issuance.replays import Replays
from otahsm.issuance.request_ids import own_name, request_id_of
from otahsm.issuance.signers import Signers
from otahsm.issuance.values import IssuanceRequest, Issued, Outcome
from otahsm.ledger import Accepted, Barred, Batch, BatchRefusal, Conflict, Intent, Ledger, OverQuota, Replay
from otahsm.pki.certificate import Validity, assemble, validity_at, validity_of
from otahsm.pki.profile import Profile
from otahsm.preparation.codec import Task
from otahsm.system.clock import Clock

_Outcomes = list[Outcome | None]


class _Admitted(NamedTuple):
    """Passed step 1. `position` is the index of the request in its group, here and below.

    `identity` is the one that the ledger knows its client by: see `Principal`.
    """

    position: int
    request: IssuanceRequest
    grant: Grant
    identity: str
    profile: str
    validity: Validity
    batch_id: int | None


class _Prepared(NamedTuple):
    """Passed step 2."""

    admitted: _Admitted
    draft: Draft

    @property
    def device_id(self) -> str:
        """The id of its device."""
        return self.draft.values.binding.device_id


class _Intended(NamedTuple):
    """Passed step 3: its serial number is durably in the ledger."""

    prepared: _Prepared
    intent_id: int


class _Signed(NamedTuple):
    """Passed step 4: a certificate whose signature verifies, not yet to be released."""

    intended: _Intended
    certificate: bytes


class _Recorded(NamedTuple):
    """Passed step 5: durably in the ledger."""

    signed: _Signed


class IssuanceCycle:
    """Issues the certificates of a group of requests, each from the CA of its profile.

    Args:
        authorities: the CAs, by profile.
        profiles: all profiles, by name.
        default_profile: the profile for an empty name.
        drafting: runs step 2.
        signers: run step 4.
        ledger: runs steps 3 and 5.
        batches: the batches that requests may name.
        access: which caller may do what.
        clock: returns the time, with a time zone.
    """

    def __init__(  # noqa: PLR0913 - one for each part
        self,
        *,
        authorities: Authorities,
        profiles: Mapping[str, Profile],
        default_profile: str,
        drafting: Drafting,
        signers: Signers,
        ledger: Ledger,
        batches: Batches,
        access: AccessControl,
        clock: Clock,
    ) -> None:
        self._authorities = authorities
        self._replays = Replays(authorities, access, clock)
        self._profiles = profiles
        self._default_profile = default_profile
        self._drafting = drafting
        self._signers = signers
        self._ledger = ledger
        self._batches = batches
        self._access = access
        self._quotas = ClientQuotas(ledger)
        self._clock = clock

    async def issue(self, requests: Sequence[IssuanceRequest]) -> list[Outcome]:
        """Take a group of requests through the cycle; return one outcome for each, in order."""
        outcomes: _Outcomes = [None] * len(requests)
        now = self._clock()
        batches = await self._batches.named_by(requests)
        admitted = self._admit(requests, batches, now, outcomes)
        prepared = await self._prepare(admitted, now, outcomes)
        intended = await self._journal(prepared, outcomes)
        recorded: list[_Recorded] = []
        try:
            signed = await self._sign(intended, outcomes)
            recorded = await self._record(signed, outcomes)
        finally:
            await self._void_the_rest(intended, recorded)
        self._release(recorded, outcomes)
        return [_kept(outcome) for outcome in outcomes]

    def _admit(
        self,
        requests: Sequence[IssuanceRequest],
        batches: Mapping[str, Batch | OtahsmError],
        now: datetime,
        outcomes: _Outcomes,
    ) -> list[_Admitted]:
        """Step 1, which is cheap, and before anything is parsed."""
        admitted = []
        validities: dict[str, Validity] = {}
        clients: dict[Caller, tuple[Grant, str]] = {}
        for position, request in enumerate(requests):
            try:
                if (known := clients.get(request.caller)) is None:
                    grant = self._access.grant_of(request.caller, now)
                    known = grant, self._access.principal_of(request.caller).identity
                    clients[request.caller] = known
                grant, identity = known
                request.check()
                name = request.profile or self._default_profile
                grant.check_order(name, request.batch)
                self._quotas.check(grant)
                validity = validities.get(name)
                if validity is None:
                    profile, authority = self._profile(name), self._authorities.of_profile(name)
                    validity = validities[name] = validity_at(now, profile, authority.chain.issuer)
                batch = batches[request.batch] if request.batch else None
                batch_id = None if batch is None else admit(batch, grant, self._access, name)
                admitted.append(_Admitted(position, request, grant, identity, name, validity, batch_id))
            except OtahsmError as error:
                outcomes[position] = error
        return admitted

    async def _prepare(
        self, admitted: list[_Admitted], now: datetime, outcomes: _Outcomes
    ) -> list[_Prepared]:
        """Step 2, whose CSRs are parsed in a preparer."""
        prepared = []
        items = [
            Attributed(Task(item.profile, item.request.device_id, item.request.csr), item.request.attributes)
            for item in admitted
        ]
        answers = await self._drafting.draft(items, now)
        for item, answer in zip(admitted, answers, strict=True):
            try:
                if isinstance(answer, OtahsmError):
                    raise answer
                item.grant.check_device(answer.values.binding.device_id)
                prepared.append(_Prepared(item, answer))
            except OtahsmError as error:
                outcomes[item.position] = error
        return prepared

    async def _journal(self, prepared: list[_Prepared], outcomes: _Outcomes) -> list[_Intended]:
        """Step 3. Certificates that were issued before are released again; conflicts are refused."""
        if not prepared:
            return []
        intended = []
        try:
            counted = await self._quotas.of(
                {item.admitted.grant.name: item.admitted.grant for item in prepared}
            )
            intents = self._intents(prepared, counted.ids)
            answers = await self._ledger.journal(intents, int(self._clock().timestamp()), counted.limits)
        except LedgerUnavailableError as error:
            _settle([item.admitted for item in prepared], error, outcomes)
            return []
        for item, answer in zip(prepared, answers, strict=True):
            position, caller = item.admitted.position, item.admitted.request.caller
            match answer:
                case Accepted(intent_id):
                    intended.append(_Intended(item, intent_id))
                case Replay():
                    outcomes[position] = self._replayed(item, answer)
                case Barred(message, owner):
                    outcomes[position] = self._replays.refusal(caller, RevokedError(message), owner)
                case Conflict(message, owner):
                    outcomes[position] = self._replays.refusal(caller, ConflictError(message), owner)
                case BatchRefusal(full, message):
                    outcomes[position] = (BatchFullError if full else BatchClosedError)(message)
                case OverQuota(message, retry_after):
                    over = outcomes[position] = QuotaError(message, retry_after)
                    self._quotas.note(item.admitted.grant, over)
                case _:
                    outcomes[position] = InProgressError(
                        f"the certificate of the device {item.device_id} is being issued"
                    )
        return intended

    def _replayed(self, item: _Prepared, replay: Replay) -> Outcome:
        """Release a certificate again, to the client that it was issued to."""
        request = item.admitted.request
        try:
            authority = self._replays.release(request.caller, replay, item.draft.values.binding)
        except (NotAllowedError, LedgerTamperedError) as error:  # it may be denied since it was admitted
            return error
        return Issued(
            request_id_of(request, item.admitted.profile, item.draft.values.binding),
            item.device_id,
            replay.serial,
            validity_of(replay.not_before, replay.not_after),
            replay.certificate,
            replayed=True,
            authority=authority.name,
        )

    async def _sign(self, intended: list[_Intended], outcomes: _Outcomes) -> list[_Signed]:
        """Step 4, in a signer. Its input is journalled (I2); its output is verified (I4)."""
        if not intended:
            return []
        by_profile: dict[str, list[_Intended]] = {}
        for item in intended:
            by_profile.setdefault(item.prepared.admitted.profile, []).append(item)
        return [
            item
            for profile, group in by_profile.items()
            for item in await self._sign_under(profile, group, outcomes)
        ]

    async def _sign_under(
        self, profile: str, intended: list[_Intended], outcomes: _Outcomes
    ) -> list[_Signed]:
        """Sign certificates of one profile. The signer builds them again, of the values that are drafted."""
        try:
            answers = await self._signers.sign_certificates(
                profile, [item.prepared.draft.values for item in intended]
            )
        except (TokenUnavailableError, TokenRefusedError) as error:
            _settle([item.prepared.admitted for item in intended], error, outcomes)
            return []
        algorithm = self._authorities.of_profile(profile).chain.issuer.algorithm
        signed = []
        for item, answer in zip(intended, answers, strict=True):
            if isinstance(answer, SigningRefusedError):
                _settle([item.prepared.admitted], answer, outcomes)
            else:
                signed.append(_Signed(item, assemble(item.prepared.draft.tbs, algorithm, answer)))
        return signed

    def _authority_of(self, item: _Prepared) -> Authority:
        return self._authorities.of_profile(item.admitted.profile)

    async def _record(self, signed: list[_Signed], outcomes: _Outcomes) -> list[_Recorded]:
        """Step 5."""
        if not signed:
            return []
        try:
            await self._ledger.record({item.intended.intent_id: item.certificate for item in signed})
        except LedgerUnavailableError as error:
            _settle([item.intended.prepared.admitted for item in signed], error, outcomes)
            return []
        return [_Recorded(item) for item in signed]

    def _release(self, recorded: list[_Recorded], outcomes: _Outcomes) -> None:
        """Step 6. Its input is in the ledger (I1)."""
        for item in recorded:
            prepared = item.signed.intended.prepared
            outcomes[prepared.admitted.position] = Issued(
                request_id_of(
                    prepared.admitted.request, prepared.admitted.profile, prepared.draft.values.binding
                ),
                prepared.device_id,
                prepared.draft.values.serial,
                prepared.admitted.validity,
                item.signed.certificate,
                replayed=False,
                authority=self._authority_of(prepared).name,
            )

    async def _void_the_rest(self, intended: list[_Intended], recorded: list[_Recorded]) -> None:
        """Void the intents that failed, so that their devices can be requested again."""
        if len(recorded) == len(intended):
            return
        done = {item.signed.intended.intent_id for item in recorded}
        left = [item.intent_id for item in intended if item.intent_id not in done]
        await self._ledger.void(left, "not signed, or signed but not recorded; never released")

    def _profile(self, name: str) -> Profile:
        try:
            return self._profiles[name]
        except KeyError:
            raise RequestRefusedError(
                "profile",
                f"there is no profile {name[:64]!a}; there are {', '.join(sorted(self._profiles))}",
            ) from None

    def _intents(self, items: Sequence[_Prepared], quota_ids: Mapping[str, int]) -> list[Intent]:
        seconds: dict[str, list[int]] = {}  # in a group, all of one profile have the same validity
        intents = []
        for item in items:
            (_, request, grant, identity, profile, validity, batch_id), draft = item
            if profile not in seconds:
                seconds[profile] = [int(moment.timestamp()) for moment in validity]
            not_before, not_after = seconds[profile]
            intents.append(
                Intent(
                    serial=draft.values.serial,
                    request_id=own_name(request),
                    profile=profile,
                    device_id=draft.values.binding.device_id,
                    spki_sha256=hashlib.sha256(draft.values.binding.spki).digest(),
                    tbs_sha256=draft.values.tbs_sha256,
                    issuer_key_id=self._authority_of(item).chain.issuer.key_identifier,
                    not_before=not_before,
                    not_after=not_after,
                    client=identity,
                    client_certificate_sha256=request.caller.certificate_sha256,
                    intended_at=1000 * draft.values.serial.milliseconds,  # queries rely on it
                    batch_id=batch_id,
                    quota_id=quota_ids.get(grant.name),
                    policy_client=grant.name,
                )
            )
        return intents


def _kept(outcome: Outcome | None) -> Outcome:
    if outcome is None:
        return OtahsmError("a request fell through the cycle")
    return outcome.as_value() if isinstance(outcome, OtahsmError) else outcome


def _settle(items: Sequence[_Admitted], error: OtahsmError, outcomes: _Outcomes) -> None:
    for item in items:
        outcomes[item.position] = error
