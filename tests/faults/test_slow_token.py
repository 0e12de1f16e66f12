"""A token that is slow and works in parallel: signers and sessions together keep all of it busy."""

from __future__ import annotations

import pytest

from devices import issue_all, new_requests
from faulty import FaultyToken
from harness import running
from ledger_reader import certificates


@pytest.mark.parametrize(("signers", "sessions", "most"), [(2, 8, 16), (1, 16, 16), (2, 1, 2)])
async def test_a_slow_token_is_kept_full_by_as_many_sessions_as_it_has(
    faulty: FaultyToken, signers: int, sessions: int, most: int
) -> None:
    faulty.fleet.edit("signers = 2", f"signers = {signers}")
    faulty.fleet.edit("sessions = 1", f"sessions = {sessions}")
    requests = new_requests(400)
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=signers)
        daemon.wait_for("health.changed", serving=True)
        faulty.misbehave("slow")
        async with daemon.client() as client:
            issued, refused = await issue_all(client, requests)
        assert not refused
        assert daemon.stop() == 0
    assert certificates(faulty.fleet) == {result.device_id: result.chain[0] for result in issued}
    # The token takes 16 at once. Where there are fewer sessions, its last place is never taken.
    assert (faulty.calls("full") > 100) == (most == 16)


async def test_a_session_that_fails_among_others_costs_its_signer_and_no_certificate(
    faulty: FaultyToken,
) -> None:
    faulty.fleet.edit("sessions = 1", "sessions = 4")
    requests = new_requests(300)
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client(patience=60) as client:
            issued, _ = await issue_all(client, requests[:100])
            faulty.misbehave("device-error")
            daemon.wait_for("signer.lost")
            faulty.misbehave()
            more, refused = await issue_all(client, requests[100:])
        assert not refused
    assert len(certificates(faulty.fleet)) == len(issued) + len(more) == 300
