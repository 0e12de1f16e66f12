"""A backend that devices are registered with: a real HTTP(S) server, whose answers a test chooses."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer; `drip` are seconds between its octets, and `raw` is sent in place of it all.

    A server that `hangs_up` closes the connection without having said so.
    """

    status: int = 201
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    drip: float = 0.0
    raw: bytes = b""
    hangs_up: bool = False


_STATUSES = frozenset(HTTPStatus)

Script = Callable[[Seen, int], Reply]


def created(_seen: Seen, _number: int) -> Reply:
    return Reply()


class BackendServer:
    """A server that remembers what it was asked, and answers as its script says.

    The script gets the request, and its number from 1 on. It may wait.
    """

    def __init__(self, script: Script, port: int, tls: tuple[Path, Path] | None) -> None:
        self.script = script
        self.seen: list[Seen] = []
        self.connections = 0
        self.closed = threading.Event()
        self.lock = threading.Lock()
        self._server = _Server(self, port)
        self.port = self._server.server_address[1]
        self.scheme = "http"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def times(self) -> Counter[str]:
        """How often each device was asked for, by the device id in the body."""
        with self.lock:
            return Counter(seen.json["device_id"] for seen in self.seen)

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, backend: BackendServer, port: int) -> None:
        self.backend = backend
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, *_: object) -> None:
        pass  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        with self.server.backend.lock:
            self.server.backend.connections += 1

    def _answer(self) -> None:
        backend = self.server.backend
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            return  # a client that was killed
        seen = Seen(self.command, self.path, dict(self.headers), body)
        with backend.lock:
            backend.seen.append(seen)
            number = len(backend.seen)
        with contextlib.suppress(OSError):
            self._send(backend.script(seen, number))

    do_PUT = do_POST = _answer  # noqa: N815 - the library's names

    def _send(self, reply: Reply) -> None:
        head = "".join(
            f"{name}: {value}\r\n"
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items()
        )
        phrase = HTTPStatus(reply.status).phrase if reply.status in _STATUSES else "Odd"
        answer = reply.raw or f"HTTP/1.1 {reply.status} {phrase}\r\n{head}\r\n".encode() + reply.body
        self.close_connection |= reply.hangs_up or bool(reply.raw)
        if not reply.drip:
            self.wfile.write(answer)
            return
        for octet in answer:
            if self.server.backend.closed.wait(reply.drip):
                break
            self.wfile.write(bytes([octet]))

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def backend_running(
    script: Script = created, *, port: int = 0, tls: tuple[Path, Path] | None = None
) -> Iterator[BackendServer]:
    """Run a backend; with a certificate and a key, over TLS."""
    backend = BackendServer(script, port, tls)
    try:
        yield backend
    finally:
        backend.close()
