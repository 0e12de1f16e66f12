"""A daemon that is killed again and again."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
from pathlib import Path

from otahsm.errors import ExitCode

from support.harness import OTAHSM, READY_SECONDS, Fleet, command_line, eventually, free_port, is_running


class Replica:
    """A daemon that is started again whenever it is killed."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.folder = fleet.folder
        self.port = free_port()
        self.toml = f"replica-{number}.toml"
        text = re.sub(r'listen = ".*"', f'listen = "127.0.0.1:{self.port}"', fleet.toml.read_text())
        (self.folder / self.toml).write_text(text)
        self._log = (self.folder / f"replica-{number}.log").open("a+b")
        token = fleet.config.token
        assert token is not None
        self._signers = token.signers
        self.start()

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def start(self) -> None:
        self._log_begins = self._log.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(
            [*OTAHSM, "serve", "--config", self.toml], cwd=self.folder, stderr=self._log
        )
        self._killed_signers = 0

    def keep_running(self) -> None:
        """Do what a service manager does: start it again, unless it says that this is of no use."""
        status = self.process.poll()
        if status is not None:
            assert status == ExitCode.UNAVAILABLE, f"{self.toml} ended with {status}"
            self.start()

    def kill(self) -> None:
        """Kill it; its workers must not outlive it."""
        workers = [*self._workers("signer"), *self._workers("preparer")]
        self.process.kill()
        self.process.wait()
        eventually(lambda: not any(map(is_running, workers)), "workers outlive their daemon")

    def kill_signer(self, random: random.Random) -> bool:
        """Kill a signer; tell whether that could be done.

        None is killed while one may be logging in: the PIN guard counts such kills.
        """
        lost = self._logged("signer.lost")
        ready = lost >= self._killed_signers and self._logged("signer.ready") == self._signers + lost
        killed = ready and self._kill_one("signer", random)
        self._killed_signers += killed
        return killed

    def kill_preparer(self, random: random.Random) -> bool:
        """Kill a preparer; tell whether that could be done."""
        return self._kill_one("preparer", random)

    def stop(self) -> int:
        """Ask it to stop, and return its exit status."""
        eventually(self._is_listening, f"{self.toml} does not listen")
        self.process.terminate()
        return self.process.wait(READY_SECONDS)

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.wait()
        self._log.close()

    def _kill_one(self, kind: str, random: random.Random) -> bool:
        pids = self._workers(kind)
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(random.choice(pids), signal.SIGKILL)
            return True
        return False

    def _workers(self, kind: str) -> list[int]:
        with contextlib.suppress(OSError):
            listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
            return [pid for pid in map(int, listed.split()) if kind in command_line(pid)]
        return []

    def _is_listening(self) -> bool:
        self.keep_running()
        return self._logged("daemon.listening") > 0

    def _logged(self, event: str) -> int:
        """Count an event since the daemon was started last."""
        self._log.seek(self._log_begins)
        return self._log.read().count(f'"event": "{event}"'.encode())
