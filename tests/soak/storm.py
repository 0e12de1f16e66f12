"""A storm: daemons, workers, the client and the database are killed at random while devices are issued.

    PYTHONPATH=tests .venv/bin/python -m soak.storm --devices 20000 --kills 200

`make soak` runs this for both kinds of ledger; a short one is among the tests. What is killed is killed with
SIGKILL, at a random moment, and started again as an operator or a service manager would. In the end every
device must have exactly one certificate, every certificate that any client ever received must be in the
ledger, every serial number that the token ever signed must be accounted for, and the tree must verify: see
`storm_books`.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.quickstart import create

from soak.storm_books import Books, balance
from soak.storm_clients import StormClients, alive
from soak.storm_replica import Replica
from support.harness import OTAHSM, Fleet, free_port
from support.postgres import PostgresServer
from support.tokens.faulty import FaultyToken, behind_shim, compile_shim

MOST_SECONDS_BETWEEN_KILLS: Final = 0.9
# Most are killed just after the token was asked: then there is most that is only half done.
AIMED: Final = 0.75
MOST_SECONDS_TO_AIM: Final = 1.0
MOST_SECONDS_AFTER: Final = 0.05
CRL: Final = '\n[crl]\nurl = "http://crl.example.com/fleet.crl"\ndirectory = "crl"\n'


class Storm:
    """What is killed, and what is counted.

    Args:
        token: and its fleet, which is issued for; its configuration is changed, and its CA made anew.
        server: the PostgreSQL server to keep the ledger in, with two daemons; None: SQLite, and one.
        devices: how many devices are asked for in one run of the command.
        random: decides who is killed, and when.
    """

    def __init__(
        self, token: FaultyToken, server: PostgresServer | None, devices: int, random: random.Random
    ) -> None:
        self._token = token
        self._fleet = token.fleet
        self._server = server
        self._devices = devices
        self._random = random
        self._runs = 0
        self.killed: Counter[str] = Counter()
        self._configure()

    def rage(self, kills: int) -> None:
        """Kill so many times while devices are issued; then let all come to an end, and stop the daemons."""
        with contextlib.ExitStack() as stack:
            count = 1 if self._server is None else 2
            self._replicas = [
                stack.enter_context(contextlib.closing(Replica(self._fleet, number)))
                for number in range(count)
            ]
            targets = [replica.address for replica in self._replicas]
            self._name_targets(targets)
            self._log = stack.enter_context((self._fleet.folder / "client.log").open("ab"))
            self._clients = StormClients(targets, self._fleet.tls, random.Random(self._random.random()))
            living = stack.enter_context(alive(self._clients))
            self._start_client(another=True)
            stack.callback(self._kill_client)
            while self.killed.total() < kills:
                self._keep_running(living)
                if self._client.poll() == 0:
                    self._start_client(another=True)
                name, kill = self._random.choice(self._victims())
                self._wait()
                if kill():
                    self.killed[name] += 1
            self._clients.enough()
            while self._client.poll() != 0 or not living.done():
                self._keep_running(living)
                time.sleep(0.1)
            living.result()
            for replica in self._replicas:
                assert replica.stop() == 0

    def check(self) -> Books:
        """Look at the books, and at what the factory and the other clients have."""
        devices = (path for path in (self._fleet.folder / "devices").iterdir() if path.is_dir())
        folders = {folder.name: _der(folder / "client.pem") for folder in devices}
        # A command that was killed when it had made them all was begun once more.
        assert len(folders) >= self._runs * self._devices
        assert len(folders) % self._devices == 0
        return balance(self._token, folders, self._clients)

    def _configure(self) -> None:
        """Make the CA that `storm_books` wants, have everything signed often, and choose the ledger."""
        fleet = self._fleet
        fleet.root_pem.unlink()
        fleet.edit("object=fleet-root;id=%01", "object=storm-root;id=%02")
        fleet.edit("interval_seconds = 60", "interval_seconds = 1")
        fleet.toml.write_text(fleet.toml.read_text() + CRL)
        made = fleet.run("ca", "init", "--key-type", "ed25519")
        assert made.returncode == 0, made.stderr
        if self._server is not None:
            fleet.edit(
                'path = "ledger/ledger.sqlite3"',
                f'url = "{self._server.create_database()}"\npassword_file = "{self._server.password_file}"',
            )
        fleet.lift_quotas()
        begun = fleet.run("ledger", "init-key")
        assert begun.returncode == 0, begun.stderr

    def _name_targets(self, targets: list[str]) -> None:
        toml = self._fleet.toml
        listed = ", ".join(f'"{target}"' for target in targets)
        toml.write_text(re.sub(r"target = .*", f"target = [{listed}]", toml.read_text()))

    def _keep_running(self, living: Future[None]) -> None:
        """Start again what was killed, or ended and would be started again by whoever looks after it."""
        for replica in self._replicas:
            replica.keep_running()
        if living.done():
            living.result()  # raises what the clients found wrong
        if self._client.poll() not in {None, 0}:
            self._start_client()

    def _start_client(self, *, another: bool = False) -> None:
        """Have devices issued; the same command goes on where it was, until it has made them all."""
        self._runs += another
        command = [*OTAHSM, "device", "issue", "--count", str(self._devices), "--patience", "60", "--json"]
        self._client = subprocess.Popen(command, cwd=self._fleet.folder, stdout=self._log, stderr=self._log)

    def _wait(self) -> None:
        """Let some time pass; mostly until shortly after the token was asked for a signature."""
        time.sleep(self._random.uniform(0.02, MOST_SECONDS_BETWEEN_KILLS))
        if self._random.random() < AIMED:
            before, deadline = self._token.log.stat().st_size, time.monotonic() + MOST_SECONDS_TO_AIM
            while self._token.log.stat().st_size == before and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(self._random.uniform(0, MOST_SECONDS_AFTER))

    def _kill_client(self) -> bool:
        """Kill it; tell whether it had not come to its end by itself."""
        self._client.kill()
        return self._client.wait() != 0

    def _victims(self) -> list[tuple[str, Callable[[], bool]]]:
        replica = self._random.choice(self._replicas)

        def kill_daemon() -> bool:
            replica.kill()
            replica.start()
            return True

        def kill_database() -> bool:
            assert self._server is not None
            self._server.kill()
            time.sleep(self._random.uniform(0, 1))
            self._server.start()
            return True

        victims: list[tuple[str, Callable[[], bool]]] = [
            ("client", self._kill_client),
            ("daemon", kill_daemon),
            ("signer", lambda: replica.kill_signer(self._random)),
            ("preparer", lambda: replica.kill_preparer(self._random)),
        ]
        return victims + [("database", kill_database)] * (self._server is not None)


def _der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


@contextlib.contextmanager
def _server_for(engine: str) -> Iterator[PostgresServer | None]:
    if engine == "sqlite":
        yield None
        return
    server = PostgresServer()
    try:
        yield server
    finally:
        server.remove()


def main() -> None:
    """Run a storm from the command line."""
    parser = argparse.ArgumentParser(description="Kill everything at random while devices are issued.")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--devices", type=int, default=20_000, help="at least so many devices")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="storm-", dir=Path.cwd()))
    with _server_for(arguments.engine) as server:
        fleet = Fleet(folder / "fleet")
        create(fleet.folder, free_port())
        with behind_shim(fleet, compile_shim(folder)) as token:
            storm = Storm(token, server, arguments.devices, random.Random(arguments.seed))
            storm.rage(arguments.kills)
            books = storm.check()
    shutil.rmtree(folder)  # if the storm fails, what it leaves is worth a look
    killed = ", ".join(f"{count} x {name}" for name, count in sorted(storm.killed.items()))
    minutes = (time.monotonic() - started) / 60
    print(f"{arguments.engine}: {storm.killed.total()} kills ({killed}) in {minutes:.1f} minutes\n{books}")


if __name__ == "__main__":
    main()
