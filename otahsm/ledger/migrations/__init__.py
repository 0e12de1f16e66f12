"""The ledger's schema, version by version (Alembic).

Alembic is loaded only when a schema is to be changed: it takes a third of a second of every start.
"""

from __future__ import annotations

from pkgutil import iter_modules
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, select

from otahsm.ledger.migrations import versions
from otahsm.ledger.schema import compatible_schemas

if TYPE_CHECKING:
    from alembic.config import Config

NEWEST: Final = max(module.name for module in iter_modules(versions.__path__))[:4]


class UnknownVersionError(Exception):
    """A ledger has a schema that this code does not know."""


def migrate(connection: Connection, revision: str = NEWEST) -> None:
    """Bring the schema to a version, by default the newest, inside the connection's transaction.

    Raises:
        UnknownVersionError: it has one of a newer otahsm.
    """
    if (version := version_of(connection)) == revision:
        return
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.util import CommandError  # noqa: PLC0415

    configuration = _configuration()
    configuration.attributes["connection"] = connection
    try:
        command.upgrade(configuration, revision)
    except CommandError as error:
        raise UnknownVersionError(version) from error


def version_of(connection: Connection) -> str | None:
    """Return the version of a ledger's schema; None if it has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return version


def knows_version(version: str) -> bool:
    """Return whether a version is the newest or one before it: they are numbered, with four digits."""
    return version.isdecimal() and len(version) == len(NEWEST) and 0 < int(version) <= int(NEWEST)


def is_usable(connection: Connection, version: str | None) -> bool:
    """Return whether this code may use a ledger with a schema: the newest, or a newer one that says so.

    So daemons can be upgraded one after the other. An SQLite ledger has one daemon.
    """
    if version is None or version == NEWEST:
        return version == NEWEST
    known = version.isdecimal() and len(version) == len(NEWEST) and version > NEWEST
    if not known or connection.dialect.name != "postgresql":
        return False
    if not inspect(connection).has_table(compatible_schemas.name):
        return False
    named = select(compatible_schemas.c.usable_since).where(compatible_schemas.c.version == version)
    since: str | None = connection.execute(named).scalar()
    return since is not None and knows_version(since)


def _configuration() -> Config:
    from alembic.config import Config  # noqa: PLC0415 - see above

    configuration = Config()
    configuration.set_main_option("script_location", "otahsm.ledger:migrations")
    configuration.set_main_option("path_separator", "os")
    return configuration
