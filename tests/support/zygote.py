"""Runs `otahsm` commands in processes that have loaded it already: hundreds of tests run one.

A process loads all of otahsm's modules, and nothing else happens in it: no thread, no connection, no token.
For each command it forks, and the child is an `otahsm` of its own, with its own folder, environment and
output. Only the loading is saved. Daemons, and commands that are killed, are started as users start them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
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

MODULES = ("otahsm.authority", "otahsm.install.ssh")  # what commands load while they run


_starting = threading.Lock()  # some tests run commands in threads, and one such process is enough


def start() -> Path:
    """Start the process that loads the modules, once; return where it listens. It ends with this one."""
    with _starting:
        return _start()


@functools.cache
def _start() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="otahsm-zygote-"))
    address = folder / "socket"
    ours, its = os.pipe()  # it ends when nobody holds the other end any more
    process = subprocess.Popen([sys.executable, "-P", __file__, str(address), str(ours)], pass_fds=[ours])
    os.close(ours)
    while not address.exists():
        assert process.poll() is None, "the process that runs commands does not start"
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
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        Path(os.devnull).open("rb") as nothing,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection,
    ):
        connection.settimeout(timeout)
        connection.connect(str(start()))
        request = {"words": list(words), "folder": str(folder), "environment": dict(environment)}
        payload = tempfile.TemporaryFile()  # noqa: SIM115 - a request may be longer than a packet
        with payload:
            payload.write(json.dumps(request).encode())
            payload.flush()
            descriptors = [stream.fileno() for stream in (nothing, out, err, payload)]
            socket.send_fds(connection, [b"run"], descriptors)
            pid = int(connection.recv(64))
            try:
                status = int(connection.recv(64))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(words), timeout) from None
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode().replace("\r\n", "\n"))
    return subprocess.CompletedProcess(["otahsm", *words], status, *texts)


def serve(address: str, parent: int) -> None:
    """Load the modules, and fork for each connection until the parent is gone."""
    import gc  # noqa: PLC0415
    import importlib  # noqa: PLC0415
    import select  # noqa: PLC0415

    from otahsm.cli.commands import COMMANDS  # noqa: PLC0415
    from otahsm.cli.lazy import every_command  # noqa: PLC0415

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as for commands; a daemon is not run here
    for module in MODULES:
        importlib.import_module(module)
    for _, command in every_command(COMMANDS):
        command.load()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address + ".new")
    listener.listen(64)
    Path(address + ".new").rename(address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    while True:
        ready, _, _ = select.select([listener.fileno(), parent], [], [])
        if parent in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            os.close(parent)
            answer(connection)
            os._exit(0)
        connection.close()


def answer(connection: socket.socket) -> None:
    """Run one command in a child; tell its pid, and its status when it has ended."""
    _, descriptors, _, _ = socket.recv_fds(connection, 16, 4)
    pid = os.fork()
    if pid == 0:
        connection.close()
        be_otahsm(descriptors)
    connection.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def be_otahsm(descriptors: Sequence[int]) -> None:
    """Become the command, and end as it ends."""
    from otahsm.cli import main  # noqa: PLC0415

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
    status = 1
    try:
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
    serve(sys.argv[1], int(sys.argv[2]))
