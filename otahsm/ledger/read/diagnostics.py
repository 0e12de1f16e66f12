"""Checks a ledger for `otahsm doctor`, without changing it, even while a daemon uses it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from otahsm.checks import Check, fail, failed, obstacle_to, ok, warning
from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError, OtahsmError
from otahsm.ledger.db.database import database_of
from otahsm.ledger.db.failures import cause_of, reading
from otahsm.ledger.mac_key_file import read_mac_keys
from otahsm.ledger.migrations import NEWEST, is_usable, knows_version
from otahsm.ledger.schema import certificates, intents, revocations
from otahsm.ledger.shape.check import WHEN_TAMPERED, shape_of

_LITTLE: Final = 2 << 30  # octets: two million certificates
_MICROSECONDS: Final = 1_000_000
_SLACK: Final = timedelta(minutes=5)
_GIVE_PERMISSION: Final = "Give the daemon's user permission to write there, or repair the disk."


def diagnose_ledger(config: LedgerConfig, now: datetime) -> Iterator[Check]:
    """Check whether the daemon could use a ledger, and whether the clock is behind its newest certificate."""
    yield _key(config)
    if config.path is not None and not config.path.exists():
        yield _place_for(config.path)
        return
    try:
        database = database_of(config)
        engine = database.open_reader()
    except OtahsmError as error:
        yield failed("ledger", error)
        return
    try:
        yield from _look(engine, database.name, now)
        yield _writable(engine, config)
    except SQLAlchemyError as error:
        yield fail(
            "ledger",
            f"can't read {database.name}: {cause_of(error)}",
            "Check [ledger], and that this user may read it.",
        )
    finally:
        engine.dispose()
        database.close()
    if config.path is not None:
        yield _room(config.path)


def _look(engine: Engine, name: str, now: datetime) -> Iterator[Check]:
    with engine.connect() as connection:
        version = str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar())
        if version == NEWEST:
            yield ok("ledger", f"{name}, schema {version}")
            yield from _shape(connection)
        elif is_usable(connection, version):
            yield warning(
                "ledger",
                f"{name} has the schema {version} of a newer otahsm, which this one may work beside",
                "Upgrade this machine, too. `otahsm ledger verify` needs the newer version.",
            )
            yield from _shape(connection)
        elif knows_version(version):
            yield warning(
                "ledger",
                f"{name} has the schema {version}, but this otahsm needs {NEWEST}",
                "`otahsm serve` updates it when it starts. Make a backup first.",
            )
        else:
            yield fail(
                "ledger",
                f"{name} has the schema {version} of a newer otahsm",
                "Install the version of otahsm that created it, or a newer one.",
            )
            return
        query = select(intents.c.intended_at).order_by(intents.c.serial.desc()).limit(1)
        last = connection.execute(query).scalar()
    if last is not None:
        newest = datetime.fromtimestamp(last / _MICROSECONDS, UTC)
        if newest > now + _SLACK:
            yield fail(
                "clock",
                f"it is {now:%Y-%m-%d %H:%M:%S}, but the newest serial number is from"
                f" {newest:%Y-%m-%d %H:%M:%S}",
                "Set the clock: serial numbers start with the time.",
            )


def _shape(connection: Connection) -> Iterator[Check]:
    shape = shape_of(connection)
    for where, what in shape.tampered:
        yield fail("ledger tables", f"{where}: {what}", WHEN_TAMPERED)
    for where, what in shape.warnings:
        yield warning("ledger tables", f"{where}: {what}", "Keep nothing else in the ledger's database.")
    if not shape.tampered and not shape.warnings:
        yield ok("ledger tables", "as otahsm made them, and nothing else")


def _writable(engine: Engine, config: LedgerConfig) -> Check:
    if config.path is not None:
        # If the database is locked, a daemon is writing, so it is writable.
        try:
            with closing(sqlite3.connect(config.path, timeout=2, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            if "locked" not in str(error):
                return fail("ledger writable", f"can't write {config.path}: {error}", _GIVE_PERMISSION)
        return ok("ledger writable", "yes")
    with engine.connect() as connection:
        standby = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar()
        may = connection.exec_driver_sql("SELECT has_table_privilege('intents', 'INSERT')").scalar()
    if standby:
        return warning(
            "ledger writable", "the server is a standby", "List all hosts in [ledger] url; see the guide."
        )
    if not may:
        return fail(
            "ledger writable", "the user may not write to the table intents", "Grant it INSERT, as the owner."
        )
    return ok("ledger writable", "yes")


def _key(config: LedgerConfig) -> Check:
    try:
        read_mac_keys(config)
    except ConfigError as error:
        return failed("ledger key", error)
    return ok("ledger key", f"{config.key_file} can be read, by nobody else")


def _place_for(path: Path) -> Check:
    if there := obstacle_to(path.parent):
        return fail(
            "ledger",
            f"{path} does not exist, and this user can't create it below {there}",
            "Correct [ledger] path, or give the daemon's user permission to write there.",
        )
    return ok("ledger", f"{path} does not exist yet; `otahsm serve` will create it")


def _room(path: Path) -> Check:
    free = shutil.disk_usage(path.parent).free
    if free < _LITTLE:
        return warning(
            "ledger disk",
            f"{free / (1 << 30):.1f} GiB are free under {path.parent}",
            "Free some space: a million certificates need about 1 GiB.",
        )
    return ok("ledger disk", f"{free / (1 << 30):.0f} GiB are free")


class Valid(NamedTuple):
    """The number of certificates that are valid and not revoked, and when the last one expires (UTC)."""

    certificates: int
    last: datetime | None


def count_valid(config: LedgerConfig, issuer_key_id: bytes, now: datetime) -> Valid:
    """Count the valid, unrevoked certificates of a CA, for which its CRLs are still needed. Reads all rows.

    Raises:
        ConfigError: the configuration is invalid.
        LedgerUnavailableError: the ledger can't be read.
    """
    database = database_of(config)
    engine = database.open_reader()
    query = (
        select(func.count(), func.max(intents.c.not_after))
        .select_from(
            intents.join(certificates).outerjoin(revocations, revocations.c.intent_id == intents.c.id)
        )
        .where(intents.c.issuer_key_id == issuer_key_id)
        .where(intents.c.not_after >= int(now.timestamp()))
        .where(revocations.c.intent_id.is_(None))
    )
    try:
        with reading(database.name), engine.connect() as connection:
            count, last = connection.execute(query).one()
    finally:
        engine.dispose()
        database.close()
    return Valid(count, datetime.fromtimestamp(last, UTC) if count else None)
