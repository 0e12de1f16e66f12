"""Who writes the database says something else for a moment, in which a daemon decides.

The daemon makes a certificate that it should not have made. Afterwards the rows fit each other, as far as who
can write the database can make them fit. `verify` must name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from otahsm.ledger import (
    Accepted,
    BatchTerms,
    Conflict,
    Intent,
    Ledger,
    Renewal,
    Replay,
    database_of,
)

from support.acts import as_done, by
from support.homes import CA, MAC_KEYS, Home
from support.intents import intent, told
from support.logbook import findings, grow

NOW = 1_000_000  # seconds
DAY = 86_400
RENEWALS = {"p": Renewal(same_key_seconds=100 * DAY, new_key_seconds=0)}

FITS = "superseded_at = (SELECT intended_at FROM intents WHERE id = {new}), superseded_by = {new}"
UNNAMED = "intent {old}: is superseded by the intent {new}, which was not written for that"
TWO = "intent {new}: the device '{device}' has 2 live intents under the profile 'p'"


class Lie(NamedTuple):
    """A lie: what is said for a moment, what is asked then, what is said afterwards, and what is found."""

    moment: Sequence[str]
    asked: Mapping[str, object]
    after: Sequence[str]
    found: str


def now(*changes: str) -> list[str]:
    return [f"UPDATE intents SET {change} WHERE id = {{old}}" for change in changes]


ANOTHER_KEY: Mapping[str, object] = {"key": "another key"}
RENEWED: Mapping[str, object] = {"not_after": NOW + 400 * DAY}
LIES = {
    "superseded by none, then by the new one": Lie(now("superseded_at = 5"), ANOTHER_KEY, now(FITS), UNNAMED),
    "superseded by none, and the new one says that it was to supersede it": Lie(
        now("superseded_at = 5"),
        ANOTHER_KEY,
        (*now(FITS), "UPDATE intents SET supersedes = {old} WHERE id = {new}"),
        "intent {new}: the renewal of intent {new}",
    ),
    "superseded by none, and it stays so": Lie(
        now("superseded_at = 5"), ANOTHER_KEY, (), "intent {old}: the reset of intent {old}"
    ),
    "void": Lie(
        now("void_reason = 'x', voided_at = 5"),
        ANOTHER_KEY,
        now(f"void_reason = NULL, voided_at = NULL, {FITS}"),
        UNNAMED,
    ),
    "another device's": Lie(
        now("device_id = 'x'"), ANOTHER_KEY, now(f"device_id = '{{device}}', {FITS}"), UNNAMED
    ),
    "under another profile": Lie(now("profile = 'x'"), ANOTHER_KEY, now(f"profile = 'p', {FITS}"), UNNAMED),
    "removed": Lie(
        (
            "CREATE TABLE kept AS SELECT * FROM intents WHERE id = {old}",
            "CREATE TABLE kept_too AS SELECT * FROM certificates WHERE intent_id = {old}",
            "DELETE FROM certificates WHERE intent_id = {old}",
            "DELETE FROM intents WHERE id = {old}",
        ),
        ANOTHER_KEY,
        (
            f"UPDATE kept SET {FITS}",
            "INSERT INTO intents SELECT * FROM kept",
            "INSERT INTO certificates SELECT * FROM kept_too",
        ),
        UNNAMED,
    ),
    "of another key, for another device with this one": Lie(
        now("spki_sha256 = {another}"),
        {"device": "somebody"},
        now("spki_sha256 = {first}"),
        "intent {new}: has a certificate for a key that another device has a certificate for",
    ),
    "of the new key, which is taken for a renewal with the same": Lie(
        now("spki_sha256 = {another}"),
        {**ANOTHER_KEY, **RENEWED},
        now("spki_sha256 = {first}"),
        "the renewal of intent {new}",
    ),
    "about to expire, so that it may be renewed": Lie(
        now(f"not_after = {NOW + DAY}"),
        RENEWED,
        now(f"not_after = {NOW + 200 * DAY}"),
        "the renewal of intent {new}",
    ),
    "superseded by none, and live again": Lie(  # the last, as it needs an index removed
        now("superseded_at = 5"),
        ANOTHER_KEY,
        ("DROP INDEX ix_intents_device", *now("superseded_at = NULL")),
        TWO,
    ),
}


def at(seconds: int, device: str = "device", key: str = "", not_after: int = NOW + 90 * DAY) -> Intent:
    made = intent(device, key=key, request=f"{device}/{key}/{seconds}")
    return made._replace(not_after=not_after, intended_at=1_000_000 * seconds, policy_client="line")


def ledger_of(home: Home) -> Ledger:
    return Ledger(database_of(home.config), MAC_KEYS, [CA], RENEWALS)


def octets(home: Home, key: bytes) -> str:
    return f"x'{key.hex()}'" if home.config.path else f"'\\x{key.hex()}'"


async def issue(ledger: Ledger, asked: Intent) -> int:
    (answer,) = await ledger.journal([asked])
    assert isinstance(answer, Accepted)
    await ledger.record({answer.intent_id: b"certificate"})
    return answer.intent_id


async def test_a_second_certificate_that_a_lie_brought_about_is_named(home: Home) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    expected = {}
    for number, (name, lie) in enumerate(LIES.items()):
        device = f"device-{number}"
        about = {"device": device, "key": device, **lie.asked}
        about["key"] = f"{device} {about['key']}"
        first = at(NOW, device, f"{device} {device}", NOW + 200 * DAY * ("expire" in name) or NOW + 90 * DAY)
        asked = at(NOW + 1, **about)  # type: ignore[arg-type]
        said = {"old": await issue(ledger, first), "device": device}
        said |= {"first": octets(home, first.spki_sha256), "another": octets(home, asked.spki_sha256)}
        if said["first"] == said["another"]:
            said["another"] = octets(home, bytes(32))
        await grow(ledger)
        (refused,) = await ledger.journal([asked])
        assert isinstance(refused, Conflict | Replay), name
        home.change(*(each.format(**said) for each in lie.moment))
        said["new"] = await issue(ledger, asked)
        home.change(*(each.format(**said) for each in lie.after))
        expected[name] = lie.found.format(**said)
        await grow(ledger)
    await ledger.close()
    found = findings(home)
    missed = {name: line for name, line in expected.items() if not any(line in each for each in found)}
    assert missed == {}, found
    assert len(found) < 2 * len(LIES)


async def test_certificates_of_a_batch_that_was_open_again_for_a_moment_are_named(home: Home) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    terms = BatchTerms("order", "p", 5, "{}", None, ("cn:test",))
    batch = as_done((await ledger.acts.create_batch(terms, by(), told)).result)
    await ledger.acts.close_batch("order", by(), told)
    ((closed,),) = home.read("SELECT closed_at FROM batches")
    home.change("UPDATE batches SET closed_at = NULL")
    late = at(NOW)._replace(batch_id=batch.id, intended_at=closed + 700_000_000)
    await issue(ledger, late)
    home.change(f"UPDATE batches SET closed_at = {closed}")
    await grow(ledger)
    await ledger.close()
    assert findings(home) == ["intent 1: was written when the batch 1 was closed or over"]


async def test_a_renewal_that_fails_while_its_request_id_is_taken_is_a_leaf(
    home: Home,
) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    await issue(ledger, at(NOW)._replace(request_id="name"))
    (renewing,) = await ledger.journal([at(NOW + 1, not_after=NOW + 400 * DAY)])
    assert isinstance(renewing, Accepted)
    await issue(ledger, at(NOW + 1, device="other", key="other")._replace(request_id="name"))
    await ledger.close()  # as if it were killed: the next one voids what is open
    ledger = ledger_of(home)
    assert await ledger.open() == 1
    await grow(ledger)
    await ledger.close()
    assert home.read("SELECT superseded_by FROM intents WHERE superseded_at IS NOT NULL") == [(None,)]
    assert findings(home) == []
