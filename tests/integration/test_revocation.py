"""Revoking and CRLs without a network: a real ledger, real signers, and a clock of the test's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import pem

from otahsm.authority import (
    AUTHORITIES,
    CrlName,
    Issued,
    Revocation,
    RevocationRequest,
    assemble,
)
from otahsm.errors import ConfigError, NotFoundError, RequestRefusedError, RevokedError, SigningRefusedError
from otahsm.pki.crls.building import Reason
from otahsm.pki.crls.reading import describe_crl
from otahsm.pki.parsing import crl_url_in
from otahsm.pki.serial import SerialNumber
from otahsm.system.clock import utc_now

from support.authority import root_of
from support.harness import Fleet
from support.revoking import (
    CALLER,
    SHARDED,
    START,
    TEN_MINUTES,
    URL,
    configure,
    named,
    order,
    serials_on,
    station,
)


async def test_a_revocation_is_on_the_next_crl_which_is_made_at_once(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet) as running:
        await running.said("crl.written", number=1, revoked=0)
        issued = await running.issue(3)
        (revoked,) = await running.revoke(issued[1], reason=Reason.KEY_COMPROMISE)
        assert revoked == Revocation(
            issued[1].serial,
            issued[1].device_id,
            "ota-connect",
            int(START.timestamp()),
            Reason.KEY_COMPROMISE,
            before=False,
        )
        said, serials = await running.crl()
        assert serials == {issued[1].serial}
        assert said.number == 2
        assert said.this_update == START.replace(microsecond=0) - TEN_MINUTES
        assert said.next_update == START.replace(microsecond=0) + timedelta(hours=168)
        assert said.key_identifier == running.authority.authorities.by_name[""].chain.issuer.key_identifier
        assert (said.distribution_point, said.only_authorities) == (None, False)
        await running.said("crl.written", number=2, revoked=1)
        der = (running.folder / "fleet.crl").read_bytes()
        assert serials_on(der) == serials
        assert (running.folder / "complete.crl").read_bytes() == der
        assert pem.unarmor((running.folder / "complete.pem").read_bytes())[2] == der
        assert {path.name for path in running.folder.iterdir()} == {
            "fleet.crl", "complete.crl", "complete.pem", ".lock"
        }  # fmt: skip


async def test_a_revoked_certificate_is_not_handed_out_again(fleet: Fleet) -> None:
    async with station(fleet) as running:
        asked = order()
        (issued,) = await running.authority.issue(CALLER, [asked])
        assert isinstance(issued, Issued)
        await running.revoke(issued)
        again, other = await running.authority.issue(CALLER, [asked, order()])
        assert isinstance(other, Issued)
        assert isinstance(again, RevokedError)
        assert (again.code.name, again.reason) == ("FAILED_PRECONDITION", "REVOKED")
        assert f"{issued.serial:x}" in again.message
        assert "2030-06-01 12:00:00 UTC (superseded)" in again.message


async def test_a_crl_is_made_anew_on_schedule_and_not_before(fleet: Fleet) -> None:
    configure(fleet, more="validity_hours = 48\nrefresh_hours = 12\n")
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
        running.now += timedelta(hours=11, minutes=59)
        await running.looked()
        assert (await running.crl())[0].number == 1
        running.now += timedelta(minutes=1)
        said = await running.next_crl(after=1)
        assert said.number == 2
        assert said.this_update == START.replace(microsecond=0) + timedelta(hours=12) - TEN_MINUTES
        assert said.next_update == START.replace(microsecond=0) + timedelta(hours=60)
        await running.said("crl.written", number=2)
        assert describe_crl((running.folder / "complete.pem").read_bytes()) == said


async def test_a_crl_that_ran_out_while_no_daemon_ran_is_made_at_the_start(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
    async with station(fleet) as running:  # nothing is due
        await running.looked()
        assert (await running.crl())[0].number == 1
    async with station(fleet, START + timedelta(days=30)) as running:
        await running.said("crl.written", number=2)


@pytest.mark.parametrize(
    ("back", "this_update"),
    [
        (timedelta(minutes=5), START - TEN_MINUTES),  # as before: it does not go back
        (timedelta(days=3), START - timedelta(days=3)),  # what was stated is not valid yet
    ],
)
async def test_a_clock_that_goes_back_leaves_numbers_rising_and_crls_valid(
    fleet: Fleet, back: timedelta, this_update: datetime
) -> None:
    configure(fleet)
    async with station(fleet) as running:
        issued = await running.issue(2)
        await running.revoke(issued[0])
        before, _ = await running.crl()
        running.now -= back
        await running.revoke(issued[1])
        said, serials = await running.crl()
        assert serials == {item.serial for item in issued}
        assert before.number is not None
        assert said.number is not None
        assert said.number > before.number
        assert said.this_update == this_update.replace(microsecond=0)
        assert said.this_update <= running.now < said.this_update + timedelta(hours=168)


async def test_a_crl_that_a_wrong_clock_made_is_replaced_as_soon_as_the_clock_is_right(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet, START + timedelta(days=3000)) as running:
        await running.said("crl.written", number=1)
    async with station(fleet) as running:
        await running.said("crl.written", number=2)
        said, _ = await running.crl()
        assert said.this_update <= running.now


async def test_no_crl_is_made_by_a_clock_at_which_the_ca_is_not_valid(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
        (issued,) = await running.issue()
        running.now = datetime(1970, 1, 1, 0, 10, tzinfo=UTC)
        await running.revoke(issued)
        assert "it is 1970-01-01" in await running.failed()
        assert (await running.crl())[0].number == 1  # the last good one is still there
        running.now = START
        assert (await running.next_crl(after=1)).revoked == 1


async def test_shards_hold_the_devices_that_state_them_and_the_complete_crl_all(fleet: Fleet) -> None:
    configure(fleet, url=SHARDED, shards=3)
    async with station(fleet) as running:
        await running.said("crl.written", files=7)
        issued = await running.issue(12)
        await running.revoke(*issued[:9])
        of_url: dict[str, set[int]] = {SHARDED.replace("{shard}", str(shard)): set() for shard in range(3)}
        for item in issued[:9]:
            url = crl_url_in(item.certificate)
            assert url is not None
            of_url[url].add(item.serial)
        said, serials = await running.crl()
        assert serials == {item.serial for item in issued[:9]}
        assert said.distribution_point is None
        for url, expected in of_url.items():
            said, serials = await running.crl(url)
            assert serials == expected
            assert (said.distribution_point, said.only_devices) == (url, True)
        said, serials = await running.crl(AUTHORITIES)
        assert (said.only_authorities, serials) == (True, set())
        await running.said("crl.written", revoked=9)
        for url, expected in of_url.items():
            assert serials_on((running.folder / url.rpartition("/")[2]).read_bytes()) == expected


async def test_a_url_that_certificates_state_has_a_crl_under_every_later_configuration(fleet: Fleet) -> None:
    configure(fleet, url=SHARDED, shards=2)
    async with station(fleet) as running:
        (old,) = await running.issue()
        old_url = crl_url_in(old.certificate)
    assert old_url is not None
    configure(fleet, url="http://elsewhere.example.com/all.crl")
    async with station(fleet, START + timedelta(days=2)) as running:
        (new,) = await running.issue()
        await running.revoke(old, new)
        said, serials = await running.crl(old_url)
        assert serials == {old.serial}
        assert said.distribution_point == old_url
        assert said.next_update is not None
        assert said.next_update > START + timedelta(days=8)
        _, serials = await running.crl("http://elsewhere.example.com/all.crl")
        assert serials == {old.serial, new.serial}
        await running.said("crl.written", revoked=2)
        assert serials_on((running.folder / old_url.rpartition("/")[2]).read_bytes()) == {old.serial}
        assert serials_on((running.folder / "all.crl").read_bytes()) == {old.serial, new.serial}


async def test_a_url_whose_file_has_another_crl_is_reported_and_still_fetched(fleet: Fleet) -> None:
    configure(fleet, url=SHARDED, shards=2)
    async with station(fleet) as running:
        await running.issue()
    configure(fleet, url=SHARDED.replace("crl.", "new."), shards=2)
    async with station(fleet) as running:
        assert "can't write a file for http://crl.example.com/fleet-0.crl" in await running.failed()
        said = describe_crl((running.folder / "fleet-0.crl").read_bytes())
        assert said.distribution_point == "http://new.example.com/fleet-0.crl"
        said, _ = await running.crl("http://crl.example.com/fleet-0.crl")
        assert said.distribution_point == "http://crl.example.com/fleet-0.crl"


async def test_without_a_crl_section_revocations_are_kept_and_the_complete_crl_is_there_for_who_asks(
    fleet: Fleet,
) -> None:
    async with station(fleet) as running:
        said, serials = await running.crl()
        assert (said.number, serials) == (1, set())
        (issued,) = await running.issue()
        assert crl_url_in(issued.certificate) is None
        await running.revoke(issued)
        said, serials = await running.crl()
        assert (said.number, serials) == (2, {issued.serial})
        assert said.next_update == START.replace(microsecond=0) + timedelta(hours=168)
        assert not running.folder.exists()


async def test_nothing_is_signed_for_who_never_revokes(fleet: Fleet) -> None:
    async with station(fleet) as running:
        await running.issue()
        await running.looked()
    assert not [event for event, _ in running.events if event.startswith("crl.")]


async def test_signers_that_never_joined_a_ledger_are_asked_nothing_by_who_never_revokes(
    fleet: Fleet,
) -> None:
    for mark in (fleet.folder / "state/login/signed/last").glob("begun-*"):
        mark.unlink()
    async with station(fleet) as running:
        await running.issue()
        await running.looked()
        assert running.failures() == []
        with pytest.raises(SigningRefusedError, match="don't know which CRLs"):
            await running.crl()


async def test_a_ca_that_may_not_sign_crls_revokes_all_the_same(fleet: Fleet) -> None:
    fleet.root_pem.write_bytes(pem.armor("CERTIFICATE", root_of("ec-p256", "root-here")))
    authority = assemble(fleet.config, lambda *_: None, clock=utc_now)
    await authority.life.start()
    try:
        (outcome,) = await authority.revoke(
            CALLER, [RevocationRequest(None, "nobody", "", Reason.SUPERSEDED)]
        )
        assert isinstance(outcome, NotFoundError)
        with pytest.raises(ConfigError, match="lacks cRLSign"):
            await authority.get_crl(CrlName())
    finally:
        await authority.life.close(30)


@pytest.mark.parametrize("scope", [URL, "http://crl.example.com/none.crl", AUTHORITIES, "x" * 5000])
async def test_a_crl_that_nobody_states_is_not_found(fleet: Fleet, scope: str) -> None:
    async with station(fleet) as running:
        with pytest.raises(NotFoundError):
            await running.authority.get_crl(named(scope))


async def test_what_names_nothing_is_refused_and_costs_no_neighbour(fleet: Fleet) -> None:
    async with station(fleet) as running:
        (issued,) = await running.issue()
        orders = [
            RevocationRequest(None, "", "", Reason.SUPERSEDED),
            RevocationRequest(SerialNumber(1), "a", "", Reason.SUPERSEDED),
            RevocationRequest(None, "a\0b", "", Reason.SUPERSEDED),
            RevocationRequest(None, "a" * 129, "", Reason.SUPERSEDED),
            RevocationRequest(None, issued.device_id, "a\0b", Reason.SUPERSEDED),
            RevocationRequest(None, issued.device_id, "a" * 256, Reason.SUPERSEDED),
            RevocationRequest(None, issued.device_id, "", Reason.SUPERSEDED),
        ]
        *refused, last = await running.authority.revoke(CALLER, orders)
        assert all(isinstance(outcome, RequestRefusedError) for outcome in refused)
        assert isinstance(last, list)
        assert [item.serial for item in last] == [issued.serial]
        assert await running.authority.revoke(CALLER, []) == []
