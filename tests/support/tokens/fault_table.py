"""Every way in which a token fails, section by section: what a PKCS#11 module can do to its user.

Each fault is switched on under a running daemon, while a client with patience asks for certificates, and one
without.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509

from otahsm.client import IssuedCertificate, Refusal

from support.devices import issue_all, new_request, new_requests
from support.harness import Fleet, RunningDaemon, eventually, running
from support.ledger_reader import certificates
from support.tokens.faulty import FaultyToken, behind_shim

CKR: Final = {
    "host memory": 0x02,
    "general error": 0x05,
    "function failed": 0x06,
    "arguments bad": 0x07,
    "device error": 0x30,
    "device memory": 0x31,
    "device removed": 0x32,
    "function cancelled": 0x50,
    "key handle invalid": 0x60,
    "mechanism invalid": 0x70,
    "object handle invalid": 0x82,
    "operation active": 0x90,
    "operation not initialised": 0x91,
    "session closed": 0xB0,
    "session handle invalid": 0xB3,
    "token not present": 0xE0,
    "token not recognised": 0xE1,
    "user not logged in": 0x101,
    "cryptoki not initialised": 0x190,
    "vendor's own": 0x80000001,
    "no such code": 0x7FFFFFFF,
}


class Fault(NamedTuple):
    words: tuple[str, ...]
    lasts: bool = True  # while it lasts nothing can be signed; else it passes by itself


SIGNING: Final = {f"C_Sign: {name}": Fault((f"C_Sign={code:#x}",)) for name, code in CKR.items()}
STARTING: Final = {
    # What a new signer meets, while the old ones are gone.
    f"{function}: {name}": Fault((f"{function}={CKR[name]:#x}", "C_Sign=abort"))
    for function, name in (
        ("C_Initialize", "general error"),
        ("C_Initialize", "host memory"),
        ("C_GetSlotList", "general error"),
        ("C_GetTokenInfo", "token not present"),
        ("C_OpenSession", "device error"),
        ("C_OpenSession", "session closed"),
        ("C_Login", "device error"),
        ("C_Login", "function failed"),
        ("C_FindObjectsInit", "user not logged in"),
        ("C_FindObjects", "device error"),
        ("C_GetAttributeValue", "device removed"),
        ("C_GetMechanismList", "general error"),
        ("C_SignInit", "key handle invalid"),
    )
}
OTHERS: Final = {
    "a session is lost": Fault(("forget", "once"), lasts=False),
    "all sessions are lost, again and again": Fault(("forget",)),
    "somebody logs everyone out": Fault(("logout", "once"), lasts=False),
    "everyone is logged out, again and again": Fault(("logout",)),
    "one signature fails": Fault(("C_Sign=0x30", "once"), lasts=False),
    "one signature is wrong": Fault(("flip", "once"), lasts=False),
    "one bit of every signature is wrong": Fault(("flip",)),
    "every signature is garbage": Fault(("garbage",)),
    "every signature is too short": Fault(("short",)),
    "one call crashes the process": Fault(("C_Sign=abort", "once"), lasts=False),
    "every call crashes the process": Fault(("C_Sign=abort",)),
    "one call hangs": Fault(("C_Sign=hang", "once"), lasts=False),
    "every call hangs": Fault(("C_Sign=hang",)),
    "every call takes longer than it may": Fault(("C_Sign=1500ms",)),
    "the token is taken out": Fault(("away",)),
    "the reader is taken out": Fault(("no-slots", "C_Sign=0x32")),
    "the token is nearly locked": Fault(("final-try", "C_Sign=abort")),
    "the token is locked": Fault(("locked", "C_Sign=abort")),
}


class Serving(NamedTuple):
    """A daemon that serves with a token that can be made to fail."""

    faulty: FaultyToken
    daemon: RunningDaemon


@contextmanager
def serving_impatiently(fleet: Fleet, shim: Path) -> Iterator[Serving]:
    """Run one daemon for a whole section: what a fault leaves behind would show in the next."""
    with behind_shim(fleet, shim) as faulty:
        faulty.fleet.edit("wait_for_signer_seconds = 10.0", "wait_for_signer_seconds = 0.5")
        faulty.fleet.edit("sign_timeout_seconds = 30.0", "sign_timeout_seconds = 1.0")
        with running(faulty.fleet) as daemon:
            daemon.wait_for("signer.ready", count=2)
            yield Serving(faulty, daemon)
            assert daemon.stop() == 0


async def check_recovery(
    fault: Fault, impatient: Serving, record_property: Callable[[str, object], None]
) -> None:
    """See that the daemon recovers alone, and that nothing is lost; record how long it took."""
    faulty, daemon = impatient
    await asyncio.to_thread(eventually, lambda: whole(daemon), "signers are missing")
    before = certificates(faulty.fleet)
    requests, at_once = new_requests(20), new_request()
    async with daemon.client(patience=60) as patient, daemon.client(patience=0) as hasty:
        seen = len(daemon.events)
        faulty.misbehave(*fault.words)
        asking = asyncio.ensure_future(issue_all(patient, requests))
        if fault.lasts:
            answer = await hasty.issuance.issue_one(at_once.csr)
            assert isinstance(answer, Refusal)
            assert answer.code == "UNAVAILABLE"
            assert answer.message
            assert answer.hint
            await asyncio.to_thread(eventually, lambda: not serving(daemon), "it says that it serves")
            assert all(event["reason"] for event in daemon.events[seen:] if event.get("serving") is False)
        else:
            await asyncio.to_thread(eventually, lambda: lost(daemon, seen) > 0, "the fault did nothing")
        faulty.misbehave()
        mended = time.monotonic()
        await asyncio.to_thread(until_serving, daemon)
        record_property("recovery_seconds", round(time.monotonic() - mended, 2))
        issued, refused = await asking
        assert not refused
        again = await hasty.issuance.issue_one(at_once.csr)
        assert isinstance(again, IssuedCertificate)
    added = {name: der for name, der in certificates(faulty.fleet).items() if name not in before}
    assert added == {result.device_id: result.chain[0] for result in (*issued, again)}
    root = x509.load_pem_x509_certificate(faulty.fleet.root_pem.read_bytes())
    for der in added.values():
        x509.load_der_x509_certificate(der).verify_directly_issued_by(root)
    # Who was lost was replaced, by as many and no more.
    await asyncio.to_thread(
        eventually, lambda: len(daemon.signers()) == 2, "signers are missing, or too many"
    )
    assert daemon.process.poll() is None


def serving(daemon: RunningDaemon) -> bool:
    """Return what the daemon last said of its health."""
    said = [event["serving"] for event in daemon.events if event["event"] == "health.changed"]
    return bool(said and said[-1])


def whole(daemon: RunningDaemon) -> bool:
    """Return whether both signers are ready: one that only starts would meet the fault before its time."""
    ready, lost = (
        sum(event["event"] == f"signer.{what}" for event in daemon.events) for what in ("ready", "lost")
    )
    return ready - lost == 2 and serving(daemon)


def until_serving(daemon: RunningDaemon) -> None:
    eventually(lambda: serving(daemon), "it does not recover")


def lost(daemon: RunningDaemon, since: int) -> int:
    return sum(event["event"] == "signer.lost" for event in daemon.events[since:])
