"""A PostgreSQL server of the tests' own, on a free port; it keeps nothing when they are done."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from support.harness import Fleet, eventually, free_port

USER, PASSWORD = "otahsm", "a password: with / and @"


class PostgresServer:
    """A cluster in a temporary folder. It refuses to run as root, so root runs it as `postgres`.

    Args:
        vacuums: whether it does so by itself. Of hundreds of databases, each of which lives for seconds, it
            would visit one every second.
    """

    def __init__(self, *, vacuums: bool = True) -> None:
        self._vacuums = vacuums
        (self._programs,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
        self._folder = Path(tempfile.mkdtemp(prefix="otahsm-postgres-"))
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self.port = free_port()
        self._databases = 0
        self._secrets = Path(tempfile.mkdtemp(prefix="otahsm-postgres-secrets-"))  # not the server's: ours
        self._secrets.chmod(0o711)
        self.password_file = self._secrets / "password"
        self.password_file.write_text(PASSWORD + "\n")
        self.password_file.chmod(0o644)
        self._run("initdb", "--pgdata", self._data, "--username", USER, "--pwfile", str(self.password_file),
                  "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale")  # fmt: skip
        self.password_file.chmod(0o600)  # initdb has read it
        self.start()
        with self.connect("postgres") as connection:
            connection.execute(f"ALTER ROLE {USER} PASSWORD '{_verifier(PASSWORD)}'")

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        # Only a machine that falls loses what was not flushed; what is killed here is processes.
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -c unix_socket_directories= -c fsync=off"
        options += f" -c autovacuum={'on' if self._vacuums else 'off'} -c jit=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "start", "--pgdata", self._data, "--wait", "--log", log, "--options", options)

    def kill(self) -> None:
        """Kill -9 every process of it, as a power cut would."""
        pid = int(Path(self._data, "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(process, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), "the server does not die")
        Path(self._data, "postmaster.pid").unlink(missing_ok=True)

    def remove(self) -> None:
        """Stop it and remove what it wrote."""
        self._run("pg_ctl", "stop", "--pgdata", self._data, "--mode", "immediate")
        shutil.rmtree(self._folder)
        shutil.rmtree(self._secrets)

    def create_database(self, like: str = "template1") -> str:
        """Make a database, an empty one or like another; return its URL, without the password."""
        self._databases += 1
        name = f"ledger{self._databases}"
        with self.connect("postgres") as connection:
            # Copying files takes a third of the processor time of writing each of their pages to the log.
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {like} STRATEGY FILE_COPY")
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def connect(self, name: str) -> psycopg.Connection[Any]:
        """Connect to a database of it, as an administrator may."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, dbname=name, user=USER, password=PASSWORD, autocommit=True
        )

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups"]
        command = [*(as_user if self._user else []), str(self._programs / program), *arguments]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL)


def _verifier(password: str) -> str:
    """Return what the server keeps of a password: RFC 5803, with one iteration for thousands of logins."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    kept = [
        base64.b64encode(value).decode()
        for value in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))
    ]
    return "SCRAM-SHA-256$1:{}${}:{}".format(*kept)


def on_postgres(fleet: Fleet, server: PostgresServer) -> Fleet:
    """Give a fleet an empty ledger there."""
    fleet.edit(
        'path = "ledger/ledger.sqlite3"',
        f'url = "{server.create_database()}"\npassword_file = "{server.password_file}"',
    )
    return fleet
