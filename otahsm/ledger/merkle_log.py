"""The ledger's tree as the daemon uses it: appending leaves, storing checkpoints, and making proofs."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, select

from otahsm.ledger.db.dialects import insert_into
from otahsm.ledger.read.read_connection import ReadConnection
from otahsm.ledger.schema import checkpoints
from otahsm.ledger.tree import proofs
from otahsm.ledger.tree.log_entries import name_entry
from otahsm.ledger.tree.pending import noted_of
from otahsm.ledger.tree.proofs import Head, LoggedLeaf
from otahsm.ledger.tree.sequencer import Step, has_pending_leaves, sequence
from otahsm.ledger.write.writer import Writer
from otahsm.pki.serial import SerialNumber
from otahsm.tlog import consistency_proof, inclusion_proof


class MerkleLog:
    """The tree of an open ledger. It grows in the writer's transactions; proofs use a separate connection.

    Leaves and nodes are only added, so the proof for a tree size never changes. If the tables were tampered
    with, methods return that as a result instead of raising: growing may share a transaction with the cycle's
    writes.

    Args:
        writer: of the ledger.
        reader: of the same ledger.
    """

    def __init__(self, writer: Writer, reader: ReadConnection) -> None:
        self._writer = writer
        self._reader = reader

    async def grow(self) -> Step:
        """Append some of the pending leaves. Raises LedgerUnavailableError."""
        return await self._writer.transaction(_grow)

    async def head(self) -> Head | None:
        """Return the tree and its latest checkpoint; None if its state is corrupt.

        Raises:
            LedgerUnavailableError: the ledger can't be read.
        """
        return await self._reader.ask(proofs.read_head)

    async def keep(self, size: int, note: bytes, now: int) -> bytes:
        """Store a checkpoint; return it, or the one that another replica made of the same tree before.

        Args:
            size: the size of the tree.
            note: the signed note.
            now: microseconds since the Unix epoch.

        Raises:
            LedgerUnavailableError: the ledger can't be written.
        """
        return await self._writer.transaction(lambda connection: _keep(connection, size, note, now))

    async def find(self, serial: SerialNumber) -> LoggedLeaf | None:
        """Return the leaf of a certificate, by its serial number; None if there is none yet.

        Raises:
            LedgerUnavailableError: the ledger can't be read.
        """
        return await self._reader.ask(lambda connection: proofs.find_leaf(connection, serial))

    async def prove_inclusion(self, index: int, size: int) -> list[bytes] | None:
        """Prove that a tree contains a leaf (RFC 9162, section 2.1.3.1); None if nodes are missing.

        Raises:
            LedgerUnavailableError: the ledger can't be read.
        """
        return await self._reader.ask(
            lambda connection: proofs.prove(inclusion_proof, index, size, connection)
        )

    async def prove_consistency(self, old_size: int, size: int) -> list[bytes] | None:
        """Prove that the tree grew from one size to another (section 2.1.4.1); None if nodes are missing.

        Raises:
            LedgerUnavailableError: the ledger can't be read.
        """
        return await self._reader.ask(
            lambda connection: proofs.prove(consistency_proof, old_size, size, connection)
        )


def _grow(connection: Connection) -> Step:
    step = sequence(connection) if has_pending_leaves(connection) else Step(0, more=False)
    if step.more or step.problem or (lost := noted_of(connection).lost(connection)) is None:
        return step
    what = f"{name_entry(lost)} was removed before it was in the tree, or another was put in its place"
    return step._replace(problem=what)


def _keep(connection: Connection, size: int, note: bytes, now: int) -> bytes:
    mine = insert_into(checkpoints, connection.dialect).values(size=size, note=note, made_at=now)
    connection.execute(mine.on_conflict_do_nothing())
    kept: bytes = connection.execute(_NOTE, {"at": size}).scalar_one()
    return kept


_NOTE: Final = select(checkpoints.c.note).where(checkpoints.c.size == bindparam("at"))
