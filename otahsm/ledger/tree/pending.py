"""The queue of pending leaves: only who has the MAC key can append to the tree.

The transaction that writes an entry adds a row to `pending_leaves`: what it is, the hash of its leaf, and a
MAC over both and over what names the ledger. The sequencer appends nothing else. So what is changed in the
tables afterwards differs from its leaf, even before it is appended, and a row that anybody else adds, or
brings from another ledger, has no valid MAC.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Dialect, Engine, Insert, Row, Table, insert, select

from otahsm.ledger.db.dialects import Among, columns_given, write_rows
from otahsm.ledger.schema import leaves, pending_leaves
from otahsm.ledger.tree.entry_kind import Entry
from otahsm.ledger.tree.log_entries import KINDS, Kind
from otahsm.tlog import leaf_hash

KEY_BYTES: Final = 32

_PENDING: Final = ("kind", "intent_id", "hash", "mac")
_OPTION: Final = "otahsm_mac_keys"
_NOTED: Final = "otahsm_noted"
_CHUNK: Final = 1000
_LEAVES: Final = select(leaves.c.kind, leaves.c.intent_id, leaves.c.hash).where(Among(leaves.c.intent_id))
_CONTEXT: Final = b"otahsm pending leaf 2\0"
_HASH_BYTES: Final = 32
_ID_BYTES: Final = 8


class MacKeys(NamedTuple):
    """The keys of the MACs on pending leaves, of 32 octets each.

    Attributes:
        used: makes and verifies MACs.
        accepted: only verifies them: the key before, or the next one; None for none.
        ledgers: what names the ledger; the first is in MACs that are made, any in those that are verified.
    """

    used: bytes
    accepted: bytes | None = None
    ledgers: tuple[bytes, ...] = ()

    def of_ledger(self, issuer_key_ids: Iterable[bytes]) -> MacKeys:
        """Return these keys for the ledger of some CAs, so that no row of another ledger is accepted.

        A ledger is named by its CA: who can only write the database can't change the configuration.

        Args:
            issuer_key_ids: the key identifiers of the CAs; that of [ca] comes first.
        """
        return self._replace(ledgers=tuple(issuer_key_ids))

    def mac(self, kind: int, intent_id: int, hashed: bytes) -> bytes:
        """Return the MAC of a pending leaf: HMAC-SHA-256 (RFC 2104), 32 octets."""
        return _mac(self.used, next(iter(self.ledgers), b""), kind, intent_id, hashed)

    def vouch(self, row: Row[Any]) -> bool:
        """Return whether a row of `pending_leaves` was written by a daemon."""
        kind, intent_id, hashed, mac = row.kind, row.intent_id, row.hash, row.mac
        # SQLite stores values of any type.
        if type(kind) is not int or type(intent_id) is not int:
            return False
        if type(hashed) is not bytes or type(mac) is not bytes or len(hashed) != _HASH_BYTES:
            return False
        try:
            return any(
                hmac.compare_digest(mac, _mac(key, ledger, kind, intent_id, hashed))
                for key in (self.used, self.accepted)
                if key is not None
                for ledger in self.ledgers or (b"",)
            )
        except OverflowError:
            return False


class Noted:
    """What this process queued, and has not seen in the tree yet.

    A row of the queue can be removed together with what it is of, before it is a leaf: the tables show
    nothing of that. For the thread of the writer.
    """

    def __init__(self) -> None:
        self._new: dict[Entry, bytes] = {}  # of the current transaction
        self._waiting: dict[Entry, bytes] = {}

    def begin(self) -> None:
        """Begin a transaction; forget what one queued that was not committed."""
        self._new.clear()

    def add(self, entry: Entry, hashed: bytes) -> None:
        """Note an entry, and the hash of its leaf, in a transaction."""
        self._new[entry] = hashed

    def commit(self) -> None:
        """Note that the transaction was committed."""
        self._waiting.update(self._new)
        self._new.clear()

    def __contains__(self, entry: Entry) -> bool:
        """Whether an entry was queued and not seen in the tree."""
        return entry in self._waiting

    def lost(self, connection: Connection) -> Entry | None:
        """Return an entry that was queued and is not in the tree; None if all are. Nothing may be pending."""
        ids = list({entry.intent_id for entry in self._waiting})
        for first in range(0, len(ids), _CHUNK):
            for row in connection.execute(_LEAVES, {"ids": ids[first : first + _CHUNK]}):
                self.logged(row)
        return next(iter(self._waiting), None)

    def logged(self, row: Row[*tuple[Any, ...]]) -> None:
        """Note that an entry is a leaf."""
        entry = Entry(row.kind, row.intent_id)
        if self._waiting.get(entry) == row.hash:
            del self._waiting[entry]


def with_keys(engine: Engine, keys: MacKeys, noted: Noted) -> Engine:
    """Return an engine whose connections can queue entries, and note which."""
    return engine.execution_options(**{_OPTION: keys, _NOTED: noted})


def noted_of(connection: Connection) -> Noted:
    """Return what was noted by connections `with_keys`."""
    noted: Noted = connection.get_execution_options()[_NOTED]
    return noted


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
    note_unproven(connection, kind, [each for each in ids if each not in found])


def note_unproven(connection: Connection, kind: Kind, intent_ids: Iterable[int]) -> None:
    """Queue entries that can't be leaves, in the transaction that writes them.

    The change itself must succeed. No MAC vouches for it, so it is named, and issuing stops.
    """
    if rows := [(int(kind), each, b"", b"") for each in intent_ids]:
        write_rows(connection, insert_into(pending_leaves, _PENDING, connection.dialect), _PENDING, rows)


def proven_among(connection: Connection, kind: Kind, intent_ids: Iterable[int]) -> set[int]:
    """Return those entries that are as they were queued: as their leaves, or as pending ones with a MAC."""
    if not (ids := list(intent_ids)):
        return set()
    try:
        found = KINDS[kind].read(connection, ids)
    except (TypeError, ValueError):  # one has values of other types
        return (
            set().union(*(proven_among(connection, kind, [each]) for each in ids)) if len(ids) > 1 else set()
        )
    keys, proven = keys_of(connection), set()
    for table in (pending_leaves, leaves):  # in that order: another replica may take them into the tree
        query = select(table).where(Among(table.c.intent_id), table.c.kind == int(kind))
        for row in connection.execute(query, {"ids": list(found)}):
            if row.hash == leaf_hash(found[row.intent_id]) and (table is leaves or keys.vouch(row)):
                proven.add(row.intent_id)
    return proven


def note_leaves(connection: Connection, kind: Kind, entries: Mapping[int, bytes]) -> None:
    """Queue the leaves of entries, by their ids, in the transaction that writes these."""
    keys, noted = keys_of(connection), noted_of(connection)
    rows = []
    for intent_id, leaf in entries.items():
        hashed = leaf_hash(leaf)
        noted.add(Entry(int(kind), intent_id), hashed)
        rows.append((int(kind), intent_id, hashed, keys.mac(kind, intent_id, hashed)))
    if rows:
        write_rows(connection, insert_into(pending_leaves, _PENDING, connection.dialect), _PENDING, rows)


@lru_cache(maxsize=8)
def insert_into(table: Table, names: tuple[str, ...], dialect: Dialect) -> Insert:
    """Return the INSERT of many rows, for `write_rows`."""
    return insert(table).from_select(names, select(columns_given(table, names, dialect)))


def _mac(key: bytes, ledger: bytes, kind: int, intent_id: int, hashed: bytes) -> bytes:
    context = _CONTEXT + len(ledger).to_bytes(_ID_BYTES, "big") + ledger
    facts = kind.to_bytes(_ID_BYTES, "big", signed=True) + intent_id.to_bytes(_ID_BYTES, "big", signed=True)
    return hmac.digest(key, context + facts + hashed, sha256)
