"""A daemon that says nothing any more, its connection open: a machine that hangs, or was switched off."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from otahsm.client import Client, IssuedCertificate

from support.devices import new_requests
from support.harness import Fleet, running
from support.ledger_reader import certificates, rows


async def test_a_stream_to_a_daemon_that_falls_silent_goes_on_at_another(
    make_fleet: Callable[[], Fleet],
) -> None:
    seen: dict[str, bytes] = {}
    with running(make_fleet()) as one, running(make_fleet()) as other:
        for daemon in (one, other):
            daemon.wait_for("health.changed", serving=True)
        targets = [one.address, other.address]
        async with Client(targets, one.fleet.tls, patience=120) as client:
            async for result in client.issuance.issue(new_requests(1000)):
                assert isinstance(result, IssuedCertificate)
                seen[result.device_id] = result.chain[0]
                if len(seen) == 200:
                    (silent,) = (daemon for daemon in (one, other) if rows(daemon.fleet))
                    os.kill(silent.process.pid, signal.SIGSTOP)
    (spoke,) = (daemon for daemon in (one, other) if daemon is not silent)
    assert len(seen) == 1000
    asked_again = certificates(spoke.fleet)
    assert asked_again
    first = certificates(silent.fleet)
    assert all(certificate in (first.get(name), asked_again.get(name)) for name, certificate in seen.items())
