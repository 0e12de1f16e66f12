"""Reads the tree's state, its leaves, and the hashes of proofs from the tables.

If the tables were tampered with, functions return that as a result instead of raising.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, select

from otahsm.ledger.schema import checkpoints, intents, leaves, nodes
from otahsm.ledger.tree.entry_kind import Entry
from otahsm.ledger.tree.log_entries import CERTIFICATE_KINDS, read_leaves
from otahsm.ledger.tree.sequencer import STORED_LEVELS, read_tree
from otahsm.pki.serial import SerialNumber
from otahsm.tlog import CompactTree, Fetch, root_of


class Head(NamedTuple):
    """The tree, and its latest checkpoint.

    Attributes:
        tree: the state of the tree.
        size: the tree size of the checkpoint; None if there is none.
        note: the checkpoint; empty if there is none.
        made_at: when it was made, in microseconds since the Unix epoch.
    """

    tree: CompactTree
    size: int | None = None
    note: bytes = b""
    made_at: int = 0


class LoggedLeaf(NamedTuple):
    """A leaf: its index in the tree, and its content."""

    leaf_index: int
    content: bytes


def read_head(connection: Connection) -> Head | None:
    """Return the tree and its latest checkpoint; None if its state is corrupt."""
    row = connection.execute(_LATEST).first()
    try:
        tree = read_tree(connection)
    except ValueError:
        return None
    return Head(tree, *row) if row else Head(tree)


def find_leaf(connection: Connection, serial: SerialNumber) -> LoggedLeaf | None:
    """Return the leaf of a certificate; None if there is none yet, or its row is corrupt."""
    row = connection.execute(_BY_SERIAL, {"serial": serial.key}).first()
    if row is None:
        return None
    try:
        (content,) = read_leaves(connection, [Entry(row.kind, row.intent_id)])
    except (TypeError, ValueError):
        return None
    return None if content is None else LoggedLeaf(row.leaf_index, content)


def prove(
    make: Callable[[int, int, Fetch], list[bytes]], first: int, size: int, connection: Connection
) -> list[bytes] | None:
    """Make a proof from the hashes in the tables; None if some are missing or corrupt.

    Args:
        make: `inclusion_proof` or `consistency_proof`.
        first: the index of a leaf, or the size of the older tree.
        size: the size of the tree.
        connection: any connection.
    """
    try:
        return make(first, size, _fetcher(connection))
    except (KeyError, TypeError, ValueError):
        return None


def _fetcher(connection: Connection) -> Fetch:
    """Return the function that reads a node; it raises KeyError if the node is missing.

    A node at a level that is not stored is computed from the nodes or leaves below it, at most 128.
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
    select(leaves.c.leaf_index, leaves.c.kind, leaves.c.intent_id)
    .join(intents, intents.c.id == leaves.c.intent_id)
    .where(intents.c.serial == bindparam("serial"), leaves.c.kind.in_(CERTIFICATE_KINDS))
)
