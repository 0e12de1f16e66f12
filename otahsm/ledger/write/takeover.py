"""Brings a ledger to the current schema, and queues what an older one did not cover with leaves.

What waits in an older ledger has no MAC: anybody could have queued it. An operator says whether it is
genuine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Row, delete, text, update

from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError, LedgerTamperedError
from otahsm.ledger import migrations
from otahsm.ledger.db.failures import reading
from otahsm.ledger.db.read_only import read_only_engine
from otahsm.ledger.read.snapshot import require_file
from otahsm.ledger.records import Vouched
from otahsm.ledger.schema import denied_clients, pending_leaves
from otahsm.ledger.tree.derived import denial_events
from otahsm.ledger.tree.entry_kind import Entry
from otahsm.ledger.tree.log_entries import ADDED_KINDS, KINDS, Kind, name_entry, read_leaves
from otahsm.ledger.tree.pending import MacKeys, keys_of, note_entries, note_leaves
from otahsm.ledger.write import events
from otahsm.templates import counted

_WITH_TREE: Final = "0007"
_WITH_MACS: Final = "0011"
_BEFORE: Final = "unlogged_before"  # what waited, and has no MAC
_OLD_KINDS: Final = int(Kind.EVENT)  # and those before
_CHUNK: Final = 1000
_SHOWN: Final = 100
_NEWER: Final = text("SELECT min(leaf_index) FROM leaves WHERE kind > :last")
_EVENT: Final = text("SELECT name, client, happened_at, details FROM events WHERE id = :id")
_INTENT: Final = text("SELECT device_id, client, intended_at, serial FROM intents WHERE id = :id")

_Item = TypeVar("_Item")


def migrate(connection: Connection, vouched: Vouched | None = None) -> None:
    """Bring a ledger to the current schema, in the connection's transaction.

    Args:
        connection: with the MAC keys.
        vouched: what an operator has accepted of pending leaves without a MAC; None if nobody was asked.

    Raises:
        ConfigError: there are others than were accepted, or an older schema has some and nobody was asked.
        LedgerTamperedError: rows are of no kind or of several, or an entry does not exist.
        UnknownVersionError: it has a newer schema.
    """
    before = migrations.version_of(connection)
    if before is not None and before >= _WITH_MACS:  # whatever else there is: it was taken over once
        migrations.migrate(connection)
        if vouched is not None:
            _queue_again(connection, vouched)
        return
    if before is not None:
        _check_leaves(connection, before)
        _check_rows(connection, before)
        _check_waiting(connection, before, vouched)
    migrations.migrate(connection)
    _queue_what_waited(connection)
    for kind in ADDED_KINDS:
        ids = connection.execute(KINDS[kind].ids.execution_options(yield_per=_CHUNK)).scalars()
        for part in _chunks(ids):
            note_entries(connection, kind, part)
    connection.execute(text(f"DROP TABLE {_BEFORE}"))
    _time_denials(connection)
    if vouched is not None:
        events.write(connection, [vouched.event])


class Unproven(NamedTuple):
    """Pending leaves without a MAC: how many, and a description of the first."""

    total: int
    first: list[str]


def unproven_entries(config: LedgerConfig, keys: MacKeys) -> Unproven:
    """Look for pending leaves that no MAC vouches for, without changing anything.

    Raises:
        ConfigError: the configuration is invalid, or there is no such ledger.
        LedgerUnavailableError: it can't be read.
    """
    require_file(config)
    engine = read_only_engine(config)
    try:
        with reading(str(config.path or config.url)), engine.begin() as connection:
            rows = _unproven(connection, migrations.version_of(connection), keys)
            first = [_describe(connection, row.kind, row.intent_id) for row in rows[:_SHOWN]]
            return Unproven(len(rows), first)
    finally:
        engine.dispose()


def _unproven(connection: Connection, version: str | None, keys: MacKeys) -> list[Row[Any]]:
    """Return the pending leaves that no MAC vouches for, in order."""
    if version is None or version < _WITH_TREE:
        return []
    rows = connection.execute(text("SELECT * FROM unlogged ORDER BY id"))
    return [row for row in rows if version < _WITH_MACS or not keys.vouch(row)]


def _queue_again(connection: Connection, vouched: Vouched) -> None:
    """Queue what an operator has accepted with a MAC."""
    rows = _unproven(connection, _WITH_MACS, keys_of(connection))
    if len(rows) != vouched.entries:
        raise ConfigError(
            f"no MAC vouches for {counted(len(rows), 'entry', 'entries')}; you accepted {vouched.entries}",
            hint="Look at them with `otahsm ledger vouch`.",
        )
    for row in rows:
        _queue(connection, [Entry(row.kind, row.intent_id)])
        connection.execute(delete(pending_leaves).where(pending_leaves.c.id == row.id))
    events.write(connection, [vouched.event])


def _describe(connection: Connection, kind: int, entry_id: int) -> str:
    """Describe an entry by columns that all schemas have."""
    name = name_entry(Entry(kind, entry_id))
    query = _EVENT if kind == Kind.EVENT else _INTENT
    row = connection.execute(query, {"id": entry_id}).first()
    if row is None:
        return f"{name}, which does not exist"
    values = (value.hex() if isinstance(value, bytes) else value for value in row)
    facts = (f"{label} {value}" for label, value in zip(row._fields, values, strict=True))
    return f"{name}: {', '.join(facts)}"


def _check_leaves(connection: Connection, version: str) -> None:
    """Check that nobody gave a newer ledger an older schema, to have more taken over."""
    if version < _WITH_TREE:
        return
    index = connection.execute(_NEWER, {"last": _OLD_KINDS}).scalar()
    if index is not None:
        raise LedgerTamperedError(f"the schema is {version}, and leaf {index} is of a newer one")


def _check_rows(connection: Connection, version: str) -> None:
    """Check what the new schema's constraints will check, to name the row."""
    one_kind = "(void_reason IS NULL) = (voided_at IS NULL)"
    if version >= "0006":
        one_kind += (
            " AND (superseded_by IS NULL OR superseded_at IS NOT NULL)"
            " AND (void_reason IS NULL OR superseded_at IS NULL)"
        )
    wrong = connection.execute(text(f"SELECT min(id) FROM intents WHERE NOT ({one_kind})")).scalar()  # noqa: S608 - a constant
    if wrong is not None:
        raise LedgerTamperedError(
            f"intent {wrong} is of no kind: void without a reason or a time, or void and superseded"
        )


def _check_waiting(connection: Connection, version: str, vouched: Vouched | None) -> None:
    count = len(_unproven(connection, version, keys_of(connection)))
    accepted = vouched.entries if vouched else 0
    if count != accepted:
        raise ConfigError(
            f"{counted(count, 'entry waits', 'entries wait')} to become leaves of the tree, and in the schema"
            f" {version} nothing shows that a daemon wrote them"
            + (f"; you accepted {accepted}" if vouched else ""),
            hint="Start and stop the previous version: a daemon that stops takes them into the tree. Or look"
            " at them with `otahsm ledger vouch`, and accept them.",
        )


def _queue_what_waited(connection: Connection) -> None:
    rows = connection.execute(
        text(f"SELECT kind, intent_id FROM {_BEFORE} ORDER BY id").execution_options(yield_per=_CHUNK)  # noqa: S608
    )
    for part in _chunks(Entry(*row) for row in rows):
        _queue(connection, part)


def _queue(connection: Connection, entries: Sequence[Entry]) -> None:
    try:
        found = read_leaves(connection, entries)
    except (TypeError, ValueError):
        found = [None] * len(entries)
    for entry, leaf in zip(entries, found, strict=True):
        if leaf is None:
            raise LedgerTamperedError(f"{name_entry(entry)} waits to become a leaf, and does not exist")
        note_leaves(connection, Kind(entry.kind), {entry.intent_id: leaf})


def _time_denials(connection: Connection) -> None:
    """Give denials the time of their audit event, which `verify` compares."""
    for subject, event in denial_events(connection).items():
        mine = update(denied_clients).where(denied_clients.c.subject == subject)
        connection.execute(mine.values(denied_at=event.happened_at))


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while part := list(islice(iterator, _CHUNK)):
        yield part
