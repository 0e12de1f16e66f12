"""The queue of pending leaves: only who has the MAC key can append to the tree.

The transaction that writes an entry adds a row to `pending_leaves`: what it is, the hash of its leaf, and a
MAC over both. The sequencer appends nothing else. So what is changed in the tables afterwards differs from
its leaf, even before it is appended, and a row that anybody else adds has no valid MAC.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Dialect, Engine, Insert, Row, Table, insert, select

from otahsm.ledger.db.dialects import columns_given, write_rows
from otahsm.ledger.schema import pending_leaves
from otahsm.ledger.tree.log_entries import KINDS, Kind
from otahsm.tlog import leaf_hash

KEY_BYTES: Final = 32

_PENDING: Final = ("kind", "intent_id", "hash", "mac")
_OPTION: Final = "otahsm_mac_keys"
_CONTEXT: Final = b"otahsm pending leaf 1\0"
_HASH_BYTES: Final = 32
_ID_BYTES: Final = 8


class MacKeys(NamedTuple):
    """The keys of the MACs on pending leaves, of 32 octets each.

    Attributes:
        used: makes and verifies MACs.
        accepted: only verifies them: the key before, or the next one; None for none.
    """

    used: bytes
    accepted: bytes | None = None

    def mac(self, kind: int, intent_id: int, hashed: bytes) -> bytes:
        """Return the MAC of a pending leaf: HMAC-SHA-256 (RFC 2104), 32 octets."""
        return _mac(self.used, kind, intent_id, hashed)

    def vouch(self, row: Row[Any]) -> bool:
        """Return whether a row of `pending_leaves` was written by a daemon."""
        kind, intent_id, hashed, mac = row.kind, row.intent_id, row.hash, row.mac
        # SQLite stores values of any type.
        if type(kind) is not int or type(intent_id) is not int:
            return False
        if type(hashed) is not bytes or type(mac) is not bytes or len(hashed) != _HASH_BYTES:
            return False
        try:
            keys = [key for key in self if key is not None]
            return any(hmac.compare_digest(mac, _mac(key, kind, intent_id, hashed)) for key in keys)
        except OverflowError:
            return False


def with_keys(engine: Engine, keys: MacKeys) -> Engine:
    """Return an engine whose connections can queue entries."""
    return engine.execution_options(**{_OPTION: keys})


def keys_of(connection: Connection) -> MacKeys:
    """Return the keys of a connection `with_keys`."""
    keys: MacKeys = connection.get_execution_options()[_OPTION]
    return keys


def note_entries(connection: Connection, kind: Kind, intent_ids: Iterable[int]) -> None:
    """Queue entries that exist as pending leaves, in the transaction that writes them."""
    if not (ids := list(intent_ids)):
        return
    try:
        found = KINDS[kind].read(connection, ids)
    except (TypeError, ValueError):  # SQLite stores values of any type: what somebody wrote can't be a leaf
        found = {}
    note_leaves(connection, kind, {each: found[each] for each in ids if each in found})  # in that order
    if missing := [(int(kind), each, b"", b"") for each in ids if each not in found]:
        # The change itself must succeed. No MAC vouches for it, so it is named, and issuing stops.
        write_rows(connection, insert_into(pending_leaves, _PENDING, connection.dialect), _PENDING, missing)


def note_leaves(connection: Connection, kind: Kind, leaves: Mapping[int, bytes]) -> None:
    """Queue leaves, by the ids of their entries, in the transaction that writes these."""
    keys = keys_of(connection)
    rows = []
    for intent_id, leaf in leaves.items():
        hashed = leaf_hash(leaf)
        rows.append((int(kind), intent_id, hashed, keys.mac(kind, intent_id, hashed)))
    if rows:
        write_rows(connection, insert_into(pending_leaves, _PENDING, connection.dialect), _PENDING, rows)


@lru_cache(maxsize=8)
def insert_into(table: Table, names: tuple[str, ...], dialect: Dialect) -> Insert:
    """Return the INSERT of many rows, for `write_rows`."""
    return insert(table).from_select(names, select(columns_given(table, names, dialect)))


def _mac(key: bytes, kind: int, intent_id: int, hashed: bytes) -> bytes:
    facts = kind.to_bytes(_ID_BYTES, "big", signed=True) + intent_id.to_bytes(_ID_BYTES, "big", signed=True)
    return hmac.digest(key, _CONTEXT + facts + hashed, sha256)
