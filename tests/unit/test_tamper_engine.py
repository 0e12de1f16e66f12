"""Whatever somebody changes, adds, removes or swaps in any table, `verify` names it, or it is on the list."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Connection, Engine, create_engine, event

from otahsm.ledger import Verdict, compare_certificates, compare_crls, verify
from otahsm.ledger.db.postgres import engine_for

from support.evidence import ISSUER, NOW
from support.filled import Filler
from support.homes import MAC_KEYS, Home, PostgresHome
from support.logbook import Notary
from support.tampering import Change, Tamperer, rows_of, tampered

ROOT: Final = Path(__file__).parents[2]
SEED: Final = int(os.environ.get("OTAHSM_TAMPER_SEED", "1"))
CHANGES: Final = int(os.environ.get("OTAHSM_TAMPER_CHANGES", "120"))

# What `verify` does not name. docs/security.md has the same list, with the reasons.
NOT_COVERED: Final = {
    "checkpoints.made_at",
    "crl_numbers.this_update",
    "quotas.rate_full_at",
    "replicas.closed_below",
    "replicas.place",
    "unlogged.id",
}
# These only if they were raised, or moved to something later.
RAISED: Final = {"crl_numbers.number", "quotas.day", "quotas.day_taken"}
# Rows of these only if they were removed, or added.
REMOVED: Final = {"checkpoints", "crls"}
ADDED: Final = {"crl_numbers", "replicas"}


class Filled:
    def __init__(self, home: Home, notary: Notary) -> None:
        self.notary = notary
        self.engine = _engine(home)
        with self.engine.connect() as connection:
            self.rows = rows_of(connection)

    def named(self, change: Change) -> bool | None:
        """Return whether `verify` names a change; None if the database refuses it."""
        with tampered(self.engine, change) as connection:
            if connection is None:
                return None
            return not self.verdict(connection).good

    def verdict(self, connection: Connection) -> Verdict:
        """Return what `otahsm ledger verify` says of the rows."""
        verdict = verify(
            connection, [self.notary.verifier], mac_keys=MAC_KEYS.of_ledger([ISSUER.key_identifier])
        )
        compare_certificates(connection, [ISSUER], verdict, NOW, processes=0)
        compare_crls(connection, [ISSUER], verdict, NOW)
        return verdict


def _engine(home: Home) -> Engine:
    if isinstance(home, PostgresHome):
        return engine_for(home.url, home.server.password_file)
    engine = create_engine(f"sqlite:///{home.config.path}")

    @event.listens_for(engine, "connect")
    def _manual(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: object) -> None:
        connection.exec_driver_sql("BEGIN")  # type: ignore[attr-defined]

    return engine


def _filled(home: Home) -> Filled:
    notary = Notary()
    asyncio.run(Filler(home, notary).fill())
    return Filled(home, notary)


@pytest.fixture(scope="module")
def filled_sqlite(empty_sqlite: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    filled = _filled(empty_sqlite.copied(tmp_path_factory.mktemp("filled")))
    yield filled
    filled.engine.dispose()


@pytest.fixture(scope="module")
def filled_postgresql(empty_postgresql: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    filled = _filled(empty_postgresql.copied(tmp_path_factory.mktemp("filled")))
    yield filled
    filled.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest) -> Filled:
    found: Filled = request.getfixturevalue(f"filled_{request.param}")
    with found.engine.connect() as connection:
        assert found.verdict(connection).findings == []
    return found


def covered(change: Change) -> bool:
    if change.table in {"remove": REMOVED, "add": ADDED}.get(change.how, ()):
        return False
    if change.table == "intents" and change.how == "add" and change.after["void_reason"] is None:
        return False  # it is open: `ledger reconcile` names it, and the daemon voids it
    not_covered = set(NOT_COVERED)
    if change.how in ("change", "copy", "swap"):
        (column,) = change.columns
        if f"{change.table}.{column}" in RAISED and change.after[column] > change.before[column]:
            not_covered |= RAISED
    return bool({f"{change.table}.{column}" for column in change.columns} - not_covered)


def test_a_change_of_any_column_of_any_table_is_named(filled: Filled) -> None:
    missed = [
        str(change)
        for change in Tamperer(filled.rows, SEED).each_column()
        if covered(change) and filled.named(change) is False
    ]
    assert missed == [], f"seed {SEED}"


def test_whatever_is_drawn_is_named(filled: Filled) -> None:
    tamperer = Tamperer(filled.rows, SEED)
    missed, done = [], Counter[str]()
    while done["named"] < CHANGES:
        change = tamperer.draw()
        named = filled.named(change) if covered(change) else None
        done["named" if named else "refused" if named is None else "missed"] += 1
        if named is False:
            missed.append(str(change))
            assert len(missed) < 30, "\n".join(missed)
    assert missed == [], f"seed {SEED}"


def test_the_list_is_in_the_documentation() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    section = page.partition("### What `ledger verify` does not cover")[2].partition("\n## ")[0]
    columns = " ".join(row.split("|")[1] for row in section.splitlines() if row.startswith("|"))
    listed = set(re.findall(r"`(\w+\.\w+)`", columns))
    assert listed == NOT_COVERED | RAISED
