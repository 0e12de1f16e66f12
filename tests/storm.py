"""A storm: daemons, workers, the client and the database are killed at random while devices are issued.

    .venv/bin/python tests/storm.py --devices 20000 --kills 200

`make soak` runs this for both kinds of ledger; a short one is among the tests. What is killed is killed with
SIGKILL, at a random moment, and started again as an operator or a service manager would. In the end
every device must have exactly one certificate, and the books must balance: see `check`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.errors import ExitCode
from otahsm.quickstart import create

from harness import OTAHSM, Fleet, command_line, eventually, free_port, is_running
from ledger_reader import certificates, rows
from postgres import PostgresServer

CALM_SECONDS: Final = 3.0  # a signer that is younger may be logging in: the PIN guard counts such kills
MOST_SECONDS_BETWEEN_KILLS: Final = 1.2


class Replica:
    """A daemon that is started again whenever it is killed."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.folder = fleet.folder
        self.port = free_port()
        self.toml = f"replica-{number}.toml"
        text = re.sub(r'listen = ".*"', f'listen = "127.0.0.1:{self.port}"', fleet.toml.read_text())
        (self.folder / self.toml).write_text(text)
        self._log = (self.folder / f"replica-{number}.log").open("a+b")
        self.start()

    def start(self) -> None:
        self._log_begins = self._log.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(
            [*OTAHSM, "serve", "--config", self.toml], cwd=self.folder, stderr=self._log
        )
        self.calm_at = time.monotonic() + CALM_SECONDS

    def keep_running(self) -> None:
        """Do what a service manager does: start it again, unless it says that this is of no use."""
        status = self.process.poll()
        if status is not None:
            assert status == ExitCode.UNAVAILABLE, f"{self.toml} ended with {status}"
            self.start()

    def workers(self, kind: str) -> list[int]:
        with contextlib.suppress(OSError):
            listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
            return [pid for pid in map(int, listed.split()) if kind in command_line(pid)]
        return []

    def stop(self) -> int:
        eventually(self._is_listening, f"{self.toml} does not listen")
        self.process.terminate()
        status = self.process.wait(60)
        self._log.close()
        return status

    def _is_listening(self) -> bool:
        self.keep_running()
        self._log.seek(self._log_begins)
        return b"daemon.listening" in self._log.read()


class Storm:
    """What is killed, and what is counted.

    Args:
        fleet: what is issued for; its configuration is changed.
        server: the PostgreSQL server to keep the ledger in, with two daemons; None: SQLite, and one.
        devices: how many devices are asked for in one run of the command.
        random: decides who is killed, and when.
    """

    def __init__(
        self, fleet: Fleet, server: PostgresServer | None, devices: int, random: random.Random
    ) -> None:
        self._fleet = fleet
        self._server = server
        self._devices = devices
        self._random = random
        self.killed: Counter[str] = Counter()
        if server is not None:
            self._fleet.edit(
                'path = "ledger/ledger.sqlite3"',
                f'url = "{server.create_database()}"\npassword_file = "{server.password_file}"',
            )
        self._replicas = [Replica(self._fleet, number) for number in range(1 if server is None else 2)]
        targets = ", ".join(f'"localhost:{replica.port}"' for replica in self._replicas)
        toml = self._fleet.toml
        toml.write_text(re.sub(r"target = .*", f"target = [{targets}]", toml.read_text()))
        self._client_log = (fleet.folder / "client.log").open("ab")

    def rage(self, kills: int) -> int:
        """Kill so many times while devices are issued; return how many devices were issued."""
        runs = 1
        client = self._start_client()
        while sum(self.killed.values()) < kills:
            time.sleep(self._random.uniform(0.02, MOST_SECONDS_BETWEEN_KILLS))
            for replica in self._replicas:
                replica.keep_running()
            if client.poll() == 0:
                runs += 1
                client = self._start_client()
            name, kill = self._random.choice(self._victims(client))
            if kill():
                self.killed[name] += 1
            if client.poll() not in {None, 0}:
                client = self._start_client()  # the same command: it goes on where it was
        while client.poll() != 0:
            for replica in self._replicas:
                replica.keep_running()
            if client.poll() not in {None, 0}:
                client = self._start_client()
            time.sleep(0.1)
        self._client_log.close()
        return runs * self._devices

    def check(self, devices: int) -> None:
        """Look at the books, and at what the factory has."""
        for replica in self._replicas:
            assert replica.stop() == 0
        folders = [path for path in (self._fleet.folder / "devices").iterdir() if path.is_dir()]
        seen = {folder.name: _der(folder / "client.pem") for folder in folders}
        assert len(seen) == devices
        # Each device has one certificate, and it is the one that its folder has, byte for byte.
        assert certificates(self._fleet) == seen
        everything = rows(self._fleet)
        assert len({row.serial for row in everything}) == len(everything)
        # Every serial that may have been signed was released, or is void: none is unaccounted for.
        assert all((row.certificate is None) == (row.void_reason is not None) for row in everything)
        # And the tree over all of it is what the rows give.
        done = self._fleet.run("ledger", "verify", timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr

    def _start_client(self) -> subprocess.Popen[bytes]:
        command = [*OTAHSM, "device", "issue", "--count", str(self._devices), "--patience", "60", "--json"]
        return subprocess.Popen(
            command, cwd=self._fleet.folder, stdout=self._client_log, stderr=self._client_log
        )

    def _victims(self, client: subprocess.Popen[bytes]) -> list[tuple[str, Callable[[], bool]]]:
        replica = self._random.choice(self._replicas)

        def kill_client() -> bool:
            client.kill()
            return client.wait() != 0

        def kill_daemon() -> bool:
            workers = [*replica.workers("signer"), *replica.workers("preparer")]
            replica.process.kill()
            replica.process.wait()
            eventually(lambda: not any(map(is_running, workers)), "workers outlive their daemon")
            replica.start()
            return True

        def kill_worker(kind: str) -> bool:
            if time.monotonic() < replica.calm_at:
                return False
            pids = replica.workers(kind)
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(pids), signal.SIGKILL)
                replica.calm_at = time.monotonic() + CALM_SECONDS
            return bool(pids)

        def kill_database() -> bool:
            assert self._server is not None
            self._server.kill()
            time.sleep(self._random.uniform(0, 1))
            self._server.start()
            return True

        victims: list[tuple[str, Callable[[], bool]]] = [
            ("client", kill_client),
            ("daemon", kill_daemon),
            ("signer", lambda: kill_worker("signer")),
            ("preparer", lambda: kill_worker("preparer")),
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
    with (
        tempfile.TemporaryDirectory(prefix="storm-", dir=Path.cwd()) as name,
        _server_for(arguments.engine) as server,
    ):
        started = time.monotonic()
        fleet = Fleet(Path(name) / "fleet")
        create(fleet.folder, free_port())
        storm = Storm(fleet, server, arguments.devices, random.Random(arguments.seed))
        devices = storm.rage(arguments.kills)
        storm.check(devices)
        killed = ", ".join(f"{count} x {name}" for name, count in sorted(storm.killed.items()))
        minutes = (time.monotonic() - started) / 60
        print(
            f"{arguments.engine}: {sum(storm.killed.values())} kills ({killed}) in {minutes:.1f} minutes;"
            f" {devices} devices, each with the one certificate that the ledger has"
        )


if __name__ == "__main__":
    main()
