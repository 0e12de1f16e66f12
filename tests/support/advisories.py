"""A vulnerability service on loopback, which pip-audit takes for PyPI, or asks as an OSV server."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.gateways import authority


@dataclass
class Advisories:
    """What the service says, and what it was asked.

    Attributes:
        environment: what leads pip-audit here when it asks PyPI: a proxy, and the CA of what answers there.
        osv_url: where it answers as an OSV server.
        vulnerable: the vulnerability of a package, in PyPI's words; others have none.
        unknown: packages that it does not know.
        status: what it answers with.
        asked: name and version of each package that it was asked for.
    """

    environment: dict[str, str]
    osv_url: str
    vulnerable: dict[str, dict[str, Any]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    status: HTTPStatus = HTTPStatus.OK
    asked: list[tuple[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Advisories]:
    """Serve until the block ends; the CA and a certificate for PyPI's name go into a folder."""
    ca = authority("advisories")
    server = ca.server(["pypi.org"])
    (folder / "ca.pem").write_bytes(ca.pem)
    (folder / "server.pem").write_bytes(server.pem + server.key_pem)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "server.pem")

    class Handler(_Handler):
        context = tls

    with _Server(("127.0.0.1", 0), Handler) as listener:
        address = f"http://127.0.0.1:{listener.server_port}"
        Handler.said = Advisories(proxied(address, folder / "ca.pem"), f"{address}/v1/query")
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Handler.said
        finally:
            listener.shutdown()
            thread.join()


def proxied(address: str, ca: Path) -> dict[str, str]:
    """Return what makes a Python program ask for everything through a proxy, and trust one CA."""
    names = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")
    return {
        **dict.fromkeys(names, ""),
        "HTTPS_PROXY": address,
        "https_proxy": address,
        "REQUESTS_CA_BUNDLE": str(ca),
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing it waits for them


class _Handler(BaseHTTPRequestHandler):
    """Answers as a proxy (CONNECT), then on the same connection as PyPI (GET); or as OSV (POST)."""

    context: ssl.SSLContext
    said: Advisories
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one packet, for which nobody waits

    def do_CONNECT(self) -> None:
        assert self.path == "pypi.org:443", self.path
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        self.wfile.flush()
        self.request = self.context.wrap_socket(self.request, server_side=True)
        self.setup()
        self.close_connection = False

    def do_GET(self) -> None:
        pypi, name, version, end = self.path.strip("/").split("/")
        assert (pypi, end) == ("pypi", "json"), self.path
        self.said.asked.append((name, version))
        known = self.said.vulnerable.get(name)
        status = HTTPStatus.NOT_FOUND if name in self.said.unknown else self.said.status
        self.answer(status, {"vulnerabilities": [known] if known else []})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        self.said.asked.append((name, asked["version"]))
        known = self.said.vulnerable.get(name)
        if known is None:
            self.answer(self.said.status, {})
            return
        events = [{"fixed": version} for version in known["fixed_in"]]
        affected = {"package": asked["package"], "ranges": [{"type": "ECOSYSTEM", "events": events}]}
        self.answer(self.said.status, {"vulns": [{**known, "affected": [affected]}]})

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def answer(self, status: HTTPStatus, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
