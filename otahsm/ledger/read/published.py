"""Reads what a ledger says was signed last: its newest checkpoint, and its CRLs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, func, inspect, select

from otahsm.config import LedgerConfig
from otahsm.errors import EvidenceError, LedgerTamperedError
from otahsm.ledger.db.failures import reading
from otahsm.ledger.read.snapshot import has_file, open_reader
from otahsm.ledger.schema import checkpoints, crls, intents, leaves, revocations
from otahsm.ledger.tree.proofs import Head, prove, read_head
from otahsm.tlog import consistency_proof, verify_consistency

_FILLED: Final = (intents, leaves, checkpoints, crls, revocations)


class PublishedCrl(NamedTuple):
    """The newest CRL of a scope: the key identifier of its CA, the scope, its number, and the CRL in DER."""

    issuer_key_id: bytes
    scope: str
    number: int
    der: bytes


class Published(NamedTuple):
    """What was signed last. Nothing of it is verified.

    Attributes:
        head: the tree, and its newest checkpoint.
        crls: the CRLs.
    """

    head: Head
    crls: Sequence[PublishedCrl]


def read_published(connection: Connection) -> Published:
    """Read what was signed last.

    Args:
        connection: from `snapshot`.

    Raises:
        LedgerTamperedError: the state of the tree is corrupt.
    """
    head = read_head(connection)
    if head is None:
        raise LedgerTamperedError("the state of the tree is corrupt")
    rows = connection.execute(
        select(crls.c.issuer_key_id, crls.c.url, crls.c.number, crls.c.der).order_by(
            crls.c.issuer_key_id, crls.c.url
        )
    )
    return Published(head, [PublishedCrl(*row) for row in rows])


def check_that_it_grew(connection: Connection, head: Head, size: int, root: bytes) -> None:
    """Check that the ledger's tree begins with another one, with the hashes in its tables.

    Args:
        connection: the one that the head was read from.
        head: the ledger's tree.
        size: the number of leaves of the other tree.
        root: its root.

    Raises:
        EvidenceError: it does not.
    """
    tree = head.tree
    if size > tree.size:
        raise EvidenceError(f"The ledger has only {tree.size} leaves, not {size}.")
    hashes = prove(consistency_proof, size, tree.size, connection) if 0 < size < tree.size else []
    if hashes is None:
        raise EvidenceError("Nodes of the tree are missing.")
    verify_consistency(size, root, tree.size, tree.root, hashes)


def is_unused(config: LedgerConfig) -> bool:
    """Return whether a ledger does not exist yet, or has never held anything.

    Raises:
        LedgerUnavailableError: it can't be read.
    """
    if not has_file(config):
        return True
    engine = open_reader(config)
    try:
        with reading(str(config.path or config.url)), engine.connect() as connection:
            names = set(inspect(connection).get_table_names())
            return not any(
                connection.execute(
                    select(func.count()).select_from(select(table).limit(1).subquery())
                ).scalar()
                for table in _FILLED
                if table.name in names
            )
    finally:
        engine.dispose()
