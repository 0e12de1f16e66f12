"""Reads revocations and CRLs on its own connection, so that a long CRL doesn't block issuance."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import Connection, LargeBinary, cast, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from otahsm.ledger.db.database import Database
from otahsm.ledger.db.dialects import LOCK_NAMESPACE
from otahsm.ledger.db.failures import reading
from otahsm.ledger.records import CrlRow, StoredCrl
from otahsm.ledger.schema import crl_urls, crls, intents, revocations, serial_octets
from otahsm.pki.crls.distribution import COMPLETE
from otahsm.pki.serial import SerialNumber

_PAGE: Final = 2000  # revocations fetched at a time
_CRL_ROW: Final = [crls.c[name] for name in CrlRow._fields]
_CRL: Final = select(*_CRL_ROW, cast(crls.c.der, LargeBinary).label("der"))  # SQLite stores any value
_TURN: Final = text(f"SELECT pg_try_advisory_lock({LOCK_NAMESPACE}, 0)")  # slots begin at 1
_TURN_OVER: Final = text(f"SELECT pg_advisory_unlock({LOCK_NAMESPACE}, 0)")


class ListedRevocation(NamedTuple):
    """An entry of a CRL: serial number, revocation time (seconds since 1970), and reason."""

    serial: SerialNumber
    revoked_at: int
    reason: str


class CrlState(NamedTuple):
    """The existing CRLs, and what they should contain, in one snapshot.

    Attributes:
        urls: every CRL URL that certificates may contain, and whether it is that of the complete CRL.
        crls: the CRLs, by scope.
        revoked: the number of revoked certificates, by scope.
    """

    urls: dict[str, bool]
    crls: dict[str, CrlRow]
    revoked: dict[str, int]


class CrlReader:
    """Reads revocations and CRLs on its own connection. For one thread.

    It also has the lock that lets only one daemon on a ledger make CRLs at a time. What is read while holding
    it, after taking a number, includes everything on CRLs with lower numbers.

    Args:
        database: the ledger's database; open, and with the current schema.
        issuer_key_id: the key identifier of the CA.
        alone: whether the ledger has no other CA, so that all revocations belong to this one.
    """

    def __init__(self, database: Database, issuer_key_id: bytes, *, alone: bool = True) -> None:
        self._name = database.name
        self._issuer_key_id = issuer_key_id
        self._alone = alone
        self._engine = database.open_reader()
        self._turn: Connection | None = None

    def take_turn(self) -> bool:
        """Take the lock if no other daemon has it; return whether that succeeded.

        It is released by `end_turn`, or with the connection.

        Raises:
            LedgerUnavailableError: the database can't be read. The other methods raise it too.
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
        """Release the lock."""
        connection, self._turn = self._turn, None
        if connection is None:
            return
        try:
            if connection.dialect.name == "postgresql":
                with connection.begin():
                    connection.execute(_TURN_OVER)
        except SQLAlchemyError:
            connection.invalidate()  # the lock is released with the connection
        finally:
            connection.close()

    def state(self) -> CrlState:
        """Return the existing CRLs, and what they should contain."""
        counted = select(revocations.c.crl_url, func.count().label("revoked")).group_by(revocations.c.crl_url)
        if not self._alone:
            counted = counted.join(intents).where(intents.c.issuer_key_id == self._issuer_key_id)
        listed = select(crls.c.url, *_CRL_ROW).where(crls.c.issuer_key_id == self._issuer_key_id)
        stated = select(crl_urls).where(crl_urls.c.issuer_key_id == self._issuer_key_id)
        with self._reading() as connection:
            urls = {row.url: row.complete for row in connection.execute(stated)}
            rows = {url: CrlRow(*row) for url, *row in connection.execute(listed)}
            counts = {row.crl_url: row.revoked for row in connection.execute(counted)}
        total = sum(counts.values())
        return CrlState(urls, rows, {url: counts.get(url, 0) for url in urls} | {COMPLETE: total})

    def revoked(self, url: str) -> Iterator[ListedRevocation]:
        """Yield the revocations for a shard's CRL, or for the complete one, in no particular order."""
        query = select(serial_octets, revocations.c.revoked_at, revocations.c.reason).join_from(
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
        """Return a CRL; None if there is none for that scope."""
        with self._reading() as connection:
            mine = (crls.c.issuer_key_id == self._issuer_key_id) & (crls.c.url == url)
            row = connection.execute(_CRL.where(mine)).first()
        return StoredCrl(url, CrlRow(*row[:-1]), row.der) if row else None

    def close(self) -> None:
        """Close the connection, and release the lock."""
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
