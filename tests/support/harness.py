"""A fleet (token, root, credentials) and daemons that run on it, for tests to use and abuse."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from otahsm.client import Client, ClientTls
from otahsm.config import Config, load_config

from support.zygote import DAEMONS, ForkedProcess, run_command

OTAHSM = (sys.executable, "-P", "-m", "otahsm")
READY_SECONDS = (
    300  # only against what never comes: a busy machine may need a minute for what takes one second
)


def eventually(condition: Callable[[], bool], what: str | Callable[[], str]) -> None:
    """Wait for a state of the world outside; if it does not come, fail and say what is instead."""
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Fleet:
    """A quickstart folder of a test's own."""

    folder: Path

    @property
    def toml(self) -> Path:
        return self.folder / "otahsm.toml"

    @property
    def config(self) -> Config:
        return load_config(self.toml)

    @property
    def root_pem(self) -> Path:
        return self.folder / "ca/fleet-root.pem"

    @property
    def tls(self) -> ClientTls:
        tls = self.folder / "tls"
        return ClientTls(tls / "operator-ca.pem", tls / "client.pem", tls / "client.key")

    def edit(self, old: str, new: str) -> None:
        """Change otahsm.toml; the old text must be there."""
        text = self.toml.read_text()
        assert old in text
        self.toml.write_text(text.replace(old, new))

    def set_signers(self, count: int) -> None:
        """Have its daemon start so many signers."""
        self.toml.write_text(re.sub(r"(?m)^signers = \d+$", f"signers = {count}", self.toml.read_text()))

    def lift_quotas(self) -> None:
        """Let its client revoke, reset, deny and order as much as it likes."""
        path = self.folder / "policy.toml"
        text = path.read_text().replace("\nroles = [", "\nacts_per_day = 1000000\nroles = [", 1)
        path.write_text(f"acts_per_day = 1000000\n{text}")

    def copy_to(self, folder: Path) -> Fleet:
        """Copy it, with its token, into a folder that doesn't exist yet; its daemon takes a free port."""
        shutil.copytree(self.folder, folder)
        for name in ("otahsm.toml", "token/softhsm2.conf"):
            path = folder / name
            path.write_text(path.read_text().replace(str(self.folder), str(folder)))
        copy = Fleet(folder)
        copy.toml.write_text(re.sub(r'listen = ".*"', 'listen = "127.0.0.1:0"', copy.toml.read_text()))
        return copy

    def run(
        self, *arguments: str, timeout: float = READY_SECONDS, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `otahsm` in the fleet's folder."""
        return run_command(arguments, self.folder, {**os.environ, **(environment or {})}, timeout)


@dataclass
class RunningDaemon:
    """An `otahsm serve` of a test's own, and the events that it has logged."""

    fleet: Fleet
    process: subprocess.Popen[bytes] | ForkedProcess
    errors: TextIO
    events: list[dict[str, Any]] = field(default_factory=list)
    other_output: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.errors:
            with self.news:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.other_output.append(line)
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def wait_for(self, event: str, count: int = 1, **fields: object) -> list[dict[str, Any]]:
        """Wait until an event was logged `count` times; return those."""

        def found() -> list[dict[str, Any]]:
            return [
                item
                for item in self.events
                if item["event"] == event and all(item.get(key) == value for key, value in fields.items())
            ]

        with self.news:
            self.news.wait_for(lambda: len(found()) >= count or self.ended, READY_SECONDS)
            assert len(found()) >= count, (event, fields, self.events, self.other_output)
            return found()

    @property
    def address(self) -> str:
        (event,) = self.wait_for("daemon.listening")
        return f"127.0.0.1:{event['address'].rpartition(':')[2]}"

    def configure_client(self) -> None:
        """Make `otahsm device` and `otahsm csr` in the fleet's folder find this daemon."""
        toml = self.fleet.toml
        toml.write_text(re.sub(r'target = ".*"', f'target = "{self.address}"', toml.read_text()))

    def client(self, *, patience: float = 60, tls: ClientTls | None = None) -> Client:
        return Client(self.address, tls or self.fleet.tls, patience=patience)

    def workers(self, module: str) -> list[int]:
        """Return the pids of the daemon's workers of one kind."""
        return [pid for pid in self.children() if module in command_line(pid)]

    def children(self) -> list[int]:
        """Return the pids of all its workers, also of those that are only starting."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def signers(self) -> list[int]:
        return self.workers("otahsm.token.signer")

    def preparers(self) -> list[int]:
        return self.workers("otahsm.preparation.preparer")

    def stop(self) -> int:
        """Ask it to stop, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(READY_SECONDS)
        self.reader.join(READY_SECONDS)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(READY_SECONDS)


def is_running(pid: int) -> bool:
    """Return whether a process lives; one that only waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def orphaned_workers() -> list[int]:
    """Find worker processes whose daemon is gone."""
    orphans = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            pid = int(stat.parent.name)
            if parent == 1 and is_running(pid) and "-m\0otahsm." in command_line(pid):
                orphans.append(pid)
    return orphans


def resident_bytes(pid: int) -> int:
    """How much memory a process has."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


class Stopwatch:
    """Measures how long daemons and a test take, without what they wait for a processor that others have."""

    def __init__(self, *daemons: RunningDaemon) -> None:
        self._pids = (*(daemon.process.pid for daemon in daemons), os.getpid())
        self._began = self._now()

    @property
    def seconds(self) -> float:
        return self._now() - self._began

    def _now(self) -> float:
        return time.monotonic() - sum(map(_waited_for_processor, self._pids))


def _waited_for_processor(pid: int) -> float:
    """Return how long the threads of a process could have run and did not, in seconds."""
    waited = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            waited += int((thread / "schedstat").read_text().split()[1])
    return waited / 1e9


def start_daemon(fleet: Fleet, environment: dict[str, str] | None, within: Sequence[str]) -> RunningDaemon:
    """Start `otahsm serve`: in a process that has loaded it, or as the last words of a command."""
    own = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}  # as for a zygote
    ours, its = os.pipe()
    with os.fdopen(its, "wb") as errors, Path(os.devnull).open("wb") as nothing:
        variables = {**own, **(environment or {})}
        process: subprocess.Popen[bytes] | ForkedProcess
        if within:
            process = subprocess.Popen(
                [*within, *OTAHSM, "serve"],
                cwd=fleet.folder,
                stdin=subprocess.DEVNULL,
                stdout=nothing,
                stderr=errors,
                env=variables,
            )
        else:
            process = ForkedProcess(DAEMONS, ["serve"], fleet.folder, variables, (nothing, errors))
    return RunningDaemon(fleet, process, os.fdopen(ours))


@contextlib.contextmanager
def running(
    fleet: Fleet, environment: dict[str, str] | None = None, within: Sequence[str] = ()
) -> Iterator[RunningDaemon]:
    """Run a daemon on a fleet until the block ends; `within` is a command that runs what follows it."""
    daemon = start_daemon(fleet, environment, within)
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.reader.join(READY_SECONDS)
        daemon.errors.close()
