"""`otahsm ledger vouch`: a key that was lost while entries waited is no dead end."""

from __future__ import annotations

import json

from otahsm.issuance.authorities import Authorities
from otahsm.ledger import AuditEvent, Ledger, database_of, read_mac_keys

from support.devices import issued
from support.harness import Fleet, running


async def leave_an_event(fleet: Fleet) -> None:
    """Leave an entry that waits, as a daemon does that is killed."""
    config = fleet.config.ledger
    assert config is not None
    authorities = Authorities.load(fleet.config).key_identifiers
    ledger = Ledger(database_of(config), read_mac_keys(config), authorities)
    await ledger.open()
    await ledger.write_events([AuditEvent(1, "daemon.started", "daemon", 1, "{}")])
    await ledger.close()


async def test_what_waited_when_the_key_was_lost_is_listed_and_accepted(fleet: Fleet) -> None:
    await leave_an_event(fleet)
    assert fleet.run("ledger", "vouch").returncode == 0
    (fleet.folder / "ledger.key").unlink()
    refused = fleet.run("serve")
    assert refused.returncode == 2
    assert "`otahsm ledger init-key` makes it" in refused.stderr
    assert fleet.run("ledger", "init-key").returncode == 0
    listed = fleet.run("ledger", "vouch")
    assert listed.returncode == 1
    assert listed.stdout.startswith("the event 1: happened_at 1, name daemon.started, client daemon")
    assert "Nothing shows that a daemon wrote 1 entry. Nothing was changed." in listed.stderr
    digest = listed.stderr.rpartition("--accept ")[2].strip()
    for accepted, why in (("1", "'1' is no digest of entries"), (f"1:{16 * '0'}", "you accepted others")):
        wrong = fleet.run("ledger", "vouch", "--accept", accepted)
        assert (wrong.returncode, why in wrong.stderr) == (2, True)
    assert fleet.run("ledger", "vouch", "--accept", digest).stdout == "1 entry is accepted.\n"
    assert fleet.run("ledger", "vouch").returncode == 0
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        await issued(daemon, 1)
        assert daemon.stop() == 0
    assert json.loads(fleet.run("ledger", "verify", "--json").stdout)["good"] is True
