"""What CRLs are made of, read beside the writer: a long list must hold up nobody who issues."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from otahsm.ledger.db.database import Database
from otahsm.ledger.db.dialects import LOCK_NAMESPACE
from otahsm.ledger.db.failures import reading
from otahsm.ledger.records import COMPLETE, CrlRow, StoredCrl
from otahsm.ledger.schema import crl_urls, crls, intents, revocations
from otahsm.pki import SerialNumber

_PAGE: Final = 2000  # revocations in memory besides what is made of them
_TURN: Final = text(f"SELECT pg_try_advisory_lock({LOCK_NAMESPACE}, 0)")  # slots begin at 1
_TURN_OVER: Final = text(f"SELECT pg_advisory_unlock({LOCK_NAMESPACE}, 0)")


class ListedRevocation(NamedTuple):
    """What a CRL tells of a certificate: its serial number, since when (seconds since 1970), and why."""

    serial: SerialNumber
    revoked_at: int
    reason: str


class CrlState(NamedTuple):
    """What there is, and what there should be, at one moment.

    Attributes:
        urls: every URL that certificates may state, and whether the complete CRL is there.
        crls: the CRLs, by scope.
        revoked: how many certificates are revoked, by scope.
    """

    urls: dict[str, bool]
    crls: dict[str, CrlRow]
    revoked: dict[str, int]


class CrlReader:
    """Reads revocations and CRLs on a connection of its own. Made for one thread.

    It also gives turns: of all daemons on a ledger, one at a time makes CRLs. What it reads within its turn,
    after it took a number, has all that is in any CRL with a lower number.

    Args:
        database: the ledger's; open, and with today's schema.
        issuer_key_id: the CA whose CRLs they are.
        alone: whether the ledger has no other CA: then all that is revoked is this one's.
    """

    def __init__(self, database: Database, issuer_key_id: bytes, *, alone: bool = True) -> None:
        self._name = database.name
        self._issuer_key_id = issuer_key_id
        self._alone = alone
        self._engine = database.open_reader()
        self._turn: Connection | None = None

    def take_turn(self) -> bool:
        """Take the turn if no other daemon has it; it ends with `end_turn`, or with the connection.

        Raises:
            LedgerUnavailableError: the database can't be read; so do the other methods.
        """
        with reading(self._name):
            connection = self._engine.connect()
            try:
                with connection.begin():
                    mine = connection.dialect.name != "postgresql" or connection.execute(_TURN).scalar()
            except SQLAlchemyError:
                connection.close()
                raise
        if not mine:
            connection.close()
            return False
        self._turn = connection
        return True

    def end_turn(self) -> None:
        """Let others have their turn."""
        connection, self._turn = self._turn, None
        if connection is None:
            return
        try:
            if connection.dialect.name == "postgresql":
                with connection.begin():
                    connection.execute(_TURN_OVER)
        except SQLAlchemyError:
            connection.invalidate()  # the turn ends with the connection
        finally:
            connection.close()

    def state(self) -> CrlState:
        """Say what there is, and what there should be."""
        counted = select(revocations.c.crl_url, func.count().label("revoked")).group_by(revocations.c.crl_url)
        if not self._alone:
            counted = counted.join(intents).where(intents.c.issuer_key_id == self._issuer_key_id)
        listed = select(crls.c.url, crls.c.number, crls.c.this_update, crls.c.next_update, crls.c.revoked)
        listed = listed.where(crls.c.issuer_key_id == self._issuer_key_id)
        stated = select(crl_urls).where(crl_urls.c.issuer_key_id == self._issuer_key_id)
        with self._reading() as connection:
            urls = {row.url: row.complete for row in connection.execute(stated)}
            rows = {url: CrlRow(*row) for url, *row in connection.execute(listed)}
            counts = {row.crl_url: row.revoked for row in connection.execute(counted)}
        total = sum(counts.values())
        return CrlState(urls, rows, {url: counts.get(url, 0) for url in urls} | {COMPLETE: total})

    def revoked(self, url: str) -> Iterator[ListedRevocation]:
        """Read what belongs on a shard's CRL, or on the complete one; a page at a time, in no order."""
        query = select(intents.c.serial, revocations.c.revoked_at, revocations.c.reason).join_from(
            revocations, intents
        )
        if url != COMPLETE:
            query = query.where(revocations.c.crl_url == url)
        if not self._alone:
            query = query.where(intents.c.issuer_key_id == self._issuer_key_id)
        with self._reading() as connection:
            rows = connection.execution_options(yield_per=_PAGE).execute(query)
            yield from (
                ListedRevocation(SerialNumber.from_key(key), since, reason) for key, since, reason in rows
            )

    def crl(self, url: str) -> StoredCrl | None:
        """Read a CRL; None if there is none for that scope."""
        with self._reading() as connection:
            mine = (crls.c.issuer_key_id == self._issuer_key_id) & (crls.c.url == url)
            row = connection.execute(select(crls).where(mine)).first()
        if row is None:
            return None
        return StoredCrl(url, CrlRow(row.number, row.this_update, row.next_update, row.revoked), row.der)

    def close(self) -> None:
        """Let go of the connection, and of the turn."""
        self.end_turn()
        self._engine.dispose()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with reading(self._name):
            if self._turn is not None:
                with self._turn.begin():
                    yield self._turn
            else:
                with self._engine.connect() as connection, connection.begin():
                    yield connection
