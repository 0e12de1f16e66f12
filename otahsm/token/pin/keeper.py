"""Keeps a PIN that was typed, so that the daemon has it neither in its memory nor in a descriptor.

The process that asks for the PIN goes on as its keeper, and starts the signers: the daemon sends it one end
of a socket, and it runs `otahsm signer` there, which reads its own configuration, and the PIN in a memory
file (memfd_create(2)) that it inherits. The daemon can't have it run anything else. It ends with the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from otahsm.errors import ConfigError, WorkerLostError
from otahsm.system.hardening import harden
from otahsm.token.pin import TYPED, read_typed
from otahsm.workers.handle import Connection

_TYPED: Final = b"typed"
_START: Final = b"start"


class PinKeeper:
    """The daemon's side: starts signers that have the PIN.

    Args:
        channel: the socket to the process that keeps it.
        process: that process.
    """

    def __init__(self, channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self._channel = channel
        self._process = process  # it ends with the channel

    async def start_signer(self) -> Connection:
        """Start a signer. Raises WorkerLostError: the keeper has ended."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._channel, [_START], [theirs.fileno()])
        except OSError as error:
            ours.close()
            raise WorkerLostError(
                f"can't start a signer: the process that keeps the PIN has ended: {error.strerror}",
                hint="Restart the daemon, and enter the PIN again.",
            ) from error
        return Connection(*await asyncio.open_unix_connection(sock=ours))


_keepers: list[PinKeeper] = []  # at most one: a process asks for a PIN once, when it starts


def ask_for_pin(config: Path) -> None:
    """Ask for the PIN on the terminal, in a process that keeps it for the signers of this one.

    Args:
        config: the signers' configuration.

    Raises:
        ConfigError: there is no terminal, or nothing was typed.
    """
    channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        command = (sys.executable, "-P", "-m", __name__, str(other.fileno()), str(config.absolute()))
        process = subprocess.Popen(command, pass_fds=(other.fileno(),))
    if channel.recv(len(_TYPED)) != _TYPED:
        process.wait()
        channel.close()
        raise ConfigError(
            "pin-source is prompt:, and no PIN was entered",
            hint="Run it on a terminal, or set pin-source to a file, a systemd credential or a command.",
        )
    _keepers.append(PinKeeper(channel, process))


def pin_keeper() -> PinKeeper | None:
    """Return who keeps the PIN, if this process has asked for one."""
    return _keepers[-1] if _keepers else None


def main(descriptor: str, config: str) -> None:
    """Ask for the PIN, and start a signer whenever the daemon says so, until it ends."""
    harden()
    channel = socket.socket(fileno=int(descriptor))
    try:
        pin = read_typed()
    except (ConfigError, EOFError, KeyboardInterrupt):
        sys.exit(1)
    if not pin:
        sys.exit(1)
    # Ctrl-C and SIGTERM go to the whole group: only the daemon decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    file = os.memfd_create("otahsm-pin")
    os.write(file, pin)
    channel.send(_TYPED)
    command = (sys.executable, "-P", "-m", "otahsm", "signer", "--config", config)
    environment = {**os.environ, TYPED: str(file)}
    signers: list[subprocess.Popen[bytes]] = []
    while True:
        said, received, _, _ = socket.recv_fds(channel, len(_START), 1)
        signers = [signer for signer in signers if signer.poll() is None]
        if not said:
            return
        for end in received:
            with contextlib.suppress(OSError):  # the daemon sees the connection end
                signers.append(
                    subprocess.Popen(command, stdin=end, stdout=end, pass_fds=(file,), env=environment)
                )
            os.close(end)


if __name__ == "__main__":
    main(*sys.argv[1:])
