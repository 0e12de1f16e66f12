"""What a process that parses CSRs can do once it was taken over: nothing. Its work it can do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from otahsm.config.subject import parse_subject
from otahsm.errors import RequestRefusedError
from otahsm.line.keys import make_device_key
from otahsm.pki.certificate import Binding
from otahsm.pki.keytypes import KeyType
from otahsm.pki.profile import Profile
from otahsm.preparation.codec import Task, decode_answers, encode_setup, encode_tasks
from otahsm.preparation.pool import Preparers
from otahsm.preparation.preparer import start
from otahsm.workers import frames
from otahsm.workers.frames import Kind

from fuzz.targets import CORPUS
from support.attacks.hostile import HOSTILE
from support.harness import READY_SECONDS

TESTS: Final = Path(__file__).parents[1]
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
REFUSED: Final = {
    "death signal": str(int(signal.SIGKILL)),  # a change of user clears it
    "open a file": "EMFILE",
    "make a file": "EMFILE",
    "write to a file that is open": "EFBIG",
    "make a socket": "EMFILE",
    "make a pair of sockets": "EMFILE",
    "connect to a socket": "EMFILE",
    "double a descriptor": "EINVAL",
    "fork": "EAGAIN",
    "run a program": "EMFILE",
    "start a thread": "RuntimeError can't start new thread",
    "take 2 GiB": "ENOMEM",
    "trace the daemon": "EPERM",
    "trace another worker": "EPERM",
    "become root": "EPERM",
    "raise a limit": "ValueError not allowed to raise maximum limit",
}
PROFILES: Final = {
    "strict": Profile(),
    "lenient": Profile(csr_extras="ignore", subject=parse_subject(("O=Acme", "OU={plant}"))),
}


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    """A socket that anybody may connect to."""
    path = tmp_path / "socket"
    tmp_path.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        listener.listen()
        yield path


def what_workers_do(socket: Path, mode: str) -> dict[str, Any]:
    file = socket.with_name("file")
    file.write_text("a secret")
    command = [sys.executable, "-P", "-m", "support.workers.hostile_pool", str(file), str(socket), mode]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=READY_SECONDS, env=ENVIRONMENT, check=False
    )
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


def test_a_worker_that_was_taken_over_can_reach_nothing(listening: Path) -> None:
    said = what_workers_do(listening, "confined")
    assert said["results"] == REFUSED
    assert listening.with_name("file").read_text() == "a secret"
    assert not listening.with_name("new").exists()
    for facts in said["facts"]:
        user = os.geteuid() or 65534
        assert facts["Uid"] == " ".join([str(user)] * 4)
        assert facts["Groups"] == "" or os.geteuid() != 0
        assert {facts[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
        assert facts["NoNewPrivs"] == "1"
        assert {facts[f"Max {name}"] for name in ("open files", "processes", "file size")} == {"0 0"}
        assert facts["Max address space"] == f"{2**30} {2**30}"
        assert facts["leads its session"] == "True"


def test_another_worker_could_do_all_that(listening: Path) -> None:
    results = what_workers_do(listening, "free")["results"]
    assert len(results) == len(REFUSED) - 3
    del results["death signal"]
    assert set(results.values()) == {"done"}


def test_root_of_a_namespace_without_nobody_loses_its_capabilities() -> None:
    as_root_of_itself = ["unshare", "--user", "--map-root-user", "--"]
    if subprocess.run([*as_root_of_itself, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this container lets nobody have namespaces")
    code = (
        "from otahsm.system.confinement import drop_privileges; drop_privileges();"
        "print(open('/proc/self/status').read())"
    )
    ran = subprocess.run(
        [*as_root_of_itself, sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    status = dict(line.split(":\t", 1) for line in ran.stdout.splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


@cache
def csrs() -> list[bytes]:
    """Return CSRs of every kind: of each key type, each that is refused, and what fuzzing has found."""
    good = [make_device_key("device-1", key_type).csr for key_type in get_args(KeyType)]
    found = [path.read_bytes() for name in ("csr", "csr_signed") for path in (CORPUS / name).iterdir()]
    return [*good, *(case.build() for case in HOSTILE.values()), *found]


def shown(answer: object) -> object:
    if isinstance(answer, RequestRefusedError):
        return answer.violations, answer.hint
    assert isinstance(answer, Binding), answer
    return answer


async def test_a_preparer_needs_nothing_that_it_gave_up() -> None:
    tasks = [Task(profile, "", csr) for profile in PROFILES for csr in csrs()]
    free = decode_answers(tasks, list(start(encode_setup(PROFILES))(encode_tasks(tasks))))
    lost: list[object] = []
    pool = Preparers(PROFILES, size=1, report=lambda event, *what: lost.append((event, *what)))
    await pool.start()
    try:
        confined = await pool.prepare(tasks)
    finally:
        await pool.close()
    assert len(lost) == 1, lost  # it was ready
    assert list(map(shown, confined)) == list(map(shown, free))
    assert {type(answer) for answer in confined} == {Binding, RequestRefusedError}


def test_a_preparer_opens_no_file_for_any_csr() -> None:
    # The kernel would refuse it. Not all that Python refuses to do then is an error that shows.
    tasks = [Task(profile, "", csr) for profile in PROFILES for csr in csrs()]
    messages = frames.encode(Kind.SETUP, encode_setup(PROFILES)) + frames.encode(
        Kind.REQUEST, encode_tasks(tasks)
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "support.workers.watched_preparer"],
        input=messages,
        capture_output=True,
        timeout=READY_SECONDS,
        env=ENVIRONMENT,
        check=False,
    )
    assert ran.stdout.decode().split("\n") == [str(3 * len(tasks)), ""], ran.stderr.decode()
