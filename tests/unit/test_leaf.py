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
from otahsm.ledger.tree.log_entries import KINDS, Entry, Kind, read_leaves
from otahsm.tlog import parse_leaf

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
        client=client, intended_at=moment, request_id=request_id
    )
    with connection.begin_nested():
        connection.execute(certificates.delete())
        connection.execute(intents.delete())
        connection.execute(intents.insert().values(id=7, place=3, **columns_of(row)))
        connection.execute(certificates.insert().values(intent_id=7, der=der, recorded_at=moment))
    (leaf,) = read_leaves(connection, [Entry(Kind.CERTIFICATE, 7)])
    assert leaf is not None
    expected: dict[str, Any] = {"kind": "certificate", "id": 7, "place": 3, "der": der, "recorded_at": moment}
    expected |= columns_of(row)
    del expected["batch_id"], expected["quota_id"]  # leaves are as they were before there were any
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
    kinds = (Kind.VOID, 3), (Kind.CERTIFICATE, 2), (Kind.CERTIFICATE, 1), (Kind.VOID, 2), (99, 1)
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
    assert held["certificate"] == sorted([*intended.split(), "der", "recorded_at"])
    assert held["void"] == sorted([*intended.split(), "void_reason", "voided_at"])


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
