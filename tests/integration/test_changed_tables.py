"""A trigger in the ledger's database: no daemon starts on it, a running one notices, every check names it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Final

import pytest

from support.harness import Fleet, running
from support.homes import SqliteHome
from support.postgres import PostgresServer, on_postgres

# A daemon that looks again as soon as it has looked.
_LOOKING: Final = """
import runpy, sys
from otahsm.authority import life_cycle

life_cycle._SHAPE_SECONDS = 0.01
sys.argv = ["otahsm", "serve"]
runpy.run_module("otahsm", run_name="__main__")
"""
_WHAT: Final = "otahsm makes no triggers: it can change what is written"


def in_sqlite(fleet: Fleet, _: Callable[[], PostgresServer]) -> Callable[[], None]:
    ledger = fleet.config.ledger
    assert ledger is not None
    assert ledger.path is not None
    home = SqliteHome(ledger.path.parent)
    return lambda: home.change(
        "CREATE TRIGGER hide AFTER INSERT ON events WHEN new.name = 'access.denied'"
        " BEGIN DELETE FROM events WHERE id = new.id; END"
    )


def in_postgresql(fleet: Fleet, server: Callable[[], PostgresServer]) -> Callable[[], None]:
    ledger = on_postgres(fleet, server()).config.ledger
    assert ledger is not None
    assert ledger.url is not None
    name = ledger.url.rpartition("/")[2]

    def change() -> None:
        with server().connect(name) as connection:
            connection.execute(
                "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
            )
            connection.execute("CREATE TRIGGER hide AFTER INSERT ON events EXECUTE FUNCTION nothing()")

    return change


@pytest.mark.parametrize("place", [in_sqlite, in_postgresql])
def test_a_trigger_is_noticed_by_a_running_daemon_and_no_other_starts(
    fleet: Fleet,
    place: Callable[[Fleet, Callable[[], PostgresServer]], Callable[[], None]],
    request: pytest.FixtureRequest,
) -> None:
    change = place(fleet, lambda: request.getfixturevalue("postgres_server"))
    with running(fleet, within=(sys.executable, "-P", "-c", _LOOKING)) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        change()
        (failed,) = daemon.wait_for("ledger.tampered", job="schema")
        assert f"trigger hide on events: {_WHAT}" in failed["message"]
        assert failed["reason"] == "LEDGER_TAMPERED"
        daemon.wait_for("health.changed", serving=False)
        assert _WHAT in json.loads(fleet.run("health", "--json").stdout)["message"]
    started = fleet.run("serve")
    assert started.returncode == 4
    assert f"trigger hide on events: {_WHAT}" in started.stderr
    assert "daemon.listening" not in started.stderr
    verified = fleet.run("ledger", "verify")
    assert verified.returncode == 1
    assert verified.stdout.startswith(f"trigger hide on events: {_WHAT}")
    assert "1 MISMATCHES." in verified.stdout
    examined = fleet.run("doctor", "--json")
    assert examined.returncode == 4
    assert {
        "subject": "ledger tables",
        "status": "fail",
        "message": f"trigger hide on events: {_WHAT}",
    }.items() <= next(
        check for check in json.loads(examined.stdout) if check["subject"] == "ledger tables"
    ).items()


def test_what_is_only_beside_the_ledger_is_a_warning(fleet: Fleet) -> None:
    ledger = fleet.config.ledger
    assert ledger is not None
    assert ledger.path is not None
    SqliteHome(ledger.path.parent).change("CREATE INDEX mine ON events (client)")
    warning = {"where": "index mine on events", "what": "is not otahsm's: it makes writes slower"}
    verified, as_json = fleet.run("ledger", "verify"), fleet.run("ledger", "verify", "--json")
    assert (verified.returncode, as_json.returncode) == (0, 0)
    assert verified.stdout.startswith(f"warning: {warning['where']}: {warning['what']}\n")
    assert json.loads(as_json.stdout)["warnings"] == [warning]
    checks = json.loads(fleet.run("doctor", "--json").stdout)
    (told,) = [check for check in checks if check["subject"] == "ledger tables"]
    assert (told["status"], told["fix"]) == ("warning", "Keep nothing else in the ledger's database.")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        assert daemon.stop() == 0


def test_a_table_that_is_gone_is_named_by_verify(fleet: Fleet) -> None:
    ledger = fleet.config.ledger
    assert ledger is not None
    assert ledger.path is not None
    SqliteHome(ledger.path.parent).change("DROP TABLE nodes")
    verified = fleet.run("ledger", "verify", "--keys")
    assert verified.returncode == 1
    assert verified.stdout.startswith("table nodes: is missing: somebody removed or renamed it\n")
    assert "rows: were not verified, as tables or columns are missing" in verified.stdout
