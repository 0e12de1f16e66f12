"""Brings a ledger to the current schema, and queues what an older one did not cover with leaves.

What waits in an older ledger has no MAC: anybody could have queued it. An operator says whether it is
genuine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from sqlalchemy import Connection, text, update

from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError, LedgerTamperedError
from otahsm.ledger import migrations
from otahsm.ledger.db.failures import reading
from otahsm.ledger.db.read_only import read_only_engine
from otahsm.ledger.read.snapshot import require_file
from otahsm.ledger.schema import denied_clients
from otahsm.ledger.tree.derived import denial_events
from otahsm.ledger.tree.entry_kind import Entry
from otahsm.ledger.tree.log_entries import ADDED_KINDS, KINDS, Kind, name_entry, read_leaves
from otahsm.ledger.tree.pending import note_entries, note_leaves
from otahsm.templates import counted

_WITH_TREE: Final = "0007"
_WITH_MACS: Final = "0011"
_BEFORE: Final = "unlogged_before"  # what waited, and has no MAC
_OLD_KINDS: Final = int(Kind.EVENT)  # and those before
_CHUNK: Final = 1000
_SHOWN: Final = 100
_NEWER: Final = text("SELECT min(leaf_index) FROM leaves WHERE kind > :last")
_FIRST: Final = text("SELECT kind, intent_id FROM unlogged ORDER BY id LIMIT :most")
_EVENT: Final = text("SELECT name, client, happened_at, details FROM events WHERE id = :id")
_INTENT: Final = text("SELECT device_id, client, intended_at, serial FROM intents WHERE id = :id")

_Item = TypeVar("_Item")


def migrate(connection: Connection, *, accept: int | None = None) -> None:
    """Bring a ledger to the current schema, in the connection's transaction.

    Args:
        connection: with the MAC keys.
        accept: how many pending leaves without a MAC an operator has accepted; None if nobody was asked.

    Raises:
        ConfigError: leaves without a MAC are pending, and not as many as were accepted.
        LedgerTamperedError: rows are of no kind or of several, or an entry does not exist.
        UnknownVersionError: it has a newer schema.
    """
    before = migrations.version_of(connection)
    if before is not None and before >= _WITH_MACS:  # whatever else there is: it was taken over once
        migrations.migrate(connection)
        return
    if before is not None:
        _check_leaves(connection, before)
        _check_rows(connection, before)
        _check_waiting(connection, before, accept)
    migrations.migrate(connection)
    _queue_what_waited(connection)
    for kind in ADDED_KINDS:
        ids = connection.execute(KINDS[kind].ids.execution_options(yield_per=_CHUNK)).scalars()
        for part in _chunks(ids):
            note_entries(connection, kind, part)
    connection.execute(text(f"DROP TABLE {_BEFORE}"))
    _time_denials(connection)


class Unproven(NamedTuple):
    """Pending leaves without a MAC: how many, and a description of the first."""

    total: int
    first: list[str]


def unproven_entries(config: LedgerConfig) -> Unproven:
    """Look for pending leaves without a MAC, in a ledger with an older schema, without changing it.

    Raises:
        ConfigError: the configuration is invalid, or there is no such ledger.
        LedgerUnavailableError: it can't be read.
    """
    require_file(config)
    engine = read_only_engine(config)
    try:
        with reading(str(config.path or config.url)), engine.begin() as connection:
            count = _count_waiting(connection)
            rows = connection.execute(_FIRST, {"most": _SHOWN}).all() if count else []
            return Unproven(count, [_describe(connection, row.kind, row.intent_id) for row in rows])
    finally:
        engine.dispose()


def _count_waiting(connection: Connection) -> int:
    version = migrations.version_of(connection)
    if version is None or not _WITH_TREE <= version < _WITH_MACS:
        return 0
    count: int = connection.execute(text("SELECT count(*) FROM unlogged")).scalar_one()
    return count


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
    newer = connection.execute(
        text("SELECT min(leaf_index) FROM leaves WHERE kind > :last"), {"last": _OLD_KINDS}
    )
    if (index := newer.scalar()) is not None:
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


def _check_waiting(connection: Connection, version: str, accept: int | None) -> None:
    count = _count_waiting(connection)
    if count != (accept or 0):
        raise ConfigError(
            f"{counted(count, 'entry waits', 'entries wait')} to become leaves of the tree, and in the schema"
            f" {version} nothing shows that a daemon wrote them"
            + (f"; you accepted {accept}" if accept is not None else ""),
            hint="Start and stop the previous version: a daemon that stops takes them into the tree. Or look"
            " at them with `otahsm ledger migrate`, and accept them.",
        )


def _queue_what_waited(connection: Connection) -> None:
    rows = connection.execute(
        text(f"SELECT kind, intent_id FROM {_BEFORE} ORDER BY id").execution_options(yield_per=_CHUNK)  # noqa: S608
    )
    for part in _chunks(Entry(*row) for row in rows):
        for entry, leaf in zip(part, read_leaves(connection, part), strict=True):
            if leaf is None:
                raise LedgerTamperedError(f"the entry {entry.intent_id} of kind {entry.kind} does not exist")
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
