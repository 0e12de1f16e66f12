"""What one client can't undo alone: held acts, and who confirms them, over gRPC."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from otahsm.client import (
    AuditQuery,
    Batch,
    Client,
    ClientTls,
    HeldAct,
    IdScheme,
    NotRevoked,
    Revoked,
    ToRevoke,
)
from otahsm.config import section
from otahsm.errors import (
    ClientDeniedError,
    HeldError,
    NotAllowedError,
    NotFoundError,
    NotHeldError,
    OtahsmError,
    RequestRefusedError,
)
from otahsm.ledger import (
    Accepted,
    BreakGlass,
    Ledger,
    MacKeys,
    break_glass_mac,
    database_of,
    read_mac_keys,
)
from otahsm.pki.chain import load_chain
from otahsm.pki.crls.building import Reason
from otahsm.system.clock import microseconds

from support.harness import Fleet, RunningDaemon, running
from support.intents import intent
from support.operators import OperatorCa, allow, certificate_of, new_client
from support.revoking import serials_on

FLEET = 10_000
QUOTA = 100
AT_ONCE = 15  # calls of each of four kinds: a client may have 64 open
PROFILE = "ota-connect"
STRICT = 'roles = ["operator"]\nacts_per_day = 0'
OPERATOR = 'roles = ["operator"]'


async def fill(fleet: Fleet, count: int) -> list[str]:
    """Put a fleet of devices into the ledger; return their ids."""
    config = fleet.config
    issuer = load_chain(section(config.ca, "ca").certificate.read_bytes()).issuer
    settings = section(config.ledger, "ledger")
    ledger = Ledger(database_of(settings), read_mac_keys(settings), [issuer.key_identifier])
    await ledger.open()
    devices = [f"cam-{number:05}" for number in range(count)]
    for first in range(0, count, 1000):
        wanted = [
            intent(device, profile=PROFILE)._replace(
                issuer_key_id=issuer.key_identifier, not_after=4_000_000_000, policy_client="line"
            )
            for device in devices[first : first + 1000]
        ]
        answers = await ledger.journal(wanted)
        ids = [answer.intent_id for answer in answers if isinstance(answer, Accepted)]
        assert len(ids) == len(wanted)
        await ledger.record(dict.fromkeys(ids, b"a certificate"))
    await ledger.close()
    return devices


class Stations(NamedTuple):
    """A daemon, and clients: one that can do nothing alone, under either of its names, and others."""

    daemon: RunningDaemon
    asker_tls: ClientTls
    asker: Client
    alias: Client
    second: Client
    boss: Client
    auditor: Client

    async def held(self, device: str) -> HeldAct:
        """Have the revocation of a device held."""
        (outcome,) = [each async for each in self.asker.revocation.revoke(of([device]), Reason.SUPERSEDED)]
        assert isinstance(outcome, NotRevoked)
        assert isinstance(outcome.error, HeldError), outcome.error
        return await self.named(int(outcome.error.metadata["act"]))

    async def named(self, act_id: int) -> HeldAct:
        (act,) = [each async for each in self.second.approvals.named([act_id])]
        return act


def of(devices: Iterable[str]) -> list[ToRevoke]:
    return [ToRevoke(device_id=device) for device in devices]


def alias_of(fleet: Fleet, name: str) -> ClientTls:
    """Return another certificate of a client, with another name and key."""
    return OperatorCa(fleet).issue("", [x509.UniformResourceIdentifier(f"spiffe://fleet/{name}")])


class Served(NamedTuple):
    """A daemon, and the credentials of its clients."""

    daemon: RunningDaemon
    known: list[ClientTls]


@pytest.fixture(scope="module")
def served(make_fleet: Callable[[], Fleet]) -> Iterator[Served]:
    fleet = make_fleet()
    asyncio.run(fill(fleet, 30))
    allow(fleet, "asker", 'cn:asker", "uri:spiffe://fleet/asker', STRICT)
    allow(fleet, "chief", "cn:chief", 'roles = ["admin"]')
    known = [
        OperatorCa(fleet).issue("asker"),
        alias_of(fleet, "asker"),
        new_client(fleet, "second", OPERATOR),
        new_client(fleet, "boss", 'roles = ["admin"]\nacts_per_day = 0'),
        new_client(fleet, "auditor", 'roles = ["auditor"]'),
    ]
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        yield Served(daemon, known)


@pytest.fixture
async def stations(served: Served) -> AsyncIterator[Stations]:
    daemon, known = served
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(daemon.client(tls=tls)) for tls in known]
        yield Stations(daemon, known[0], *clients)


async def status(stations: Stations, device: str) -> str:
    entry, _ = await stations.second.ledger.by_device(device)
    return str(entry.status)


async def test_a_held_act_names_itself_and_has_no_effect(stations: Stations) -> None:
    act = await stations.held("cam-00000")
    assert (act.kind, act.state, act.size, act.policy_client) == ("revocation", "open", 1, "asker")
    assert act.asked == ("device cam-00000",)
    assert act.reason == "superseded"
    assert act.lapses_at - act.requested_at == timedelta(days=1)
    assert act == await stations.held("cam-00000")  # it was asked again
    assert act in [each async for each in stations.auditor.approvals.held()]
    assert await status(stations, "cam-00000") == "issued"


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.issuance.reset_device("cam-00001"),
        lambda client: client.access.deny("cn:auditor", "just so"),
        lambda client: client.batches.create(Batch("held", 5, IdScheme("uuid4"))),
    ],
)
async def test_what_is_held_is_the_error_of_a_call(
    stations: Stations, ask: Callable[[Client], Awaitable[object]]
) -> None:
    errors = []
    for _ in range(2):
        with pytest.raises(HeldError, match=r"exceeds a quota: it is held as act \d+") as raised:
            await ask(stations.asker)
        errors.append(raised.value)
    assert errors[0].metadata == errors[1].metadata
    assert errors[0].metadata["act"] in errors[0].hint


async def test_what_would_be_refused_is_not_held(stations: Stations) -> None:
    late = Batch("late", 5, IdScheme("uuid4"), deadline=datetime(2020, 1, 1, tzinfo=UTC))
    client = stations.asker
    (outcome,) = [each async for each in client.revocation.revoke(of(["nobody"]), Reason.SUPERSEDED)]
    assert isinstance(outcome, NotRevoked)
    assert isinstance(outcome.error, NotFoundError)
    with pytest.raises(NotFoundError):
        await client.issuance.reset_device("nobody")
    with pytest.raises(NotFoundError):
        await client.batches.close("nothing")
    with pytest.raises(NotAllowedError):
        await client.access.deny("cn:boss", "an operator may not")
    with pytest.raises(RequestRefusedError):
        await client.batches.create(late)


async def test_only_a_second_principal_with_the_role_confirms(stations: Stations) -> None:
    act = await stations.held("cam-00002")
    for client, why in (
        (stations.asker, "asker asked for the act"),
        (stations.alias, "asker asked for the act"),
        (stations.boss, "boss may not decide about a revocation"),
        (stations.auditor, "lacks the role"),
    ):
        with pytest.raises(NotAllowedError, match=why):
            await client.approvals.confirm(act.id, act.digest)
    call = '"call":"/otahsm.v1.ApprovalService/ConfirmHeldAct"'
    (tried,) = await events(stations.daemon, "access.denied", call, "cn:asker")
    assert '"reason":"NOT_ALLOWED"' in tried.details
    with pytest.raises(RequestRefusedError, match="digest"):
        await stations.second.approvals.confirm(act.id, bytes(32))
    with pytest.raises(NotFoundError):
        await stations.second.approvals.confirm(10**9, act.digest)
    confirmed = await stations.second.approvals.confirm(act.id, act.digest)
    assert (confirmed.state, confirmed.decided_by, confirmed.done) == ("confirmed", "cn:second", 1)
    assert await stations.second.approvals.confirm(act.id, act.digest) == confirmed
    with pytest.raises(NotHeldError):
        await stations.asker.approvals.reject(act.id)
    assert await status(stations, "cam-00002") == "revoked"
    (event,) = await events(stations.daemon, "act.confirmed", f'"act":{act.id},')
    assert event.client == "cn:second"
    assert '"requester":"cn:asker"' in event.details


async def test_who_asked_can_take_it_back(stations: Stations) -> None:
    act = await stations.held("cam-00003")
    assert (await stations.asker.approvals.reject(act.id)).state == "rejected"
    with pytest.raises(NotHeldError, match="was rejected"):
        await stations.second.approvals.confirm(act.id, act.digest)
    (event,) = await events(stations.daemon, "act.rejected", f'"act":{act.id},')
    assert event.client == "cn:asker"


async def test_an_operator_confirms_no_denial_that_it_may_not_ask_for(stations: Stations) -> None:
    with pytest.raises(HeldError) as raised:
        await stations.boss.access.deny("cn:chief", "gone")
    act = await stations.named(int(raised.value.metadata["act"]))
    assert (act.kind, act.asked, act.reason) == ("denial", ("cn:chief",), "gone")
    with pytest.raises(NotAllowedError, match="role admin"):
        await stations.second.approvals.confirm(act.id, act.digest)
    async with stations.daemon.client() as admin:
        assert (await admin.approvals.confirm(act.id, act.digest)).done == 1
        assert "cn:chief" in {each.subject for each in await admin.access.denied()}


async def test_the_glass_breaks_with_the_ledgers_key_for_one_act_and_ten_minutes(stations: Stations) -> None:
    act, other = await stations.held("cam-00004"), await stations.held("cam-00005")
    keys = read_mac_keys(section(stations.daemon.fleet.config.ledger, "ledger"))
    now = datetime.now(UTC)

    def glass(
        keys: MacKeys = keys, digest: bytes = act.digest, at: datetime = now, reason: str = "recall"
    ) -> tuple[str, str, datetime, bytes]:
        mac = break_glass_mac(keys, digest, BreakGlass("root", "recall", microseconds(at)))
        return "root", reason, at, mac

    approvals = stations.asker.approvals
    for wrong, why in (
        (glass(MacKeys(bytes(32))), "the ledger's key"),
        (glass(digest=other.digest), "the ledger's key"),
        (glass(reason="another"), "the ledger's key"),
        (glass(at=now - timedelta(minutes=11)), "not of the last 10 minutes"),
        (glass(at=now + timedelta(minutes=11)), "not of the last 10 minutes"),
    ):
        with pytest.raises(NotAllowedError, match=why):
            await approvals.confirm(act.id, act.digest, glass=wrong)
    with pytest.raises(RequestRefusedError, match="reason"):
        await approvals.confirm(act.id, act.digest, glass=glass(reason=""))
    with pytest.raises(NotAllowedError, match="lacks the role"):
        await stations.auditor.approvals.confirm(act.id, act.digest, glass=glass())
    confirmed = await approvals.confirm(act.id, act.digest, glass=glass())
    assert confirmed.state == "confirmed"
    assert '"reason":"recall"' in confirmed.break_glass
    (event,) = await events(stations.daemon, "act.confirmed", f'"act":{act.id},')
    assert '"break_glass":1' in event.details
    assert '"host_user":"root"' in event.details
    (line,) = stations.daemon.wait_for("act.glass_broken", act=act.id)
    assert line["level"] == "critical"
    assert (await stations.named(other.id)).state == "open"


async def test_what_a_client_asked_that_may_not_ask_now_is_not_confirmed(stations: Stations) -> None:
    act, daemon = await stations.held("cam-00006"), stations.daemon
    certificate = certificate_of(stations.asker_tls).fingerprint(SHA256()).hex()
    async with daemon.client() as admin:
        for subject in ("cn:asker", f"sha256:{certificate}"):
            await admin.access.deny(subject, "stolen")
            with pytest.raises(ClientDeniedError, match="can't be confirmed"):
                await stations.second.approvals.confirm(act.id, act.digest)
            await admin.access.allow(subject)
    policy = daemon.fleet.folder / "policy.toml"
    before = policy.read_text()
    for count, after in enumerate(
        (
            before.replace(f"{STRICT}", 'roles = ["auditor"]', 1),
            before.replace('"cn:asker", ', "", 1),
        ),
        1,
    ):
        await reload(daemon, after, count)
        with pytest.raises(NotAllowedError, match="can't be confirmed"):
            await stations.second.approvals.confirm(act.id, act.digest)
    await reload(daemon, before, 3)
    assert (await stations.second.approvals.confirm(act.id, act.digest)).state == "confirmed"


async def reload(daemon: RunningDaemon, policy: str, count: int) -> None:
    (daemon.fleet.folder / "policy.toml").write_text(policy)
    daemon.process.send_signal(signal.SIGHUP)
    await asyncio.to_thread(daemon.wait_for, "policy.loaded", count)


async def events(daemon: RunningDaemon, name: str, about: str, who: str = "") -> list[Any]:
    async with daemon.client() as client:
        return [each async for each in client.access.events(AuditQuery(name, who)) if about in each.details]


# A stolen operator certificate


async def rushed(asked: Iterable[Awaitable[Any]]) -> list[Any]:
    """Ask for everything as fast as a client may; return the results, and errors in place of some."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(each: Awaitable[Any]) -> Any:
        async with room:
            try:
                return await each
            except OtahsmError as error:
                return error

    return await asyncio.gather(*map(one, asked))


async def revoke(client: Client, devices: list[str]) -> list[Revoked | NotRevoked]:
    return [each async for each in client.revocation.revoke(of(devices), Reason.KEY_COMPROMISE)]


def done(results: list[Any]) -> int:
    assert all(isinstance(each, HeldError) for each in results if isinstance(each, Exception)), results
    return sum(not isinstance(each, Exception) for each in results)


@asynccontextmanager
async def serving(fleet: Fleet) -> AsyncIterator[RunningDaemon]:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        yield daemon


async def test_a_stolen_operator_certificate_does_little_to_a_fleet_of_10_000(fleet: Fleet) -> None:
    devices = await fill(fleet, FLEET)
    allow(fleet, "thief", 'cn:thief", "uri:spiffe://fleet/thief', OPERATOR)
    allow(fleet, "lines", "uri:spiffe://fleet/line/*", 'roles = ["issuer"]\nprofiles = ["*"]')
    stolen, alias = OperatorCa(fleet).issue("thief"), alias_of(fleet, "thief")
    second = new_client(fleet, "second", OPERATOR)
    others = [new_client(fleet, f"operator-{number}", OPERATOR) for number in range(12)]
    more = range(QUOTA + 20)
    async with serving(fleet) as daemon, daemon.client(tls=stolen) as thief:
        chunks = [devices[first : first + 256] for first in range(0, FLEET, 256)]
        (revoked, resets, denials, orders) = await asyncio.gather(
            rushed(revoke(thief, chunk) for chunk in chunks),
            rushed(thief.issuance.reset_device(device) for device in devices[-len(more) :]),
            rushed(thief.access.deny(f"uri:spiffe://fleet/line/{number}") for number in more),
            rushed(thief.batches.create(Batch(f"b-{number}", 10**6, IdScheme("uuid4"))) for number in more),
        )
        outcomes = [each for part in revoked for each in part]
        assert len(outcomes) == FLEET
        assert sum(isinstance(each, Revoked) for each in outcomes) == QUOTA
        assert all(isinstance(each.error, HeldError) for each in outcomes if isinstance(each, NotRevoked))
        assert [done(results) for results in (resets, denials, orders)] == [QUOTA] * 3
        closed = await rushed(thief.batches.close(f"b-{number}") for number in more)
        assert sum(not isinstance(each, Exception) for each in closed) == QUOTA
        assert sum(isinstance(each, NotFoundError) for each in closed) == 20
        daemon.kill()
    async with serving(fleet) as daemon, AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(daemon.client(tls=tls))
            for tls in (fleet.tls, second, stolen, alias, *others)
        ]
        admin, good, *thieves, _ = opened[:5]
        await asyncio.to_thread(daemon.wait_for, "crl.made", revoked=QUOTA)
        assert len(serials_on((await good.revocation.crl()).der)) == QUOTA
        held = [act async for act in good.approvals.held()]
        by_kind = {
            kind: [act for act in held if act.kind == kind]
            for kind in ("revocation", "reset", "denial", "batch")
        }
        assert sum(act.size for act in by_kind["revocation"]) == FLEET - QUOTA
        assert [len(by_kind[kind]) for kind in ("reset", "denial", "batch")] == [20] * 3
        assert {act.policy_client for act in held} == {"thief"}
        act, order = by_kind["revocation"][0], by_kind["batch"][0]
        for client in thieves:
            with pytest.raises(NotAllowedError, match="thief asked for the act"):
                await client.approvals.confirm(act.id, act.digest)
        assert done(await rushed([one_more(thieves[1], devices[5000])])) == 0
        assert (await good.approvals.reject(order.id)).state == "rejected"
        await admin.access.deny("cn:thief", "stolen")
        for each in held:
            if each is not order:
                with pytest.raises(ClientDeniedError, match="can't be confirmed"):
                    await good.approvals.confirm(each.id, each.digest)
        await the_fleet_has_a_quota_too(opened[4:], devices)
        await asyncio.to_thread(daemon.wait_for, "crl.made", revoked=10 * QUOTA)


async def one_more(client: Client, device: str) -> object:
    (outcome,) = await revoke(client, [device])
    if isinstance(outcome, NotRevoked):
        raise outcome.error
    return outcome


async def the_fleet_has_a_quota_too(operators: list[Client], devices: list[str]) -> None:
    """Twelve more want to revoke a hundred each; the thief has used a tenth of the fleet's thousand."""
    wanted = [devices[1000 + 110 * number :][:110] for number in range(len(operators))]
    answers = await asyncio.gather(*map(revoke, operators, wanted))
    new = [sum(isinstance(each, Revoked) and not each.before for each in answer) for answer in answers]
    assert sum(new) == 9 * QUOTA
    assert max(new) == QUOTA
