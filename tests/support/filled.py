"""A ledger that holds something of every kind, for attacks on its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count

from otahsm.access import Denied, Principal, Quotas
from otahsm.ledger import (
    AUTHORITIES,
    COMPLETE,
    Accepted,
    AuditEvent,
    BatchTerms,
    BreakGlass,
    Intent,
    Ledger,
    QuotaLimits,
    QuotaReset,
    Renewal,
    RevocationRequest,
    database_of,
    snapshot,
)
from otahsm.ledger.read import act_page
from otahsm.pki.crls.building import Reason
from otahsm.pki.keytypes import generate_key
from otahsm.pki.keytypes.family import encode_spki

from support.acts import PlainEvents, as_done, by, deciding
from support.evidence import HOUR, ISSUER, NOW, NUMBER, SECONDS, SHARDS, Certificate, certificate, made
from support.homes import MAC_KEYS, Home
from support.logbook import Notary, checkpoint, grow

MICROSECONDS = 1_000_000 * SECONDS
PROFILE = "ota-connect"
QUOTAS = QuotaLimits(Quotas(per_second=1000, per_day=1000, total=1000))
RENEWALS = {PROFILE: Renewal(10**9, 10**9)}
OPERATOR = Principal("cn:operator", "operator")
NO_QUOTAS: Mapping[int, QuotaLimits] = {}


def event(name: str, **details: str) -> AuditEvent:
    encoded = json.dumps(details, sort_keys=True, separators=(",", ":"))
    return AuditEvent(MICROSECONDS, name, "cn:operator", 1, encoded)


class Filler:
    """Fills a ledger. What is in it is in the tree, but for the last few entries, which wait."""

    def __init__(self, home: Home, notary: Notary) -> None:
        key = ISSUER.key_identifier
        self._config = home.config
        self._ledger = Ledger(database_of(home.config), MAC_KEYS, [key], RENEWALS, clock=lambda: NOW)
        self._notary = notary
        self._numbers = count(1)
        self._issued: dict[str, Certificate] = {}
        self._spkis: dict[str, bytes] = {}

    async def fill(self) -> None:
        ledger = self._ledger
        await ledger.open()
        (quota,) = await ledger.quota_ids(["line"])
        await ledger.note_crl_urls(ISSUER.key_identifier, ["http://x.example/all.crl"], complete=True)
        await ledger.note_crl_urls(ISSUER.key_identifier, SHARDS, complete=False)
        await self._issue(*(f"plain-{number}" for number in range(6)))
        await self._issue("counted-1", "counted-2", quota_id=quota)
        await self._order(quota)
        await self._reset_quota()
        await self._issue("counted-3", "counted-4", quota_id=quota)
        await self._void("void-1", "void-2")
        await self._issue("renewed", "rekeyed", "reset", "reset-for-good")
        await self._revoke("plain-1", "plain-2")
        await self._hold()
        await self._publish("plain-1", "plain-2", "plain-3")
        await grow(ledger)
        await checkpoint(ledger, self._notary)
        await self._issue("renewed", same_key=True)
        await self._issue("rekeyed")
        await self._issue("renewed", same_key=True)
        for device in ("reset", "reset-for-good"):
            await ledger.acts.reset(device, PROFILE, by(), PlainEvents().reset(OPERATOR, device))
        await self._issue("reset")
        await self._deny("cn:gone", "cn:back", "cn:other")
        await ledger.allow("cn:back", lambda _: event("client.let_in", subject="cn:back"))
        await ledger.write_events([event("access.denied", call="/x"), event("daemon.started")])
        await grow(ledger)
        await checkpoint(ledger, self._notary)
        await self._issue("waits", "waits-too")
        await ledger.write_events([event("daemon.stopped")])
        await ledger.close()

    async def _issue(
        self,
        *devices: str,
        same_key: bool = False,
        quota_id: int | None = None,
        batch_id: int | None = None,
    ) -> None:
        made_now = []
        for device in devices:
            spki = encode_spki(generate_key("ec-p256").public_key())
            if same_key:
                spki = self._spkis[device]
            self._spkis[device] = spki
            number = next(self._numbers)
            made_now.append(certificate(number, device_id=device, spki=spki, at=SECONDS - 60 + number))
        limits = NO_QUOTAS if quota_id is None else {quota_id: QUOTAS}
        intents = [self._in(item.intent, quota_id=quota_id, batch_id=batch_id) for item in made_now]
        answers = await self._ledger.journal(intents, SECONDS, limits)
        ids = [answer.intent_id for answer in answers if isinstance(answer, Accepted)]
        assert len(ids) == len(devices), answers
        await self._ledger.record(dict(zip(ids, (item.der for item in made_now), strict=True)))
        self._issued |= dict(zip(devices, made_now, strict=True))

    def _in(self, intent: Intent, *, quota_id: int | None, batch_id: int | None) -> Intent:
        request_id = f"{intent.device_id}/{intent.serial.hex()}"
        return intent._replace(
            policy_client="line", request_id=request_id, quota_id=quota_id, batch_id=batch_id
        )

    async def _order(self, quota: int) -> None:
        for name in ("open-order", "closed-order"):
            terms = BatchTerms(name, PROFILE, 5, "{}", None, ("cn:test",))
            change = await self._ledger.acts.create_batch(
                terms, by("cn:orderer"), lambda _: event("batch.created")
            )
            await self._issue(f"{name}-1", f"{name}-2", quota_id=quota, batch_id=as_done(change.result).id)
        await self._ledger.acts.close_batch("closed-order", by(), lambda _: event("batch.closed"))

    async def _reset_quota(self) -> None:
        def made_event(before: QuotaReset) -> AuditEvent:
            details = json.dumps({"after": before.newest, "quota": before.quota_id})
            return AuditEvent(MICROSECONDS, "quota.reset", "cn:admin", 1, details)

        assert await self._ledger.reset_quota("line", (), made_event)

    async def _void(self, *devices: str) -> None:
        intents = [certificate(next(self._numbers), device_id=device).intent for device in devices]
        answers = await self._ledger.journal([item._replace(policy_client="line") for item in intents])
        await self._ledger.void([item.intent_id for item in answers if isinstance(item, Accepted)], "lost")

    async def _revoke(self, *devices: str) -> None:
        targets = [RevocationRequest(None, device, "", Reason.SUPERSEDED) for device in devices]
        await self._ledger.acts.revoke(targets, by("cn:operator"), MICROSECONDS)

    async def _publish(self, *devices: str) -> None:
        key = ISSUER.key_identifier
        for _ in range(NUMBER):
            await self._ledger.take_crl_number(key, above=0, earliest=0, now=SECONDS + HOUR)
        revoked = [self._issued[device] for device in devices]
        by_scope = {shard: [item for item in revoked if item.url == shard] for shard in SHARDS}
        lists = {COMPLETE: revoked, AUTHORITIES: [], **by_scope}
        await self._ledger.write_crls(key, [made(scope, items) for scope, items in lists.items()])

    async def _hold(self) -> None:
        """Have one act of each kind held; confirm, reject or leave it, and break the glass for one."""
        acts, strict = self._ledger.acts, by("cn:operator", per_day=0)
        await acts.revoke([RevocationRequest(None, "plain-3", "", Reason.SUPERSEDED)], strict, MICROSECONDS)
        await acts.reset("counted-1", PROFILE, strict, lambda _: event("device.reset"))
        denied = Denied("cn:thief", "stolen", "cn:operator", MICROSECONDS)
        await acts.deny(denied, strict, lambda _: event("client.cut_off"))
        terms = BatchTerms("held-order", PROFILE, 5, "{}", None, ())
        await acts.create_batch(terms, strict, lambda _: event("batch.created"))
        await acts.close_batch("open-order", strict, lambda _: event("batch.closed"))
        with snapshot(self._config) as connection:
            first, second, third, *_ = act_page.page(connection, 0, 10)
        glass = BreakGlass("root", "the other one is ill", MICROSECONDS)
        await acts.confirm(first.id, first.digest, deciding("cn:other"), PlainEvents())
        await acts.confirm(second.id, second.digest, deciding("cn:operator", glass), PlainEvents())
        await acts.reject(third.id, deciding("cn:other"))

    async def _deny(self, *subjects: str) -> None:
        for subject in subjects:
            told = event("client.cut_off", subject=subject, reason="lost")
            denied = Denied(subject, "lost", "cn:operator", MICROSECONDS)
            await self._ledger.acts.deny(denied, by(), lambda _, told=told: told)  # type: ignore[misc]
