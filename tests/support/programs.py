"""Programs that tests run: other people's, which judge what otahsm makes, and `otahsm` itself."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from support.harness import READY_SECONDS, Fleet, eventually

COMMAND = Path(sysconfig.get_path("scripts"), "otahsm")
QUICKSTART_ROOT = "otahsm quickstart fleet root"
# The gateway takes the device's identity from the subject with this expression, and no other.
GATEWAY = """
    map $ssl_client_s_dn $device {{
        default "";
        "~CN=(?<identity>.*)$" $identity;
    }}
    server {{
        listen 127.0.0.1:@PORT@ ssl;
        ssl_certificate {fleet}/gateway/server.pem;
        ssl_certificate_key {fleet}/gateway/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_client_certificate {fleet}/ca/fleet-root.pem;
        ssl_verify_client on;
        ssl_verify_depth 10;
        location / {{ return 200 $device; }}
    }}
"""


@dataclass(frozen=True)
class Verdict:
    """What a program said: its exit status and all that it printed."""

    status: int
    text: str

    @property
    def good(self) -> bool:
        return self.status == 0


@dataclass(frozen=True)
class Device:
    """A device's folder, and the root of its fleet."""

    folder: Path
    root: Path
    key_type: str

    @property
    def device_id(self) -> str:
        return self.folder.name

    @property
    def certificate(self) -> Path:
        return self.folder / "client.pem"

    @property
    def chain(self) -> Path:
        return self.folder / f"{self.device_id}.chain.pem"

    @property
    def csr(self) -> Path:
        return self.folder / f"{self.device_id}.csr"

    @property
    def key(self) -> Path:
        return self.folder / "pkey.pem"


def run(*command: str | Path, stdin: str | None = None) -> Verdict:
    """Run a program of someone else's; its standard error is part of what it says."""
    done = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=READY_SECONDS,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    return Verdict(done.returncode, done.stdout)


def openssl(*arguments: str | Path) -> Verdict:
    return run("openssl", *arguments)


def certtool(*arguments: str | Path) -> Verdict:
    return run("certtool", *arguments)


def otahsm(
    *arguments: str | Path, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the installed command, in a folder that need not be a fleet's and an environment of its own."""
    return subprocess.run(
        [COMMAND, *(str(argument) for argument in arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def make_ca(fleet: Fleet, *options: str) -> subprocess.CompletedProcess[str]:
    """Give a fleet another CA, with `otahsm ca init`; by name it is the same as the one it had."""
    fleet.edit('certificate = "ca/fleet-root.pem"', 'certificate = "ca/another-root.pem"')
    fleet.edit("object=fleet-root;id=%01", "object=another-root;id=%02")
    return fleet.run("ca", "init", "--name", QUICKSTART_ROOT, *options)


def issue(fleet: Fleet, out: Path, ids: Sequence[str], *options: str) -> list[Path]:
    """Make devices with `otahsm device issue`; return their folders."""
    listed = out.with_suffix(".ids")
    listed.write_text("".join(f"{device_id}\n" for device_id in ids))
    done = fleet.run("device", "issue", "--ids", str(listed), "--out", str(out), *options)
    assert done.returncode == 0, done.stderr
    return [out / device_id for device_id in ids]


@contextlib.contextmanager
def nginx(folder: Path, port: int, server: str) -> Iterator[None]:
    """Run nginx in the foreground, with all its files in a folder, until the block ends.

    Args:
        folder: nginx's own; must exist.
        port: where it listens, on 127.0.0.1.
        server: directives of http and server context, `@PORT@` being the port.
    """
    configuration = folder / "nginx.conf"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"    {kind}_temp_path {folder / kind};\n" for kind in kinds)
    # One process, which keeps the user that started it; a master would give its worker to `nobody`.
    configuration.write_text(
        f"daemon off;\nmaster_process off;\npid {folder / 'pid'};\nlock_file {folder / 'lock'};\n"
        f"error_log stderr info;\nevents {{}}\nhttp {{\n    access_log off;\n    default_type text/plain;\n"
        f"{places}{server.replace('@PORT@', str(port))}}}\n"
    )
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "nginx is not installed"
    log = folder / "error.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [program, "-e", "stderr", "-p", str(folder), "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )
    try:
        eventually(lambda: process.poll() is not None or answers(port), "nginx does not answer")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.kill()
        process.wait(READY_SECONDS)


def trust(ca: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """Trust this CA alone, and speak this version of TLS alone."""
    context = ssl.create_default_context(cafile=str(ca))
    context.minimum_version = context.maximum_version = version
    return context


def ask(url: str, context: ssl.SSLContext) -> tuple[int, str]:
    """Ask a web server; return status and body."""
    address = urlsplit(url)
    assert address.hostname
    connection = http.client.HTTPSConnection(
        address.hostname, address.port, context=context, timeout=READY_SECONDS
    )
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.read().decode()


def assert_refused(url: str, context: ssl.SSLContext) -> None:
    """Check that nginx refuses a client for its certificate, in the handshake or with a page."""
    try:
        status, body = ask(url, context)
    except (ssl.SSLError, ConnectionError):
        return  # refused in the handshake
    assert status == http.client.BAD_REQUEST
    assert "SSL certificate" in body


def answers(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive as anybody would. (The Python of Debian 12 has no filters for that yet.)"""
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", folder], check=True)
