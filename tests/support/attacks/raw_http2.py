"""An HTTP/2 connection that sends what it is told to, and believes in no limits."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from otahsm.client import ClientTls

from support.harness import READY_SECONDS

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SECONDS: Final = READY_SECONDS
ISSUE: Final = "/otahsm.v1.IssuanceService/IssueCertificate"
STREAM: Final = "/otahsm.v1.IssuanceService/IssueCertificates"
HEALTH: Final = "/grpc.health.v1.Health/Check"
WATCH: Final = "/grpc.health.v1.Health/Watch"
REFLECTION: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

Header = tuple[str | bytes, str | bytes]


def connect(address: str) -> socket.socket:
    """Open a TCP connection."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def context_of(tls: ClientTls) -> ssl.SSLContext:
    """Say hello as a client of the daemon's does."""
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.check_hostname = False
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols(["h2"])
    return context


def in_message(payload: bytes, *, compressed: bool = False, announced: int | None = None) -> bytes:
    """Put gRPC's five octets before a message; they may lie about its length."""
    return struct.pack(">BI", compressed, len(payload) if announced is None else announced) + payload


class RawConnection:
    """A connection of a client whose certificate is good, and who is not."""

    def __init__(
        self,
        address: str,
        tls: ClientTls | ssl.SSLContext,
        *,
        window: int = 2**31 - 1,
        acknowledge: bool = True,
    ) -> None:
        context = tls if isinstance(tls, ssl.SSLContext) else context_of(tls)
        self.socket = context.wrap_socket(connect(address))
        self.next_stream = 1
        self._encoder = Encoder()
        self._received = b""
        settings = SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: window})
        self.socket.sendall(PREFACE + settings.serialize())
        if acknowledge:  # before that the daemon's window is small
            next(frame for frame in self.frames() if isinstance(frame, SettingsFrame))
            self.send(SettingsFrame(0, flags=["ACK"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *frames: Frame) -> None:
        """Write frames at once."""
        self.socket.sendall(b"".join(frame.serialize() for frame in frames))

    def try_to_send(self, *frames: Frame) -> bool:
        """Write frames; tell whether somebody was there to take them."""
        try:
            self.send(*frames)
        except OSError:
            return False
        return True

    def headers(
        self, path: str | bytes = STREAM, *more: Header, end: bool = False, stream: int | None = None
    ) -> HeadersFrame:
        """Make the frame that opens a call; it has the number of the next stream."""
        if stream is None:
            stream, self.next_stream = self.next_stream, self.next_stream + 2
        fields: list[Header] = [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *more,
        ]
        flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
        return HeadersFrame(stream, self._encoder.encode(fields), flags=flags)

    def call(self, path: str, message: bytes, *more: Header, end: bool = True) -> int:
        """Make a call with one message; return its stream."""
        headers = self.headers(path, *more)
        self.send(headers)
        self.write(headers.stream_id, message, end=end)
        return headers.stream_id

    def write(self, stream: int, octets: bytes, *, end: bool = False) -> None:
        """Send a stream's data, in frames of the usual size, whatever window there is."""
        parts = [octets[at : at + 16384] for at in range(0, len(octets), 16384)] or [b""]
        self.send(*(DataFrame(stream, part) for part in parts[:-1]))
        self.send(DataFrame(stream, parts[-1], flags=["END_STREAM"] if end else []))

    def write_as_allowed(self, stream: int, octets: bytes) -> None:
        """Send a stream's first data, as the daemon's window for the stream and the connection allows."""
        windows = {0: 65535, stream: 65535}
        at = 0
        while at < len(octets):
            while (room := min(*windows.values(), 16384)) <= 0:
                frame = next(self.frames())
                if isinstance(frame, WindowUpdateFrame) and frame.stream_id in windows:
                    windows[frame.stream_id] += frame.window_increment
            part = octets[at : at + room]
            self.send(DataFrame(stream, part))
            at += len(part)
            for key in windows:
                windows[key] -= len(part)

    def reset(self, stream: int) -> RstStreamFrame:
        """Make the frame that cancels a call."""
        return RstStreamFrame(stream, error_code=8)

    def frames(self, seconds: float = SECONDS) -> Iterator[Frame]:
        """Read frames until the daemon closes the connection, or says nothing for so long (TimeoutError)."""
        self.socket.settimeout(seconds)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while True:
                while (frame := self._next_frame()) is None:
                    octets = self.socket.recv(65536)
                    if not octets:
                        return
                    self._received += octets
                yield frame

    def _next_frame(self) -> Frame | None:
        if len(self._received) < 9:
            return None
        frame, length = Frame.parse_frame_header(memoryview(self._received[:9]))
        if len(self._received) < 9 + length:
            return None
        frame.parse_body(memoryview(self._received[9 : 9 + length]))
        self._received = self._received[9 + length :]
        return frame

    def seconds_until_closed(self, at_most: float = SECONDS) -> float:
        """Read until the daemon closes the connection; return how long that took."""
        began = time.monotonic()
        for _ in self.frames(at_most):
            if time.monotonic() - began > at_most:
                raise TimeoutError
        return time.monotonic() - began

    def wide_open(self) -> None:
        """Let the daemon send as much as it wants."""
        self.send(WindowUpdateFrame(0, window_increment=2**31 - 1 - 65535))
