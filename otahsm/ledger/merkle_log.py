"""The ledger's tree as the daemon uses it: it grows, is signed at some sizes, and gives proofs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, select

from otahsm.ledger.db.dialects import insert_into
from otahsm.ledger.read.read_connection import ReadConnection
from otahsm.ledger.schema import checkpoints, intents, leaves, nodes
from otahsm.ledger.tree.log_entries import Entry, Kind, read_leaves
from otahsm.ledger.tree.sequencer import STORED_LEVELS, Step, has_pending_leaves, read_tree, sequence
from otahsm.ledger.write.writer import Writer
from otahsm.pki import SerialNumber
from otahsm.tlog import (
    CompactTree,
    Fetch,
    consistency_proof,
    inclusion_proof,
    root_of,
)


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


class MerkleLog:
    """The tree of an open ledger. It grows in the writer's transactions; proofs are read beside the writer.

    A proof needs no more than what is there: leaves and nodes are only added, so at any moment that has a
    size, what proves it is the same. Whatever somebody may have done to the tables is an answer here, and no
    exception: growing may share a transaction with the cycle's writes.

    Args:
        writer: of the ledger.
        reader: of the same ledger.
    """

    def __init__(self, writer: Writer, reader: ReadConnection) -> None:
        self._writer = writer
        self._reader = reader

    async def grow(self) -> Step:
        """Make leaves of some of what waits for it. Raises LedgerUnavailableError."""
        return await self._writer.transaction(_grow)

    async def head(self) -> Head | None:
        """Return the tree and its last checkpoint; None if its state is spoilt.

        Raises:
            LedgerUnavailableError: the ledger can't be read.
        """
        return await self._reader.ask(_head)

    async def keep(self, size: int, note: bytes, now: int) -> bytes:
        """Keep a checkpoint; return it, or the one that another replica made of the same tree before.

        Args:
            size: the tree's.
            note: signed.
            now: microseconds since the Unix epoch.

        Raises:
            LedgerUnavailableError: the ledger can't be written.
        """
        return await self._writer.transaction(lambda connection: _keep(connection, size, note, now))

    async def find(self, serial: SerialNumber) -> LoggedLeaf | None:
        """Find the leaf of a certificate, by its serial number; None if there is none yet.

        Raises:
            LedgerUnavailableError: the ledger can't be read.
        """
        return await self._reader.ask(lambda connection: _find(connection, serial))

    async def prove_inclusion(self, index: int, size: int) -> list[bytes] | None:
        """Prove that the tree of a size holds a leaf (RFC 9162, section 2.1.3.1); None if nodes are missing.

        Raises:
            LedgerUnavailableError: the ledger can't be read.
        """
        return await self._reader.ask(lambda connection: _prove(inclusion_proof, index, size, connection))

    async def prove_consistency(self, old_size: int, size: int) -> list[bytes] | None:
        """Prove that the tree grew from one size to another (section 2.1.4.1); None if nodes are missing.

        Raises:
            LedgerUnavailableError: the ledger can't be read.
        """
        return await self._reader.ask(
            lambda connection: _prove(consistency_proof, old_size, size, connection)
        )


def fetcher(connection: Connection) -> Fetch:
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


def _grow(connection: Connection) -> Step:
    return sequence(connection) if has_pending_leaves(connection) else Step(0, more=False)


def _head(connection: Connection) -> Head | None:
    row = connection.execute(_LATEST).first()
    try:
        tree = read_tree(connection)
    except ValueError:
        return None
    return Head(tree, *row) if row else Head(tree)


def _keep(connection: Connection, size: int, note: bytes, now: int) -> bytes:
    mine = insert_into(checkpoints, connection.dialect).values(size=size, note=note, made_at=now)
    connection.execute(mine.on_conflict_do_nothing())
    kept: bytes = connection.execute(_NOTE, {"at": size}).scalar_one()
    return kept


def _find(connection: Connection, serial: SerialNumber) -> LoggedLeaf | None:
    row = connection.execute(_BY_SERIAL, {"serial": serial.key}).first()
    if row is None:
        return None
    try:
        (content,) = read_leaves(connection, [Entry(Kind.CERTIFICATE, row.intent_id)])
    except (TypeError, ValueError):
        return None
    return None if content is None else LoggedLeaf(row.leaf_index, content)


def _prove(
    make: Callable[[int, int, Fetch], list[bytes]], first: int, size: int, connection: Connection
) -> list[bytes] | None:
    try:
        return make(first, size, fetcher(connection))
    except (KeyError, TypeError, ValueError):
        return None


_LATEST: Final = select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
_NOTE: Final = select(checkpoints.c.note).where(checkpoints.c.size == bindparam("at"))
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
