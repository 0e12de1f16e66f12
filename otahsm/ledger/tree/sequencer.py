"""The sequencer: appends entries to the tree as leaves.

A transaction that writes an entry only adds a row to `pending_leaves`, so that the tree costs issuance next
to nothing. The sequencer takes these rows in order of their ids, a bounded number at a time, and appends
them. Replicas take turns, by a separate lock. Rows of uncommitted transactions are not visible, and are
appended later: everything in the log is committed, and everything committed gets into the log. The order of
leaves is not the order of time, but a certificate is before those that supersede it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, select, update
from sqlalchemy import Row as TableRow

from otahsm.ledger.db.dialects import Among, try_to_sequence, write_rows
from otahsm.ledger.schema import leaves, nodes, pending_leaves, tree
from otahsm.ledger.tree.entry_kind import Entry
from otahsm.ledger.tree.log_entries import name_entry
from otahsm.ledger.tree.pending import insert_into, keys_of, noted_of
from otahsm.tlog import CompactTree, Row

CHUNK: Final = 256  # leaves per transaction
STORED_LEVELS: Final = 8  # only nodes whose level is a multiple of it are stored

_LEAF: Final = ("leaf_index", "kind", "intent_id", "hash")
_NODE: Final = ("level", "number", "hash")


class Step(NamedTuple):
    """The result of one transaction of the sequencer.

    Attributes:
        taken: the number of leaves that it appended.
        more: whether there may be more; also true if another replica has the lock.
        problem: why nothing can be appended until an operator acts; empty if there is no problem.
    """

    taken: int
    more: bool
    problem: str = ""


def has_pending_leaves(connection: Connection) -> bool:
    """Return whether there are pending leaves."""
    return connection.execute(select(pending_leaves.c.id).limit(1)).first() is not None


def read_tree(connection: Connection) -> CompactTree:
    """Read the tree's state.

    Raises:
        ValueError: it is corrupt.
    """
    rows = connection.execute(select(tree)).all()
    if len(rows) != 1:
        raise ValueError(f"the tree has {len(rows)} states")
    ((size, peaks),) = rows
    if not isinstance(size, int) or not isinstance(peaks, bytes):
        raise ValueError("the tree's state has values of wrong types")  # noqa: TRY004 - a value
    return CompactTree.of(size, peaks)


def sequence(connection: Connection) -> Step:
    """Append at most `CHUNK` pending leaves, in a transaction.

    It never raises because the tables were tampered with: the transaction may be shared with other writes,
    which must not fail.
    """
    if not try_to_sequence(connection):
        return Step(0, more=True)
    waiting = connection.execute(select(pending_leaves).order_by(pending_leaves.c.id).limit(CHUNK)).all()
    if not waiting:
        return Step(0, more=False)
    try:
        old = read_tree(connection)
    except ValueError as error:
        return Step(0, more=False, problem=f"the tables are corrupt: {error}")
    problem = _problem(connection, old, waiting)
    if problem:
        return Step(0, more=False, problem=problem)
    new, rows = old.extend(row.hash for row in waiting)
    _append(connection, old, new, waiting, rows)
    connection.execute(_TAKE, {"ids": [row.id for row in waiting]})
    noted = noted_of(connection)
    for row in waiting:
        noted.logged(row)
    return Step(len(waiting), more=len(waiting) == CHUNK)


def _problem(connection: Connection, old: CompactTree, waiting: Sequence[TableRow[Any]]) -> str:
    """Return how the tables were tampered with, so that nothing may be appended; "" if they were not."""
    keys = keys_of(connection)
    for row in waiting:
        if not keys.vouch(row):
            return f"no daemon with our MAC key has queued {name_entry(Entry(row.kind, row.intent_id))}"
    entries = {Entry(row.kind, row.intent_id) for row in waiting}
    if len(entries) < len(waiting):
        return "an entry is pending twice"
    logged = connection.execute(_LOGGED, {"ids": [row.intent_id for row in waiting]}).all()
    for index, kind, intent_id, _ in logged:
        if (entry := Entry(kind, intent_id)) in entries:
            return f"{name_entry(entry)} is pending, but is already leaf {index}"
    last = connection.execute(_LAST).scalar()
    leaf_count = 0 if last is None else last + 1
    if leaf_count != old.size:
        return f"the tree has {old.size} leaves according to its state, but {leaf_count} in the table"
    return ""


def _append(
    connection: Connection,
    old: CompactTree,
    new: CompactTree,
    waiting: Sequence[TableRow[Any]],
    rows: Sequence[Row],
) -> None:
    dialect = connection.dialect
    added = [(index, row.kind, row.intent_id, row.hash) for index, row in enumerate(waiting, old.size)]
    write_rows(connection, insert_into(leaves, _LEAF, dialect), _LEAF, added)
    for level, first, hashes in rows:
        if level and level % STORED_LEVELS == 0:
            connection.execute(_FORGET, {"at": level, "first": first})
            kept = [(level, number, hashed) for number, hashed in enumerate(hashes, first)]
            write_rows(connection, insert_into(nodes, _NODE, dialect), _NODE, kept)
    connection.execute(_GROW, {"size": new.size, "peaks": b"".join(new.peaks)})


_TAKE: Final = delete(pending_leaves).where(Among(pending_leaves.c.id))
_LOGGED: Final = select(leaves).where(Among(leaves.c.intent_id))
_LAST: Final = select(func.max(leaves.c.leaf_index))
# There should be none, unless the table was tampered with.
_FORGET: Final = delete(nodes).where(nodes.c.level == bindparam("at"), nodes.c.number >= bindparam("first"))
_GROW: Final = update(tree).values(size=bindparam("size"), peaks=bindparam("peaks"))
