"""Runs `otahsm` in processes that have loaded it already: hundreds of tests run a command or a daemon.

A process loads all of otahsm's modules, and nothing else happens in it: no thread, no connection, no token.
For each command and daemon it forks, and the child is an `otahsm` of its own, with its own folder,
environment and output. Only the loading is saved, a third of a daemon's start. What a daemon starts itself,
and what runs under another program or as a service, is started as users start it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

COMMANDS = "commands"
DAEMONS = "daemons"
# What they load while they run.
MODULES = {
    COMMANDS: ("otahsm.authority", "otahsm.install.ssh", "rich.status"),
    DAEMONS: ("otahsm.cli.commands.serve", "otahsm.daemon.app", "cryptography.hazmat.backends.openssl"),
}
# What nearly every one loads when it reads its arguments and its configuration.
READING = ("encodings.utf_8_sig", "pydantic.dataclasses", "pydantic.type_adapter", "re2", "typer._adapters")


_ASKING_SECONDS = 30  # from a connection to what it asks for, which follows at once
_starting = threading.Lock()  # some tests run commands in threads, and one such process is enough


def start(kind: str) -> Path:
    """Start the process that loads the modules, once; return where it listens. It ends with this one."""
    with _starting:
        return _start(kind)


@functools.cache
def _start(kind: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="otahsm-zygote-"))
    address = folder / "socket"
    ours, its = os.pipe()  # it ends when nobody holds the other end any more
    environment = {**os.environ}
    environment.pop("GRPC_VERBOSITY", None)  # otahsm's client sets it, when a test has loaded it here
    if kind == COMMANDS:
        environment["GRPC_VERBOSITY"] = "NONE"
    command = [sys.executable, "-P", __file__, kind, str(address), str(ours)]
    process = subprocess.Popen(command, pass_fds=[ours], env=environment)
    os.close(ours)
    while not address.exists():
        assert process.poll() is None, "the process that loads otahsm does not start"
        time.sleep(0.01)

    def end() -> None:
        os.close(its)
        process.wait(30)
        shutil.rmtree(folder)

    atexit.register(end)
    return address


def run_command(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `otahsm` with some arguments, as `subprocess.run` would."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = ForkedProcess(COMMANDS, words, folder, environment, (out, err))
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode().replace("\r\n", "\n"))
    return subprocess.CompletedProcess(["otahsm", *words], status, *texts)


def start_command(words: Sequence[str], folder: Path) -> ForkedProcess:
    """Start `otahsm` with some arguments, and don't wait for it: to be killed. What it prints is lost."""
    with Path(os.devnull).open("wb") as nothing:
        return ForkedProcess(COMMANDS, words, folder, os.environ, (nothing, nothing))


def write_launcher(folder: Path) -> None:
    """Write an `otahsm` for a PATH, which shells run as the real one."""
    launcher = folder / "otahsm"
    code = "\n".join(
        (
            "import json, os, signal, socket, sys",
            inspect.getsource(_launch),
            f"_launch({str(start(COMMANDS))!r})",
        )
    )
    launcher.write_text(f"#!{sys.executable} -IS\n{code}\n")
    launcher.chmod(0o755)


def _launch(address: str) -> None:
    """Be the launcher, in a process that has loaded nothing else."""
    with os.scandir("/proc/self/fd") as descriptors:
        if len(list(descriptors)) > 4:  # the three, and the folder: a shell's <(...) is only in this process
            os.execv(sys.executable, [sys.executable, "-P", "-m", "otahsm", *sys.argv[1:]])  # noqa: S606
    request = os.memfd_create("request")
    words = {"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
    os.write(request, json.dumps(words).encode())
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    socket.send_fds(connection, [b"run"], [0, 1, 2, request])
    pid = int(connection.recv(64))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    status = int(connection.recv(64))
    sys.exit(status if status >= 0 else 128 - status)


class ForkedProcess:
    """An `otahsm` that runs, as `subprocess.Popen` would have it.

    Args:
        kind: which process forks it.
        words: its arguments.
        folder: where it runs.
        environment: its environment, but for what the loader of programs and Python read at their start.
        output: its standard output and error.
    """

    def __init__(
        self,
        kind: str,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        output: tuple[IO[Any], IO[Any]],
    ) -> None:
        self.args = ["otahsm", *words]
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(str(start(kind)))
        request = {"words": list(words), "folder": str(folder), "environment": dict(environment)}
        # A request may be longer than a packet.
        with Path(os.devnull).open("rb") as nothing, tempfile.TemporaryFile() as payload:
            payload.write(json.dumps(request).encode())
            payload.flush()
            descriptors = [stream.fileno() for stream in (nothing, *output, payload)]
            socket.send_fds(self._connection, [b"run"], descriptors)
            self.pid = int(self._connection.recv(64))

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its status, or the negative number of the signal that ended it."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(self._connection.recv(64))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return its status if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it runs."""
        self.send_signal(signal.SIGKILL)


class Child(NamedTuple):
    """An `otahsm` that runs, and a connection to who has started it."""

    pid: int
    asker: socket.socket

    def fileno(self) -> int:
        """Return what can be read when who has started it is gone."""
        return self.asker.fileno()


def load(kind: str) -> None:
    """Load the modules."""
    import gc  # noqa: PLC0415
    import importlib  # noqa: PLC0415

    from otahsm.cli import commands, lazy  # noqa: PLC0415
    from otahsm.config.policy import PolicyConfig  # noqa: PLC0415
    from otahsm.config.sections import Config  # noqa: PLC0415

    for module in (*MODULES[kind], *READING):
        importlib.import_module(module)
    for model in (Config, PolicyConfig):  # they build their validators at their first use
        model.model_rebuild()
    if kind == COMMANDS:
        for _, command in lazy.every_command(commands.COMMANDS):
            command.load()
    gc.freeze()


def serve(address: str, parent: int) -> None:
    """Fork for each connection until the parent is gone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address + ".new")
    listener.listen(64)
    Path(address + ".new").rename(address)
    children: dict[int, Child] = {}  # by a descriptor that can be read when it has ended
    while True:
        watched: list[Any] = [listener, parent, *children, *children.values()]
        ready = set(select.select(watched, [], [])[0])
        if parent in ready:
            break
        for ended in ready & children.keys():
            answer(children.pop(ended))
            os.close(ended)
        for child in children.values():
            if child in ready:
                os.kill(child.pid, signal.SIGKILL)
        ours = [listener.fileno(), parent, *children, *map(Child.fileno, children.values())]
        if listener in ready and (another := fork(listener, ours)):
            children[os.pidfd_open(another.pid)] = another
    for child in children.values():
        os.kill(child.pid, signal.SIGKILL)


def fork(listener: socket.socket, ours: Sequence[int]) -> Child | None:
    """Fork one, without our descriptors; send its pid. Return None if nobody asks in time."""
    asker, _ = listener.accept()
    try:
        asker.settimeout(_ASKING_SECONDS)
        _, descriptors, _, _ = socket.recv_fds(asker, 16, 4)
    except TimeoutError:
        descriptors = []
    if not descriptors:
        asker.close()
        return None
    pid = os.fork()
    if pid == 0:
        for number in (asker.fileno(), *ours):
            os.close(number)
        be_otahsm(descriptors)
    for number in descriptors:
        os.close(number)
    with contextlib.suppress(OSError):
        asker.send(str(pid).encode())
    return Child(pid, asker)


def answer(child: Child) -> None:
    """Send the status of one that has ended."""
    _, status = os.waitpid(child.pid, 0)
    with child.asker, contextlib.suppress(OSError):
        child.asker.send(str(os.waitstatus_to_exitcode(status)).encode())


def be_otahsm(descriptors: Sequence[int]) -> None:
    """Become an `otahsm`, and end as it ends."""
    from otahsm.cli import main  # noqa: PLC0415

    status = 1
    try:
        *standard, request = descriptors
        os.lseek(request, 0, os.SEEK_SET)
        with os.fdopen(request, "rb") as file:
            asked = json.loads(file.read())
        for number, descriptor in enumerate(standard):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["otahsm", *asked["words"]]
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as Python itself shows what nobody has caught
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    load(sys.argv[1])
    serve(sys.argv[2], int(sys.argv[3]))
