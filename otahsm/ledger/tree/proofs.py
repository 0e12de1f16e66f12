"""What the tables know of the tree: its state, its leaves, and the hashes that prove something.

It only reads, and takes whatever somebody may have done to the tables for an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, select

from otahsm.ledger.schema import checkpoints, intents, leaves, nodes
from otahsm.ledger.tree.log_entries import Entry, Kind, read_leaves
from otahsm.ledger.tree.sequencer import STORED_LEVELS, read_tree
from otahsm.pki import SerialNumber
from otahsm.tlog import CompactTree, Fetch, root_of


class Head(NamedTuple):
    """The tree as it is, and the last checkpoint that was made of it.

    Attributes:
        tree: its state.
        size: the checkpoint's; None if none was ever made.
        note: the checkpoint; empty if none was ever made.
        made_at: microseconds since the Unix epoch.
    """

    tree: CompactTree
    size: int | None = None
    note: bytes = b""
    made_at: int = 0


class LoggedLeaf(NamedTuple):
    """A leaf: where it is in the tree, and what it holds."""

    leaf_index: int
    content: bytes


def read_head(connection: Connection) -> Head | None:
    """Return the tree and its last checkpoint; None if its state is spoilt."""
    row = connection.execute(_LATEST).first()
    try:
        tree = read_tree(connection)
    except ValueError:
        return None
    return Head(tree, *row) if row else Head(tree)


def find_leaf(connection: Connection, serial: SerialNumber) -> LoggedLeaf | None:
    """Return the leaf of a certificate; None if there is none yet, or its row is spoilt."""
    row = connection.execute(_BY_SERIAL, {"serial": serial.key}).first()
    if row is None:
        return None
    try:
        (content,) = read_leaves(connection, [Entry(Kind.CERTIFICATE, row.intent_id)])
    except (TypeError, ValueError):
        return None
    return None if content is None else LoggedLeaf(row.leaf_index, content)


def prove(
    make: Callable[[int, int, Fetch], list[bytes]], first: int, size: int, connection: Connection
) -> list[bytes] | None:
    """Make a proof of the hashes in the tables; None if some are missing, or spoilt.

    Args:
        make: `inclusion_proof` or `consistency_proof`.
        first: a leaf's index, or the size of the older tree.
        size: the tree's.
        connection: any.
    """
    try:
        return make(first, size, _fetcher(connection))
    except (KeyError, TypeError, ValueError):
        return None


def _fetcher(connection: Connection) -> Fetch:
    """Return what reads nodes; it raises KeyError for one that the tables don't have.

    A node at a level that is not kept is computed from the nodes or leaves below it: at most 128 of them.
    """

    def fetch(level: int, number: int) -> bytes:
        stored = level - level % STORED_LEVELS
        first, end = number << (level - stored), (number + 1) << (level - stored)
        bounds = {"level": stored, "first": first, "end": end}
        hashes = connection.execute(_NODES if stored else _LEAVES, bounds).scalars().all()
        if len(hashes) != end - first:
            raise KeyError((level, number))
        return root_of(hashes)

    return fetch


_LATEST: Final = select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
_LEAVES: Final = (
    select(leaves.c.hash)
    .where(leaves.c.leaf_index >= bindparam("first"), leaves.c.leaf_index < bindparam("end"))
    .order_by(leaves.c.leaf_index)
)
_NODES: Final = (
    select(nodes.c.hash)
    .where(
        nodes.c.level == bindparam("level"),
        nodes.c.number >= bindparam("first"),
        nodes.c.number < bindparam("end"),
    )
    .order_by(nodes.c.number)
)
_BY_SERIAL: Final = (
    select(leaves.c.leaf_index, leaves.c.intent_id)
    .join(intents, intents.c.id == leaves.c.intent_id)
    .where(intents.c.serial == bindparam("serial"), leaves.c.kind == Kind.CERTIFICATE)
)
