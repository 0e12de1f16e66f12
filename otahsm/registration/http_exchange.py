"""HTTP/1.1 requests with a time limit for the whole exchange, and a size limit for responses.

Connections are reused. Redirects are not followed, since their targets are not configured. TLS is always
verified.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import queue
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import SplitResult

MAX_BODY_BYTES: Final = 65536
LONGEST_WAIT: Final = 86400.0  # seconds, the upper limit for Retry-After
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request.

    Attributes:
        method: such as "PUT".
        target: path and query.
        headers: the headers by name.
        body: the JSON.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response.

    Attributes:
        status: the HTTP status; 0 if there was no response.
        text: the status line and the body, or why there is no response.
        retry_after: the seconds to wait before the next attempt, if the server gave any.
        location: the target of a redirect, without its query.
    """

    status: int
    text: str
    retry_after: float | None = None
    location: str = ""


class TlsError(Exception):
    """The server's certificate is not trusted, or the TLS handshake failed."""


class Exchanges:
    """Exchanges with one server. It is thread-safe.

    Args:
        server: an http or https URL, of which only scheme, host and port are used.
        tls: verifies the server, for https.
        seconds: the time limit of a request, from the connection to the end of the response.
    """

    def __init__(self, server: SplitResult, tls: ssl.SSLContext | None, seconds: float) -> None:
        self._host, self._port = server.hostname or "", server.port
        self._tls = tls
        self._seconds = seconds
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()

    def close(self) -> None:
        """Close the idle connections."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def make(self, request: HttpRequest) -> HttpResponse:
        """Send a request, and return the response; its status is 0 if there was none.

        Raises:
            TlsError: nothing was sent.
        """
        connection, kept = self._connection()
        try:
            return self._make(connection, request)
        except TimeoutError:
            connection.close()
            return HttpResponse(0, f"no answer within {self._seconds:g} s")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if kept:  # the server has closed this one, and perhaps all that are idle
                self.close()
                return self.make(request)
            reason = getattr(error, "strerror", None) or "the connection broke, or this is not HTTP"
            return HttpResponse(0, f"no answer: {reason}")

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection, and whether it was used before."""
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait(), True
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._seconds), False
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=self._seconds, context=self._tls
        )
        return connection, False

    def _make(self, connection: http.client.HTTPConnection, request: HttpRequest) -> HttpResponse:
        deadline = time.monotonic() + self._seconds
        if connection.sock is None:
            _connect(connection)
        connection.sock.settimeout(_left(deadline))

        def timed(sock: socket.socket, *arguments: Any, **options: Any) -> http.client.HTTPResponse:
            return http.client.HTTPResponse(_Timed(sock, deadline), *arguments, **options)  # type: ignore[arg-type]

        connection.response_class = timed  # type: ignore[assignment]
        connection.request(request.method, request.target, request.body, dict(request.headers))
        with connection.getresponse() as response:
            body = _read(response)
            whole = response.isclosed() or response.length == 0
        if whole and connection.sock is not None:
            self._idle.put(connection)
        else:
            connection.close()
        return _answer(response, body)


def _connect(connection: http.client.HTTPConnection) -> None:
    """Connect. Raises OSError, or TlsError if a retry can't help."""
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        raise TlsError(f"its certificate is not trusted: {error.verify_message}") from None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise  # it was closed
    except ssl.SSLError as error:
        raise TlsError(f"no TLS: {error.reason or 'the handshake failed'}") from None


def _read(response: http.client.HTTPResponse) -> bytes:
    """Return the body as far as it was received; it is only shown to users."""
    body = b""
    with contextlib.suppress(OSError, http.client.HTTPException):
        while len(body) < MAX_BODY_BYTES and (piece := response.read1(MAX_BODY_BYTES - len(body))):
            body += piece
    return body


def _answer(response: http.client.HTTPResponse, body: bytes) -> HttpResponse:
    text = f"{response.status} {response.reason}"
    if body:
        text += f": {body.decode(errors='replace')}"
    location = response.getheader("Location", "").partition("?")[0]
    return HttpResponse(response.status, text, _retry_after(response.getheader("Retry-After", "")), location)


def _retry_after(value: str) -> float | None:
    """Parse the header (RFC 9110, section 10.2.3): seconds, or a date."""
    if _SECONDS.fullmatch(value.strip()):
        return min(float(value), LONGEST_WAIT)
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Timed:
    """A socket that can only be read until a deadline, so that a slow server can't keep it open."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._deadline))


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open when the connection is closed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
