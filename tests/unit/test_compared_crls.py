"""CRLs in the ledger that are not what their rows say, or do not list what was revoked: each is named."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from otahsm.ledger import AUTHORITIES, COMPLETE, StoredCrl
from otahsm.pki.keytypes import KeyType

from support.authority import crl, issuer_of
from support.evidence import (
    HOUR,
    ISSUER,
    NOW,
    NUMBER,
    REVOKED,
    SECONDS,
    SHARDS,
    Certificate,
    fill,
    listed,
    look_at_crls,
    made,
    octets,
)
from support.homes import Home, SqliteHome

KEY = ISSUER.key_identifier.hex()
NO_SUCH = "and the ledger has no such revocation"
COMPLETE_CRL = f"the complete CRL of {KEY}"


@pytest.fixture
async def issued(home: Home) -> list[Certificate]:
    return await fill(home)


@pytest.fixture
def revoked(issued: list[Certificate]) -> list[Certificate]:
    return [item for item in issued if item.intent.device_id in REVOKED]


def put(home: Home, crl: StoredCrl) -> None:
    """Put a CRL and its row into the ledger."""
    row = ", ".join(f"{name} = {value}" for name, value in crl.row._asdict().items())
    home.change(f"UPDATE crls SET {row}, der = {octets(home, crl.der)} WHERE url = '{crl.url}'")


@pytest.mark.usefixtures("issued")
def test_crls_that_are_what_their_rows_say_and_list_all_revocations_match(home: Home) -> None:
    result, findings = look_at_crls(home)
    assert findings == []
    assert (result.crls, result.signatures, result.unchecked) == (4, 4, {})
    assert (result.entries, result.later) == (6, 0)  # each in the complete one and in a shard's


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("number = 6", "its number is 7, but 6 was recorded"),
        ("number = 8", "its number 8 was never taken"),
        ("this_update = this_update + 1", "its thisUpdate is"),
        ("next_update = next_update + 1", "its nextUpdate is"),
        ("revoked = 2", "its number of entries is 3, but 2 was recorded"),
        ("url = 'http://crl.example.com/none.crl'", "no certificate can name it"),
        ("issuer_key_id = {other}", "no CA with its key identifier is configured"),
        ("der = {other}", "it is not exactly one CRL in DER"),
        ("der = der || {zero}", "it is not exactly one CRL in DER"),
    ],
)
@pytest.mark.usefixtures("issued")
def test_a_row_that_says_something_else_than_its_crl_is_named(home: Home, change: str, problem: str) -> None:
    values = change.format(other=octets(home, bytes(20)), zero=octets(home, b"\0"))
    home.change(f"UPDATE crls SET {values} WHERE url = ''")
    _, found = look_at_crls(home)
    assert any(problem in line for line in found), found


@pytest.mark.parametrize(
    "change",
    [
        *(f"crls SET {name} = 'text' WHERE url = ''" for name in ("number", "this_update", "der")),
        "crls SET next_update = 1e300 WHERE url = ''",
        "crls SET der = cast(der AS text) WHERE url = ''",
        "crls SET url = cast(x'ff' AS text) WHERE url LIKE '%-1.crl'",
        "crls SET revoked = x'00' WHERE url = ''",
        "crls SET issuer_key_id = 'text' WHERE url = ''",
        "crls SET url = x'00' WHERE url = ''",
        "crl_numbers SET number = 'text'",
        "crl_numbers SET issuer_key_id = 'text'",
        "crl_urls SET url = x'00' WHERE url LIKE '%-1.crl'",
        "revocations SET reason = 'text' WHERE intent_id = 1",
        "revocations SET revoked_at = 'text' WHERE intent_id = 1",
        "revocations SET revoked_at = 9223372036854775807 WHERE intent_id = 1",
        "revocations SET recorded_at = 'text' WHERE intent_id = 1",
        "intents SET serial = 'text' WHERE id = 1",
    ],
)
async def test_what_sqlite_stores_besides_is_named(tmp_path: Path, change: str) -> None:
    home = SqliteHome(tmp_path)
    await fill(home)
    home.change(f"UPDATE {change}")
    _, found = look_at_crls(home)
    assert found


def test_a_crl_of_another_scope_is_named(home: Home, revoked: list[Certificate]) -> None:
    put(home, made(COMPLETE, revoked)._replace(url=SHARDS[0]))
    put(home, made(SHARDS[0], revoked)._replace(url=AUTHORITIES))
    put(home, made(AUTHORITIES, [])._replace(url=COMPLETE))
    _, found = look_at_crls(home)
    assert sorted(line.partition(": ")[2] for line in found if "its scope is" in line) == [
        f"its scope is '', but '{SHARDS[0]}' was recorded",
        "its scope is 'authorities', but '' was recorded",
        f"its scope is '{SHARDS[0]}', but 'authorities' was recorded",
    ]


@pytest.mark.parametrize("ca", ["rsa-2048", "ed25519", "ec-p384"])
def test_a_crl_that_another_key_signed_in_the_name_of_the_ca_is_named(
    home: Home, revoked: list[Certificate], ca: KeyType
) -> None:
    honest = made(COMPLETE, revoked)
    der = crl(
        listed(revoked),
        ca=ca,
        number=NUMBER,
        made=NOW + timedelta(minutes=50),
        life=timedelta(days=7, minutes=10),
    )
    put(home, honest._replace(der=der))
    result, found = look_at_crls(home)
    assert f"{COMPLETE_CRL}: the CRL is not signed by CN=test fleet root" in found
    assert (result.crls, result.signatures) == (4, 3)


def test_a_crl_that_lacks_what_was_revoked_before_it_was_made_is_named(
    home: Home, revoked: list[Certificate]
) -> None:
    put(home, made(COMPLETE, revoked[1:]))
    result, found = look_at_crls(home)
    serial = revoked[0].intent.serial.hex()
    assert found == [f"{COMPLETE_CRL}: it lacks the revocation of the serial number {serial}"]
    assert result.later == 0


def test_what_was_revoked_after_a_crl_was_made_is_counted(home: Home, revoked: list[Certificate]) -> None:
    put(home, made(COMPLETE, [], number=3, at=SECONDS - HOUR))
    result, found = look_at_crls(home)
    assert (found, result.later, result.entries) == ([], len(revoked), len(revoked))


def test_a_crl_that_lists_what_was_not_revoked_is_named(home: Home, issued: list[Certificate]) -> None:
    put(home, made(COMPLETE, issued[:4]))
    _, found = look_at_crls(home)
    serial = f"{issued[3].intent.serial:040x}".removeprefix("00")
    assert found == [
        f"{COMPLETE_CRL}: it has the serial number {serial}, and the ledger has no such revocation"
    ]


@pytest.mark.parametrize("change", ["revoked_at = revoked_at - 1", "reason = 'key_compromise'"])
def test_a_revocation_that_says_something_else_than_the_crl_is_named(
    home: Home, revoked: list[Certificate], change: str
) -> None:
    home.change(f"UPDATE revocations SET {change} WHERE intent_id = 1")
    serial = revoked[0].intent.serial.hex()
    _, found = look_at_crls(home)
    assert len(found) == 4  # in the complete one and in the shard's
    assert f"{COMPLETE_CRL}: it lacks the revocation of the serial number {serial}" in found
    assert (
        f"{COMPLETE_CRL}: it has the serial number {serial}, and the ledger has no such revocation" in found
    )


def test_a_revocation_that_was_moved_to_another_shard_is_named(
    home: Home, revoked: list[Certificate]
) -> None:
    home.change(f"UPDATE revocations SET crl_url = '{SHARDS[0]}' WHERE intent_id = 1")
    serial = revoked[0].intent.serial.hex()
    _, found = look_at_crls(home)
    assert sorted(found) == [
        f"the CRL '{SHARDS[0]}' of {KEY}: it lacks the revocation of the serial number {serial}",
        f"the CRL '{SHARDS[1]}' of {KEY}: it has the serial number {serial}, {NO_SUCH}",
    ]


@pytest.mark.usefixtures("issued")
def test_without_any_ca_no_signature_is_called_verified(home: Home) -> None:
    result, found = look_at_crls(home, [])
    assert (found, result.crls, result.signatures, result.unchecked) == ([], 4, 0, {KEY: 4})
    stranger = issuer_of("ec-p384")
    _, found = look_at_crls(home, [stranger])
    assert len(found) == 4
    result, found = look_at_crls(home, [stranger], NOW + timedelta(days=9))  # they have expired
    assert (found, result.unchecked) == ([], {KEY: 4})


@pytest.mark.usefixtures("issued")
def test_a_number_that_was_raised_to_where_they_end_is_named(home: Home) -> None:
    home.change(f"UPDATE crl_numbers SET number = {NUMBER + (1 << 32)}")
    assert look_at_crls(home)[1] == []
    for raised in (NUMBER + (1 << 32) + 1, (1 << 63) - 1):
        home.change(f"UPDATE crl_numbers SET number = {raised}")
        named = f"the CRL number of {KEY}: is {raised}, and its last CRL has {NUMBER}: it was raised"
        assert look_at_crls(home)[1] == [named]
