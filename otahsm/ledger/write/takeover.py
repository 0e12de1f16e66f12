"""Brings a ledger to the current schema, and queues what only an operator can vouch for.

That is what waits to become a leaf and has no valid MAC, and what an older schema did not cover with leaves:
anybody could have written it. So an operator looks at it, and accepts exactly that, by its digest. Who gives
a ledger an older schema, to have forged rows taken over, meets the same question.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Row, Select, bindparam, delete, func, select, text, update

from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError, LedgerTamperedError
from otahsm.ledger import migrations
from otahsm.ledger.db.database import database_of
from otahsm.ledger.db.failures import reading
from otahsm.ledger.read.snapshot import open_reader, require_file
from otahsm.ledger.records import Vouched
from otahsm.ledger.schema import denied_clients, intents, pending_leaves
from otahsm.ledger.shape.check import refuse_hooks
from otahsm.ledger.tree.derived import denial_events
from otahsm.ledger.tree.entry_kind import Entry
from otahsm.ledger.tree.log_entries import KINDS, KINDS_ADDED, Kind, last_kind_of, name_entry, read_leaves
from otahsm.ledger.tree.pending import MacKeys, Noted, keys_of, note_leaves, with_keys
from otahsm.ledger.write import events
from otahsm.templates import counted

_WITH_TREE: Final = "0007"
_WITH_MACS: Final = "0011"
_WITH_RENEWALS: Final = "0014"
_BEFORE: Final = "unlogged_before"  # what waited, and has no MAC
_CHUNK: Final = 1000
_DIGITS: Final = 16  # of a digest that only who has the key can compute
_NEWER: Final = text("SELECT min(leaf_index) FROM leaves WHERE kind > :last")
_FAILED_RENEWALS: Final = (
    "SELECT id FROM intents WHERE superseded_by IN (SELECT id FROM intents WHERE void_reason IS NOT NULL)"
)

_Item = TypeVar("_Item")


class Unproven(NamedTuple):
    """What only an operator can vouch for.

    Attributes:
        total: the number of entries.
        digest: names exactly these, for `Vouched`.
    """

    total: int
    digest: str


class _Found:
    """Adds up what only an operator can vouch for."""

    def __init__(self, keys: MacKeys, show: Callable[[str], None] | None = None) -> None:
        self._total = 0
        self._show = show
        self._digest = hmac.new(keys.used, b"otahsm vouch 1\0", sha256)
        self.missing: Entry | None = None

    def add(self, entry: Entry, leaf: bytes | None) -> None:
        """Add an entry and its leaf; None if it does not exist."""
        if leaf is None:
            self.missing = self.missing or entry
        name = f"{entry.kind} {entry.intent_id} ".encode()
        self._digest.update(name + sha256(leaf or b"").digest())
        self._total += 1
        if self._show is not None:
            what = ", which does not exist" if leaf is None else f": {KINDS[Kind(entry.kind)].summary(leaf)}"
            self._show(name_entry(entry) + what)

    @property
    def result(self) -> Unproven:
        digest = f"{self._total}:{self._digest.hexdigest()[:_DIGITS]}"
        return Unproven(self._total, digest)


def migrate(connection: Connection, vouched: Vouched | None = None) -> None:
    """Bring a ledger to the current schema, in the connection's transaction.

    Args:
        connection: with the MAC keys.
        vouched: what an operator has accepted; None if nobody was asked.

    Raises:
        ConfigError: there is something else than was accepted, or something at all and nobody was asked.
        LedgerTamperedError: rows are of no kind or of several, or an entry does not exist.
        UnknownVersionError: it has a newer schema.
    """
    before = migrations.version_of(connection)
    if vouched is None and migrations.is_usable(connection, before):
        return
    found = _Found(keys_of(connection))
    _take_over(connection, before, found)
    total, digest = found.result
    if vouched is None and not total:
        return
    if vouched is None or vouched.digest != digest:
        raise ConfigError(
            f"nothing shows that a daemon wrote {counted(total, 'entry', 'entries')} of the ledger"
            + (f", which has the schema {before}" if before != migrations.NEWEST else "")
            + ("; you accepted others" if vouched else ""),
            hint="Start and stop the previous version: a daemon that stops takes what waits into the tree."
            " Then look at the rest with `otahsm ledger vouch`, and accept it.",
        )
    if found.missing is not None:
        raise LedgerTamperedError(f"{name_entry(found.missing)} waits to become a leaf, and does not exist")
    events.write(connection, [vouched.event])


def unproven_entries(config: LedgerConfig, keys: MacKeys, show: Callable[[str], None]) -> Unproven:
    """Look for what only an operator can vouch for, without changing anything.

    A ledger with an older schema is taken over for that, in a transaction that is rolled back.

    Args:
        config: the ledger.
        keys: its MAC keys.
        show: called with what each entry says: whoever accepts them has to see each.

    Raises:
        ConfigError: the configuration is invalid, there is no such ledger, a daemon uses one with an older
            schema, or it has a newer one.
        LedgerTamperedError: rows are of no kind or of several, or the schema was set back.
        LedgerUnavailableError: it can't be read.
    """
    require_file(config)
    name, found = str(config.path or config.url), _Found(keys, show)
    engine = open_reader(config)
    try:
        with reading(name), engine.connect() as connection:
            version = migrations.version_of(connection)
            if version == migrations.NEWEST:
                for part in _chunks(_without_mac(connection, keys)):
                    _read(connection, [Entry(row.kind, row.intent_id) for row in part], found)
                return found.result
    finally:
        engine.dispose()
    if version is None or not migrations.knows_version(version):
        raise ConfigError(
            f"{name} is not a ledger, or that of a newer otahsm", hint="Check [ledger], or use that version."
        )
    _try_to_take_over(config, found, keys)
    return found.result


def _try_to_take_over(config: LedgerConfig, found: _Found, keys: MacKeys) -> None:
    database = database_of(config)
    try:
        database.hold()
        with reading(database.name), with_keys(database.engine, keys, Noted()).connect() as connection:
            transaction = connection.begin()
            refuse_hooks(connection, database.name)
            _take_over(connection, migrations.version_of(connection), found)
            transaction.rollback()
    finally:
        database.close()


def _take_over(connection: Connection, before: str | None, found: _Found) -> None:
    """Bring a ledger to the current schema, and queue what only an operator can vouch for."""
    failed = _check_older(connection, before) if before not in (None, migrations.NEWEST) else []
    migrations.migrate(connection)
    if before is None:
        connection.execute(text(f"DROP TABLE {_BEFORE}"))
        return
    if before < _WITH_MACS:
        rows = connection.execute(
            text(f"SELECT kind, intent_id FROM {_BEFORE} ORDER BY id").execution_options(yield_per=_CHUNK)  # noqa: S608
        )
        for part in _chunks(Entry(*row) for row in rows):
            _queue(connection, part, found)
        connection.execute(text(f"DROP TABLE {_BEFORE}"))
        _time_denials(connection)
    else:
        for pending in _chunks(_without_mac(connection, keys_of(connection))):
            connection.execute(delete(pending_leaves).where(pending_leaves.c.id.in_([r.id for r in pending])))
            _queue(connection, [Entry(row.kind, row.intent_id) for row in pending], found)
    for since, kinds in KINDS_ADDED.items():
        for kind in kinds if before < since else ():
            _queue_all(connection, kind, KINDS[kind].ids, found)
    if failed:
        ids = select(intents.c.id).where(intents.c.id.in_(failed)).order_by(intents.c.id)
        _queue_all(connection, Kind.SUPERSEDED, ids, found)


def _check_older(connection: Connection, before: str) -> list[int]:
    """Check rows of an older schema; return those that were superseded by intents that then failed."""
    if before >= _WITH_TREE:
        _check_leaves(connection, before)
    if before < _WITH_MACS:
        _check_rows(connection, before)
    elif before < _WITH_RENEWALS:
        return list(connection.execute(text(_FAILED_RENEWALS)).scalars())
    return []


def _check_leaves(connection: Connection, version: str) -> None:
    """Check that nobody gave a newer ledger an older schema, to have more taken over."""
    index = connection.execute(_NEWER, {"last": last_kind_of(version)}).scalar()
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


def _without_mac(connection: Connection, keys: MacKeys) -> Iterator[Row[Any]]:
    """Yield the pending leaves that no MAC vouches for, in order; rows may be removed and added meanwhile."""
    last = connection.execute(_LAST).scalar() or 0
    first = -1 << 62
    while rows := connection.execute(_PENDING, {"first": first, "last": last}).all():
        first = rows[-1].id + 1
        yield from (row for row in rows if not keys.vouch(row))


def _queue_all(connection: Connection, kind: Kind, ids: Select[int], found: _Found) -> None:
    rows = connection.execute(ids.execution_options(yield_per=_CHUNK)).scalars()
    for part in _chunks(rows):
        _queue(connection, [Entry(kind, intent_id) for intent_id in part], found)


def _queue(connection: Connection, entries: Sequence[Entry], found: _Found) -> None:
    for (kind, intent_id), leaf in zip(entries, _read(connection, entries, found), strict=True):
        if leaf is not None:
            note_leaves(connection, Kind(kind), {intent_id: leaf})


def _read(connection: Connection, entries: Sequence[Entry], found: _Found) -> list[bytes | None]:
    """Return the leaves of entries, and add them to what was found."""
    try:
        leaves = read_leaves(connection, entries)
    except (TypeError, ValueError):  # one has values of other types
        if len(entries) > 1:
            return [leaf for entry in entries for leaf in _read(connection, [entry], found)]
        leaves = [None]
    for entry, leaf in zip(entries, leaves, strict=True):
        found.add(entry, leaf)
    return leaves


def _time_denials(connection: Connection) -> None:
    """Give denials the time of their audit event, which `verify` compares."""
    for subject, event in denial_events(connection).items():
        mine = update(denied_clients).where(denied_clients.c.subject == subject)
        connection.execute(mine.values(denied_at=event.happened_at))


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while part := list(islice(iterator, _CHUNK)):
        yield part


_LAST: Final = select(func.max(pending_leaves.c.id))
_PENDING: Final = (
    select(pending_leaves)
    .where(pending_leaves.c.id >= bindparam("first"), pending_leaves.c.id <= bindparam("last"))
    .order_by(pending_leaves.c.id)
    .limit(_CHUNK)
)
