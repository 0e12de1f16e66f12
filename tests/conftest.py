"""Fixtures: a fleet made once, copies of it, and daemons that serve them."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from otahsm.client import Client
from otahsm.config import LedgerConfig
from otahsm.ledger import Ledger, MacKeys, database_of, read_mac_keys
from otahsm.quickstart import create

from support.harness import Fleet, RunningDaemon, eventually, free_port, orphaned_workers, running
from support.homes import MAC_KEYS, Home, PostgresHome, SqliteHome
from support.postgres import PostgresServer

# Images set it. Then each process that a test starts would compile all that it imports: 2 s instead of 0.6 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A shell's background job ignores it, and so would all that the tests start, and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


# What takes longest begins first, so that no processor waits for it in the end. One worker runs a whole file,
# with one daemon for all its tests. Some mostly wait, for tokens that hang and daemons that start, and others
# keep a processor busy: they take turns here, and the three tables of faults are kept apart.
LONGEST_FIRST = (
    "faults/test_fault_table_signing.py",
    "fuzz/test_fuzz.py",
    "acceptance/test_docs.py",
    "unit/test_tampering.py",
    "unit/test_merkle_log.py",
    "acceptance/test_separate_users.py",
    "acceptance/test_hardening.py",
    "faults/test_cli_killed.py",
    "faults/test_storm.py",
    "integration/test_cycle_machine.py",
    "acceptance/test_cli_bench.py",
    "acceptance/test_file_modes.py",
    "acceptance/test_supply_chain.py",
    "acceptance/test_guide.py",
    "integration/test_audit.py",
    "faults/test_kills.py",
    "faults/test_patience.py",
    "acceptance/test_known_vulnerabilities.py",
    "integration/test_installing.py",
    "acceptance/test_cli.py",
    "acceptance/test_deploy.py",
    "faults/test_pin.py",
    "faults/test_revocation.py",
    "acceptance/test_cli_device_install.py",
    "acceptance/test_cli_gateway.py",
    "faults/test_fault_table_sessions.py",
    "faults/test_replicas.py",
    "faults/test_fault_table_starting.py",
    "faults/test_token_faults.py",
    "faults/test_token_replicas.py",
    "acceptance/test_cli_doctor.py",
    "integration/test_reloading.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first, and mark what needs a PostgreSQL server: `make check` does without."""
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST_FIRST)}
    if gone := [str(path) for path in order if not path.is_file()]:
        raise pytest.UsageError(f"LONGEST_FIRST names files that are gone: {gone}")
    items.sort(key=lambda item: order.get(item.path, len(order)))
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if fixtures & {"postgres_server", "postgres_server_of_my_own"} or "postgresql" in parameters:
            item.add_marker(pytest.mark.postgresql)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking through thousands of tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_worker_is_left_behind() -> Iterator[None]:
    """Whatever the tests kill, nothing with a PIN in it may live on."""
    yield
    eventually(lambda: orphaned_workers() == [], "workers outlive their daemons")


@pytest.fixture(scope="session")
def fleet_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quickstart folder to copy from; nothing runs on it.

    Hundreds of daemons start on copies: they find an empty ledger, and have one preparer and one signer.
    """
    folder = tmp_path_factory.mktemp("template") / "fleet"
    create(folder, free_port())
    fleet = Fleet(folder)
    fleet.edit("preparers = 2", "preparers = 1")
    fleet.set_signers(1)
    ledger = fleet.config.ledger
    assert ledger is not None
    asyncio.run(make_empty(ledger, read_mac_keys(ledger)))
    return folder


async def make_empty(config: LedgerConfig, keys: MacKeys = MAC_KEYS) -> None:
    """Make a ledger with nothing in it."""
    ledger = Ledger(database_of(config), keys, ())
    await ledger.open()
    await ledger.close()


@pytest.fixture(scope="session")
def make_fleet(fleet_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Fleet]:
    """Make a fleet of one's own: a copy, with a copy of the token."""

    def make() -> Fleet:
        return Fleet(fleet_template).copy_to(tmp_path_factory.mktemp("copy") / "fleet")

    return make


@pytest.fixture
def fleet(make_fleet: Callable[[], Fleet]) -> Fleet:
    """A fleet of this test's own."""
    return make_fleet()


@pytest.fixture
def daemon(fleet: Fleet) -> Iterator[RunningDaemon]:
    """A daemon of this test's own, serving."""
    with running(fleet) as started:
        started.wait_for("health.changed", serving=True)
        yield started


@pytest.fixture(scope="session")
def shared_daemon(make_fleet: Callable[[], Fleet]) -> Iterator[RunningDaemon]:
    """A daemon for tests that only ask it for certificates, of devices that nobody else asks for."""
    fleet = make_fleet()
    fleet.set_signers(2)
    with running(fleet) as started:
        started.wait_for("health.changed", serving=True)
        yield started


@pytest.fixture
async def client(shared_daemon: RunningDaemon) -> AsyncIterator[Client]:
    """A client of the shared daemon."""
    async with shared_daemon.client() as connected:
        yield connected


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that nobody kills."""
    server = PostgresServer(vacuums=False)
    yield server
    server.remove()


@pytest.fixture
def postgres_server_of_my_own() -> Iterator[PostgresServer]:
    """A PostgreSQL server that may be killed; it must run in the end."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A ledger with nothing in it, to be copied."""
    home = SqliteHome(tmp_path_factory.mktemp("empty"))
    asyncio.run(make_empty(home.config))
    return home


@pytest.fixture(scope="session")
def empty_postgresql(postgres_server: PostgresServer) -> Home:
    """A ledger with nothing in it, to be copied."""
    home = PostgresHome(postgres_server)
    asyncio.run(make_empty(home.config))
    return home


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A place for a ledger, with none there, of both kinds in turn."""
    if request.param == "sqlite":
        return SqliteHome(tmp_path)
    return PostgresHome(request.getfixturevalue("postgres_server"))


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A place with a ledger that has nothing in it, of both kinds in turn."""
    empty: Home = request.getfixturevalue(f"empty_{request.param}")
    return empty.copied(tmp_path)
