"""The shared ledger: a PostgreSQL database, written by several daemons.

The writing connection holds the daemon's slot, by a session lock. When a daemon dies or is disconnected, it
loses its slot as soon as the server notices, and another daemon can void its open intents. A daemon can't
write without a slot.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.schema import CreateSchema, DropSchema

from otahsm.errors import ConfigError, LedgerUnavailableError
from otahsm.ledger.db.dialects import LOCK_NAMESPACE
from otahsm.ledger.db.failures import cause_of
from otahsm.ledger.db.session import pin, schema_of
from otahsm.system.secret_files import one_line, read_secret_file

_READ_ONLY: Final = "25006"  # SQLSTATE read_only_sql_transaction
_IDS: Final = 1024  # reserved at a time
_CONNECT_SECONDS: Final = 10
# A commit must survive a power cut, whatever the server's default is. Stricter settings are kept.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
)
_SETTINGS: Final = (
    _DURABLE,
    # All statements look up rows in indexes, one by one. A plan that was made when the tables were empty, or
    # without statistics, would scan them instead, and be cached.
    "SET enable_seqscan = off",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    "SET jit = off",
)
_SMALL: Final = 1000  # rows; below that, a scan is as fast as an index
_LACKS_STATISTICS: Final = text(
    "SELECT reltuples < :rows AND (SELECT max(id) FROM intents) >= :rows FROM pg_class"
    " WHERE oid = 'intents'::regclass"
)
_ANALYZE: Final = text("ANALYZE intents, certificates, leaves")
_TAKE_IDS: Final = text(
    "SELECT nextval(pg_get_serial_sequence('intents', 'id')) FROM generate_series(1, :count)"
)


class PostgresDatabase:
    """One daemon's connection to the database.

    Args:
        url: `postgresql://user@host/database`; several hosts and other parameters as in libpq.
        password_file: a file whose first line is the password; None for libpq's own lookup (`~/.pgpass`).

    Raises:
        ConfigError: the URL or the file is invalid, or psycopg is not installed.
    """

    def __init__(self, url: str, password_file: Path | None) -> None:
        self._address = (url, password_file)
        self.engine = engine_for(url, password_file)
        self.name = self.engine.url.render_as_string(hide_password=True)
        self.slot = 0
        self.slot_is_new = False
        self._ids: list[int] = []
        event.listen(self.engine, "connect", self._take_slot)
        event.listen(self.engine, "handle_error", _leave_a_standby)

    def open_reader(self) -> Engine:
        """Open another connection, without a slot."""
        engine = engine_for(*self._address).execution_options(isolation_level="REPEATABLE READ")
        event.listen(engine, "connect", partial(configure, _SETTINGS))
        return engine

    def hold(self) -> None:
        """Do nothing: the connection holds the slot."""

    def take_ids(self, connection: Connection, count: int) -> list[int]:
        """Return ids that no intent ever had, in ascending order."""
        while len(self._ids) < count:
            self._ids += connection.execute(_TAKE_IDS, {"count": _IDS}).scalars().all()
        taken, self._ids = self._ids[:count], self._ids[count:]
        return taken

    def forget_ids(self) -> None:
        """Discard reserved ids, so that the next ids are above all existing ones."""
        self._ids = []

    def recorded(self, certificates: int) -> None:
        """Do nothing: the server maintains its log itself."""

    def tend(self, connection: Connection) -> None:
        """Create the planner's first statistics as soon as they matter.

        Without any, it assumes that one in 200 rows is live, and for a few devices scans the index of all
        live rows. The server analyzes tables automatically, but only after minutes or millions of rows.
        """
        if connection.execute(_LACKS_STATISTICS, {"rows": _SMALL}).scalar():
            connection.execute(_ANALYZE)

    def close(self) -> None:
        """Close the connection, and with it release the slot."""
        self.engine.dispose()

    def _take_slot(self, connection: Any, _: object) -> None:
        """Take the first free slot, for the lifetime of this connection."""
        configure(_SETTINGS, connection)
        with connection.cursor() as cursor:
            for slot in count(1):
                cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", (LOCK_NAMESPACE, slot))
                if cursor.fetchone()[0]:
                    break
        connection.commit()
        self.slot, self.slot_is_new = slot, True
        self._ids = []  # of the former slot: `closed_below` may be above them by now


def _leave_a_standby(context: ExceptionContext) -> None:
    """Drop a connection whose server has become read-only: the next one finds the primary."""
    if getattr(context.original_exception, "sqlstate", "") == _READ_ONLY:
        context.is_disconnect = True


def configure(settings: Sequence[str], connection: Any, _: object = None) -> None:
    """Run statements on a new connection, which hold for all its transactions."""
    with connection.cursor() as cursor:
        for setting in settings:
            cursor.execute(setting)
    connection.commit()


@contextmanager
def throwaway_schema(url: str, password_file: Path | None) -> Iterator[str]:
    """Create an empty schema in the database, and drop it at the end; yields a URL that uses it.

    Raises:
        ConfigError: as `PostgresDatabase`.
        LedgerUnavailableError: the server can't be reached, or the user may not create a schema.
    """
    name = f"otahsm_bench_{secrets.token_hex(8)}"
    engine = engine_for(url, password_file)
    try:
        with engine.begin() as connection:
            connection.execute(CreateSchema(name))
        try:
            yield (
                make_url(url)
                .update_query_dict({"options": f"-csearch_path={name}"})
                .render_as_string(hide_password=False)
            )
        finally:
            with engine.begin() as connection:
                connection.execute(DropSchema(name, cascade=True))
    except SQLAlchemyError as error:
        raise LedgerUnavailableError(f"can't create a schema in the database: {cause_of(error)}") from error
    finally:
        engine.dispose()


def engine_for(url: str, password_file: Path | None) -> Engine:
    """Return an engine with one connection, which sees the ledger's schema: see `session.pin`.

    Raises:
        ConfigError: as `PostgresDatabase`. Connecting raises it if the schema is not there.
    """
    address = _address(url, password_file)
    try:
        engine = create_engine(
            address,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "otahsm"},
        )
    except ModuleNotFoundError:
        raise ConfigError(
            "a ledger in PostgreSQL needs psycopg", hint="Install it: pip install 'otahsm[postgres]'"
        ) from None
    pin_to_schema = partial(pin, schema_of(address))
    # First: SQLAlchemy itself asks a new connection for its schema.
    event.listen(engine, "connect", lambda connection, _: pin_to_schema(connection), insert=True)
    return engine


def _address(url: str, password_file: Path | None) -> URL:
    try:
        address = make_url(url).set(drivername="postgresql+psycopg")
    except ArgumentError:
        raise ConfigError(
            "[ledger] url is not a URL", hint="Write it as postgresql://user@host/database."
        ) from None
    if password_file is None:
        return address
    what = f"[ledger] password_file {password_file}"
    first, *_ = read_secret_file(password_file, what).splitlines() or [b""]
    return address.set(password=one_line(first, what))
