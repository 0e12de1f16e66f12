"""Renewing, rekeying and resetting devices, as a factory and an operator do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from otahsm.authority import Caller, IssuanceRequest, Issued, assemble
from otahsm.client import Client, IssuedCertificate, Refusal, Result
from otahsm.line import make_csr

from support.clocks import clock_of_signers
from support.devices import new_request
from support.harness import Fleet, running
from support.ledger_reader import rows

KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
CALLER = Caller("cn:quickstart", bytes(32))


async def ask(client: Client, key: ec.EllipticCurvePrivateKey) -> Result:
    return await client.issuance.issue_one(make_csr("sensor-17", key))


async def test_a_reset_device_gets_a_certificate_for_its_new_key(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.configure_client()
        async with daemon.client() as client:
            first = await ask(client, KEYS[0])
            assert isinstance(first, IssuedCertificate)
            refused = await ask(client, KEYS[1])
            assert isinstance(refused, Refusal)
            assert refused.code == "ALREADY_EXISTS"
            asked = fleet.run("device", "reset", "sensor-17", "--json")
            assert (asked.returncode, asked.stdout) == (2, "")
            assert f"superseded: {first.serial.hex()}" in asked.stderr
            assert "add --expect 1" in asked.stderr
            assert isinstance(await ask(client, KEYS[1]), Refusal)
            done = fleet.run("device", "reset", "sensor-17", "--expect", "1")
            assert done.returncode == 0, done.stderr
            assert f"{first.serial:x}" in done.stdout
            (event,) = daemon.wait_for("device.reset")
            assert (event["device"], event["client"]) == ("sensor-17", "cn:quickstart")
            second = await ask(client, KEYS[1])
            assert isinstance(second, IssuedCertificate)
            again = await ask(client, KEYS[1])
            assert isinstance(again, IssuedCertificate)
            assert again.chain == second.chain != first.chain
            assert isinstance(await ask(client, KEYS[0]), Refusal)


async def test_a_device_that_has_no_certificate_is_not_reset(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.configure_client()
        for arguments in (("sensor-17",), ("sensor-17", "--profile", "gold")):
            done = fleet.run("device", "reset", *arguments, "--expect", "1")
            assert done.returncode == 1
            assert "has no certificate under the profile" in done.stderr
            assert "Traceback" not in done.stderr


async def test_a_certificate_is_renewed_when_its_window_has_come(fleet: Fleet) -> None:
    fleet.edit("renewal_days = 0", "renewal_days = 30")
    fleet.edit("rekey_days = 0", "rekey_days = 10")
    request = new_request()
    asked = IssuanceRequest(CALLER, "", "", request.device_id, request.csr)
    start = datetime.now(UTC)
    with clock_of_signers(start, fleet.folder) as clock:
        authority = assemble(fleet.config, lambda *_: None, clock=clock)
        await authority.life.start()
        try:
            await authority.life.wait_until_serving()
            issued: list[Issued] = []
            for day in (0, 300, 340, 341, 700):
                clock.set(start + timedelta(days=day))
                (outcome,) = await authority.issue(CALLER, [asked])
                assert isinstance(outcome, Issued)
                issued.append(outcome)
        finally:
            await authority.life.close(30)
    assert [outcome.replayed for outcome in issued] == [False, True, False, True, False]
    assert issued[1].certificate == issued[0].certificate
    assert issued[3].certificate == issued[2].certificate
    assert len({row.certificate for row in rows(fleet)}) == 3
