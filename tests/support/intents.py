"""Intents that nobody else writes, for tests of the ledger."""

from __future__ import annotations

import hashlib
import os

from otahsm.ledger import Accepted, AuditEvent, Intent, Ledger
from otahsm.pki.serial import SerialNumber

from support.homes import CA


def told(_: object) -> AuditEvent:
    """The event of a change that a test makes."""
    return AuditEvent(1, "test.changed", "cn:test", 1, "{}")


def intent(device: str, key: str = "", request: str = "", profile: str = "p") -> Intent:
    key = key or device
    return Intent(
        serial=SerialNumber.from_octets(os.urandom(20)),
        request_id=request or f"{profile}/{device}/{key}",
        profile=profile,
        device_id=device,
        spki_sha256=hashlib.sha256(key.encode()).digest(),
        tbs_sha256=os.urandom(32),
        issuer_key_id=CA,
        not_before=1,
        not_after=2,
        client="cn:test",
        client_certificate_sha256=bytes(32),
        intended_at=3,
    )


async def issue(ledger: Ledger, *intents: Intent) -> None:
    for wanted, answer in zip(intents, await ledger.journal(intents), strict=True):
        assert isinstance(answer, Accepted)
        await ledger.record({answer.intent_id: b"certificate of " + wanted.device_id.encode()})
