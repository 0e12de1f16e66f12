"""What was signed and what the ledger holds, compared both ways: each that lacks the other is named."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from otahsm.ledger import (
    Accepted,
    Comparison,
    CrlRow,
    Intent,
    Ledger,
    Period,
    Signatures,
    SignedList,
    StoredCrl,
    Verdict,
    compare_signatures,
    snapshot,
)
from otahsm.pki.der import tlv
from otahsm.pki.serial import make_serial

from support.homes import CA, Home
from support.intents import intent
from support.logbook import Notary, checkpoint, grow, opened

MINUTE = 60_000_000
START = int(datetime(2026, 11, 30, tzinfo=UTC).timestamp()) * 1_000_000
ALWAYS = Period(-(1 << 60), 1 << 60)
TBS = tlv(0x30, b"\x02\x01\x01")


@dataclass
class Case:
    """A ledger with what is signed for it, as an honest signer writes it down."""

    home: Home
    ledger: Ledger
    intents: list[Intent] = field(default_factory=list)
    crls: list[SignedList] = field(default_factory=list)
    checkpoints: list[tuple[int, bytes]] = field(default_factory=list)
    accepted: bool = False

    def compare(self, covered: Period = ALWAYS, *gaps: Period) -> tuple[list[str], Comparison]:
        verdict = Verdict()
        with Signatures() as signed, snapshot(self.home.config) as connection:
            for item in self.intents:
                signed.add_certificate(item.serial.key, item.tbs_sha256)
            signed.crls += self.crls
            signed.checkpoints.update(self.checkpoints)
            if self.accepted:
                signed.accept(0, [*self.crls, *self.checkpoints])
            result = compare_signatures(connection, signed, covered, gaps, verdict)
        return [f"{where}: {what}" for where, what in verdict.findings], result


async def journalled(ledger: Ledger, *names: str) -> list[tuple[int, Intent]]:
    """Journal intents, a minute apart."""
    intents = [
        intent(name)._replace(serial=make_serial(os.urandom(14), (START + number * MINUTE) // 1000))
        for number, name in enumerate(names)
    ]
    answers = await ledger.journal(intents)
    assert all(isinstance(answer, Accepted) for answer in answers)
    return [(answer.intent_id, item) for answer, item in zip(answers, intents, strict=True)]  # type: ignore[union-attr]


@pytest.fixture
async def case(home: Home) -> AsyncIterator[Case]:
    ledger = await opened(home)
    case = Case(home, ledger)
    for number, item in await journalled(ledger, *(f"device-{number}" for number in range(6))):
        if item.device_id == "device-5":
            await ledger.void([number], "the token was away")
        elif item.device_id != "device-4":  # still open
            await ledger.record({number: b"a certificate"})
        case.intents.append(item)
    await ledger.take_crl_number(CA, above=0, earliest=0, now=1)
    taken = await ledger.take_crl_number(CA, above=0, earliest=0, now=1)
    row = CrlRow(taken.number, START // 1_000_000, START // 1_000_000 + 9, 0)
    await ledger.write_crls(CA, [StoredCrl("", row, tlv(0x30, TBS, b"\x05\x00"))])
    case.crls += [SignedList(CA, 1, bytes(32), ""), SignedList(CA, 2, sha256(TBS).digest(), "")]
    await grow(ledger)
    head = await ledger.tree.head()
    assert head is not None
    case.checkpoints.append((head.tree.size, head.tree.root))
    await checkpoint(ledger, Notary())
    for _, item in await journalled(ledger, "later"):
        case.intents.append(item)
    try:
        yield case
    finally:
        await ledger.close()


async def test_what_was_signed_and_what_is_there_match(case: Case) -> None:
    findings, result = case.compare()
    assert findings == []
    void = case.intents[5].serial.key.hex()
    assert result == Comparison(void=[void], void_count=1, older_crls=1)


async def test_a_signature_that_the_ledger_does_not_account_for_is_named(case: Case) -> None:
    stranger = intent("stranger")
    case.intents.append(stranger)
    assert case.compare()[0] == [
        f"certificate {stranger.serial.key.hex()}: it was signed, and the ledger has no intent for it"
    ]


@pytest.mark.parametrize("index", [0, 4, 5])
async def test_another_certificate_with_a_serial_number_of_the_ledgers_is_named(
    case: Case, index: int
) -> None:
    twin = case.intents[index]._replace(tbs_sha256=bytes(32))
    for intents in ([*case.intents, twin], [*case.intents[:index], twin, *case.intents[index + 1 :]]):
        findings, _ = Case(case.home, case.ledger, intents, case.crls, case.checkpoints).compare()
        assert f"certificate {twin.serial.key.hex()}: another certificate with this" in findings[0]


async def test_a_certificate_that_no_signer_has_signed_is_named(case: Case) -> None:
    missing = case.intents.pop(2)
    name = f"certificate {missing.serial.key.hex()}"
    assert case.compare()[0] == [f"{name}: the ledger has it, and no journal says that it was signed"]


async def test_void_and_open_intents_need_no_signature(case: Case) -> None:
    del case.intents[4:6]
    assert case.compare()[0] == []


async def test_what_is_not_of_the_time_that_is_covered_is_not_missed_but_counted(case: Case) -> None:
    begin = 1000 * case.intents.pop(2).serial.milliseconds
    for covered in (Period(begin + 1, 1 << 60), Period(0, begin)):
        findings, result = case.compare(covered)
        assert findings == []
        assert result.not_covered >= 1
    assert len(case.compare(Period(begin, 1 << 60))[0]) == 1


async def test_what_may_be_missing_is_counted_and_no_finding(case: Case) -> None:
    begin = 1000 * case.intents.pop(2).serial.milliseconds
    findings, result = case.compare(ALWAYS, Period(begin, begin + 1))
    assert findings == []
    assert result.in_gaps == 1
    case.crls.pop()
    findings, result = case.compare(
        ALWAYS, Period(begin, begin + 1), Period(START + MINUTE, START + 2 * MINUTE)
    )
    assert findings == []
    assert result.in_gaps == 2


async def test_what_an_operator_has_accepted_to_be_lost_is_listed_and_no_finding(case: Case) -> None:
    lost = intent("lost")
    case.intents.append(lost)
    case.crls.append(SignedList(CA, 9, bytes(32), ""))
    case.checkpoints.append((1 << 20, bytes(32)))
    assert len(case.compare()[0]) == 3
    case.accepted = True
    findings, result = case.compare()
    assert findings == []
    assert result.lost_count == 3
    assert result.lost[0] == f"certificate {lost.serial.key.hex()}"


async def test_a_crl_that_the_ledger_does_not_account_for_is_named(case: Case) -> None:
    case.crls += [
        SignedList(CA, 3, bytes(32), ""),
        SignedList(b"another", 1, bytes(32), ""),
        SignedList(CA, 2, bytes(32), ""),
    ]
    findings, _ = case.compare()
    assert findings == [
        f"CRL 3 of {CA.hex()}: it was signed, and the ledger has not taken that number",
        f"CRL 1 of {b'another'.hex()}: it was signed, and the ledger has not taken that number",
        f"CRL 2 of {CA.hex()}: another CRL with this number was signed than the ledger has",
    ]


async def test_an_older_crl_than_the_last_one_that_was_signed_is_named(case: Case) -> None:
    await case.ledger.take_crl_number(CA, above=0, earliest=0, now=1)
    case.crls.append(SignedList(CA, 3, bytes(32), ""))
    assert case.compare()[0] == [
        f"CRL 3 of {CA.hex()}: it was signed, and the ledger has an older one of its scope, 2"
    ]
    case.accepted = True
    assert case.compare()[0] == []


async def test_a_crl_that_no_signer_has_signed_is_named(case: Case) -> None:
    case.crls.pop()
    assert case.compare()[0] == [
        f"CRL 2 of {CA.hex()}: the ledger has it, and no journal says that it was signed"
    ]
    later, result = case.compare(Period(START + MINUTE, 1 << 60))
    assert later == []
    assert result.not_covered >= 1


async def test_a_crl_under_a_name_that_no_certificate_has_is_named_and_does_what_it_says_to_no_terminal(
    case: Case,
) -> None:
    case.crls.append(SignedList(CA, 2, bytes(32), "http://x/\x1b[2J\nEverything matches."))
    (finding,) = case.compare()[0]
    assert finding.isprintable()
    assert finding.endswith("it was signed, and no certificate in the ledger can name it")


async def test_a_checkpoint_that_no_signer_has_signed_is_named(case: Case) -> None:
    ((size, _),) = case.checkpoints
    case.checkpoints.clear()
    assert case.compare()[0] == [
        f"checkpoint of {size} leaves: the ledger has it, and no journal says that it was signed"
    ]


async def test_a_checkpoint_of_another_tree_is_named(case: Case) -> None:
    ((size, root),) = case.checkpoints
    case.checkpoints += [(size, bytes(32)), (size + 1, bytes(32)), (1, root)]
    findings, _ = case.compare()
    assert [finding.partition(":")[0] for finding in findings] == [
        "checkpoint of 1 leaves",
        f"checkpoint of {size} leaves",
        f"checkpoint of {size + 1} leaves",
    ]


async def test_a_checkpoint_that_was_signed_and_not_kept_is_of_this_tree(case: Case) -> None:
    head = await case.ledger.tree.head()
    assert head is not None
    case.home.change("DELETE FROM checkpoints")
    assert case.compare()[0] == []
