"""Ledgers with a tree, and a key to sign it with that is in no token."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from otahsm.ledger import (
    Accepted,
    AuditEvent,
    Ledger,
    Verdict,
    Vouched,
    snapshot,
    unproven_entries,
    verify,
)
from otahsm.pki.serial import SerialNumber
from otahsm.tlog import Checkpoint, ConsistencyProof, InclusionProof, VerifierKey, assemble

from support.homes import MAC_KEYS, Home, ledger_in
from support.intents import intent
from support.transparency import sign, spki_of


@dataclass
class Notary:
    """Signs trees."""

    origin: str = "ota.example/ledger"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey.from_spki(self.origin, spki_of(self.key))

    def sign(self, size: int, root: bytes) -> bytes:
        text = Checkpoint(self.origin, size, root).encode()
        return assemble(text, self.verifier, sign(self.key, text))


async def opened(home: Home) -> Ledger:
    ledger = ledger_in(home)
    await ledger.open()
    return ledger


async def accept_older(home: Home) -> None:
    """Take over a ledger of an older schema, as an operator does who has looked at it."""
    ledger = ledger_in(home)
    found = unproven_entries(home.config, MAC_KEYS, lambda _: None)
    await ledger.open(Vouched(found.digest, AuditEvent(5, "entries.accepted", "host:root", 1, "{}")))
    await ledger.close()


async def grow(ledger: Ledger) -> int:
    """Take all that waits into the tree; return how many leaves that made."""
    log, taken = ledger.tree, 0
    while (step := await log.grow()).more or step.taken:
        taken += step.taken
    assert not step.problem
    return taken


async def checkpoint(ledger: Ledger, notary: Notary) -> bytes:
    head = await ledger.tree.head()
    assert head is not None
    note = notary.sign(head.tree.size, head.tree.root)
    return await ledger.tree.keep(head.tree.size, note, 1)


async def issue_many(ledger: Ledger, count: int, name: str = "device") -> None:
    answers = await ledger.journal([intent(f"{name}-{number}") for number in range(count)]) if count else []
    ids = [answer.intent_id for answer in answers if isinstance(answer, Accepted)]
    assert len(ids) == count
    if ids:
        await ledger.record({intent_id: b"certificate %d" % intent_id for intent_id in ids})


async def void_some(ledger: Ledger, *names: str) -> None:
    answers = await ledger.journal([intent(name) for name in names])
    await ledger.void([answer.intent_id for answer in answers], "the token was away")  # type: ignore[union-attr]


def verdict(home: Home, notary: Notary | None = None, *known: Checkpoint) -> Verdict:
    with snapshot(home.config) as connection:
        return verify(connection, [notary.verifier] if notary else [], known, mac_keys=MAC_KEYS)


def findings(home: Home, notary: Notary | None = None, *known: Checkpoint) -> list[str]:
    return [f"{where}: {what}" for where, what in verdict(home, notary, *known).findings]


async def inclusion(ledger: Ledger, notary: Notary, serial: SerialNumber) -> tuple[bytes, InclusionProof]:
    log = ledger.tree
    leaf, head = await log.find(serial), await log.head()
    assert leaf is not None
    assert head is not None
    hashes = await log.prove_inclusion(leaf.leaf_index, head.tree.size)
    assert hashes is not None
    note = notary.sign(head.tree.size, head.tree.root)
    return leaf.content, InclusionProof(leaf.leaf_index, tuple(hashes), note, leaf.content)


async def consistency(ledger: Ledger, notary: Notary, old_size: int) -> ConsistencyProof:
    log = ledger.tree
    head = await log.head()
    assert head is not None
    hashes = await log.prove_consistency(old_size, head.tree.size)
    assert hashes is not None
    return ConsistencyProof(old_size, tuple(hashes), notary.sign(head.tree.size, head.tree.root))
