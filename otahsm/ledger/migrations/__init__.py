"""The ledger's schema, version by version (Alembic)."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to a version, by default the newest, inside the connection's transaction."""
    configuration = _configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, revision)


def newest_version() -> str:
    """Return the version that the code is written for."""
    return str(ScriptDirectory.from_config(_configuration()).get_current_head())


def knows_version(version: str) -> bool:
    """Tell whether a version is the newest or one before it."""
    return version in {
        item.revision for item in ScriptDirectory.from_config(_configuration()).walk_revisions()
    }


def _configuration() -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", "otahsm.ledger:migrations")
    configuration.set_main_option("path_separator", "os")
    return configuration
