"""The certificates that a gateway presents in TLS, and whether a device would accept them.

Both use the program `openssl`: it is what the OTA Connect guide uses, Python 3.11 has no public API for a
peer's chain, and aktualizr's libcurl verifies with the same library. So what passes here passes on the
device: even a CA with a basicConstraints that is not critical, and a server certificate with its name only in
the common name, as in the Community Edition. Stricter verifiers refuse those.

A gateway requires a client certificate, and we have none. But its own arrives before that.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.errors import ConfigError, GatewayUnavailableError, GatewayUntrustedError
from otahsm.gateway.url import GatewayUrl
from otahsm.pki.anchor import dates_of, fingerprint_text, load_certificates, name_of

PATIENCE_SECONDS: Final = 10.0
_MAX_CERTIFICATES: Final = 16
_CHAIN: Final = re.compile(r"^Certificate chain$(.*?)^---$", re.MULTILINE | re.DOTALL)
_SSL_ERROR: Final = re.compile(r":error:[0-9A-F]+:[^:]*:[^:]*:([^:]+):")
_VERDICT: Final = re.compile(r"^error \d+ at (\d+) depth lookup: ?(.+)$", re.MULTILINE)


def fetch_chain(url: GatewayUrl, seconds: float = PATIENCE_SECONDS) -> list[x509.Certificate]:
    """Connect, with the host name in TLS (SNI), and return the chain that the gateway presents.

    Args:
        url: the gateway's address.
        seconds: the timeout of the connection, and again of the handshake.

    Returns:
        The certificates, the gateway's own first, not verified.

    Raises:
        GatewayUnavailableError: it can't be reached, does not respond in time, or does not speak TLS.
        GatewayUntrustedError: the certificates can't be read.
        ConfigError: `openssl` is not installed.
    """
    _try_to_connect(url, seconds)
    name = ["-noservername"] if url.is_address else ["-servername", url.host]
    try:
        status, output, errors = _openssl(
            "s_client", "-connect", url.endpoint, *name, "-showcerts", seconds=seconds
        )
    except subprocess.TimeoutExpired:
        raise _unavailable(url, f"accepts connections, but did not speak TLS within {seconds:g} s") from None
    found = _CHAIN.search(output)
    if found is None:
        reasons = _SSL_ERROR.findall(errors)
        raise _unavailable(
            url,
            f"presents no certificate ({reasons[-1] if reasons else f'openssl exited with status {status}'})",
        )
    try:
        chain = load_certificates(found[1].encode(), f"the chain of {url.endpoint}")
    except ConfigError as error:
        raise GatewayUntrustedError(error.message) from None
    if len(chain) > _MAX_CERTIFICATES:
        raise GatewayUntrustedError(
            f"{url.endpoint} presents {len(chain)} certificates; at most {_MAX_CERTIFICATES} are accepted"
        )
    return chain


def check_chain(
    url: GatewayUrl, chain: Sequence[x509.Certificate], root: x509.Certificate, now: datetime
) -> None:
    """Check that a device which only trusts `root` would accept the chain of the gateway.

    Args:
        url: its host must be in the gateway's certificate: in subjectAltName, or in the common name if
            that has no DNS names.
        chain: the chain as presented, the gateway's own certificate first.
        root: the trust anchor.
        now: the time at which all certificates must be valid.

    Raises:
        GatewayUntrustedError: it would not; with OpenSSL's reason.
        ConfigError: `openssl` is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="otahsm-") as folder:
        files = {"root": [root], "others": chain[1:], "own": chain[:1]}
        for name, certificates in files.items():
            _write_pem(Path(folder, name), certificates)
        status, _, errors = _openssl(
            "verify",
            *("-no-CAfile", "-no-CApath", "-no-CAstore", "-trusted", f"{folder}/root"),
            *(("-untrusted", f"{folder}/others") if chain[1:] else ()),
            *("-purpose", "sslserver", "-attime", str(int(now.timestamp()))),
            *("-verify_ip" if url.is_address else "-verify_hostname", url.host),
            f"{folder}/own",
            seconds=PATIENCE_SECONDS,
        )
    if status:
        verdict = _VERDICT.search(errors)
        reason = f"{verdict[2]} (at depth {verdict[1]})" if verdict else "OpenSSL gives no reason"
        presented = "; ".join(f"{name_of(one)} {dates_of(one)}" for one in chain)
        raise GatewayUntrustedError(
            f"a device would refuse {url.endpoint}: {reason}. It presents: {presented}. The CA:"
            f" {name_of(root)} {dates_of(root)}, {fingerprint_text(root)}",
            hint="Have the gateway's certificates renewed, or give its correct name or CA.",
        )


def _try_to_connect(url: GatewayUrl, seconds: float) -> None:
    """Try to connect, since the errors say more than openssl's. Raises GatewayUnavailableError."""
    try:
        with socket.create_connection((url.host, url.port), seconds):
            pass
    except TimeoutError:
        raise _unavailable(url, f"did not respond within {seconds:g} s") from None
    except OSError as error:  # also an unknown name
        raise _unavailable(url, f"can't be reached: {error.strerror or error}") from None
    except UnicodeError:
        raise _unavailable(url, "can't be reached: its name is not a valid DNS name") from None


def _openssl(*arguments: str, seconds: float) -> tuple[int, str, str]:
    """Run openssl; return its exit status, standard output and standard error. Raises TimeoutExpired."""
    program = shutil.which("openssl")
    if program is None:
        raise ConfigError("the program openssl is not installed", hint="Install it: apt-get install openssl")
    done = subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def _write_pem(path: Path, certificates: Iterable[x509.Certificate]) -> None:
    path.write_bytes(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates))


def _unavailable(url: GatewayUrl, what: str) -> GatewayUnavailableError:
    return GatewayUnavailableError(f"the gateway {url.endpoint} {what}")
