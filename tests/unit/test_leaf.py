"""What leaves hold: one encoding of each row, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine

from otahsm.errors import EvidenceError
from otahsm.ledger import Intent
from otahsm.ledger.schema import certificates, intents, metadata
from otahsm.ledger.tree import log_entries
from otahsm.ledger.tree.entry_kind import Entry
from otahsm.ledger.tree.log_entries import KINDS, Kind, read_leaves
from otahsm.tlog import CERTIFICATE_KINDS, parse_leaf

from support.intents import intent

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def columns_of(row: Intent) -> dict[str, Any]:
    return row._asdict() | {"serial": row.serial.key}


@pytest.fixture(scope="module")
def connection() -> Any:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as connected:
        yield connected
    engine.dispose()


@given(TEXT, TEXT, TEXT, st.binary(max_size=40), st.integers(0, 2**53 - 1))
def test_a_leaf_is_the_canonical_json_of_its_rows(
    connection: Connection, client: str, device: str, request_id: str, der: bytes, moment: int
) -> None:
    row = intent(device, request=request_id)._replace(
        client=client, intended_at=moment, request_id=request_id, policy_client=client, batch_id=moment
    )
    with connection.begin_nested():
        connection.execute(certificates.delete())
        connection.execute(intents.delete())
        connection.execute(intents.insert().values(id=7, place=3, **columns_of(row)))
        connection.execute(certificates.insert().values(intent_id=7, der=der, recorded_at=moment))
    (leaf,) = read_leaves(connection, [Entry(Kind.CERTIFICATE_2, 7)])
    assert leaf is not None
    expected: dict[str, Any] = {"id": 7, "place": 3, "der": der, "recorded_at": moment} | columns_of(row)
    assert KINDS[Kind.CERTIFICATE_2].encode({name: [value] for name, value in expected.items()}) == [leaf]
    expected["kind"] = "certificate-2"
    readable = {name: v.hex() if isinstance(v, bytes) else v for name, v in expected.items()}
    canonical = json.dumps(readable, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert leaf == canonical.encode()
    assert parse_leaf(leaf) == readable


def test_leaves_come_in_the_order_that_was_asked_for(connection: Connection) -> None:
    with connection.begin_nested():
        connection.execute(certificates.delete())
        connection.execute(intents.delete())
        for number in (1, 2, 3):
            connection.execute(intents.insert().values(id=number, **columns_of(intent(f"d{number}"))))
        connection.execute(certificates.insert().values(intent_id=2, der=b"x", recorded_at=1))
        connection.execute(intents.update().where(intents.c.id == 3).values(void_reason="w", voided_at=2))
    kinds = (Kind.VOID_2, 3), (Kind.CERTIFICATE_2, 2), (Kind.CERTIFICATE_2, 1), (Kind.VOID_2, 2), (99, 1)
    void, certificate, *others = read_leaves(connection, [Entry(*each) for each in kinds])
    assert void is not None
    assert certificate is not None
    assert parse_leaf(void)["void_reason"] == "w"
    assert parse_leaf(certificate)["der"] == "78"
    assert others == [None, None, None]


def test_what_a_leaf_holds_never_changes() -> None:
    # A column that is added here changes every leaf that was ever signed: make a new kind instead.
    intended = "client client_certificate_sha256 device_id id intended_at issuer_key_id not_after not_before"
    intended += " place profile request_id serial spki_sha256 tbs_sha256"
    held = {kind.name: sorted(column.name for column in kind.columns) for kind in KINDS.values()}
    more = f"{intended} policy_client batch_id quota_id"
    columns = {
        "certificate": f"{intended} der recorded_at",
        "certificate-2": f"{more} der recorded_at",
        "void": f"{intended} void_reason voided_at",
        "void-2": f"{more} void_reason voided_at",
        "membership": "id serial batch_id quota_id",
        "superseded": "id serial device_id profile superseded_at",
        "revocation": "id serial device_id profile revoked_at reason client recorded_at crl_url",
        "event": "id happened_at name client occurrences details",
        "batch": "id name profile device_count scheme deadline clients creator created_at",
        "batch-closed": "id name closed_at",
        "quota": "id client",
        "crl-url": "id issuer_key_id url complete",
        "act": "id act client policy_client certificate_sha256 spki_sha256 requested_at size held payload",
        "act-decided": "id decision decided_at decided_by decided_policy_client done break_glass",
        "renewal": "id serial supersedes device_id profile superseded_serial superseded_spki_sha256"
        " superseded_not_after",
    }
    assert held == {name: sorted(text.split()) for name, text in columns.items()}
    assert set(KINDS) == set(Kind)
    assert tuple(KINDS[kind].name for kind in log_entries.CERTIFICATE_KINDS) == CERTIFICATE_KINDS


def test_leaves_of_rows_from_before_there_were_more_columns_are_as_they_were(connection: Connection) -> None:
    old = columns_of(intent("old")) | {"policy_client": None, "request_id": ""}
    with connection.begin_nested():
        connection.execute(certificates.delete())
        connection.execute(intents.delete())
        connection.execute(intents.insert().values(id=1, **old))
        connection.execute(
            intents.insert().values(
                id=2, **old | {"serial": b"2", "batch_id": 7, "device_id": "b", "request_id": ""}
            )
        )
        connection.execute(certificates.insert().values(intent_id=1, der=b"x", recorded_at=1))
    kinds = (Kind.CERTIFICATE, 1), (Kind.CERTIFICATE_2, 1), (Kind.MEMBERSHIP, 1), (Kind.MEMBERSHIP, 2)
    certificate, newer, *memberships = read_leaves(connection, [Entry(*each) for each in kinds])
    assert certificate is not None
    assert not {"policy_client", "batch_id", "quota_id"} & parse_leaf(certificate).keys()
    assert (newer, memberships) == (
        None,
        [None, b'{"batch_id":7,"id":2,"kind":"membership","quota_id":null,"serial":"32"}'],
    )


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"{",
        b"[]",
        b"17",
        b'{"a":1,"a":2}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1.5}',
        b'{"a":true}',
        b'{"a":{}}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":1}\n',
        b'\xef\xbb\xbf{"a":1}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_in_canonical_form_is_no_leaf(octets: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_leaf(octets)
