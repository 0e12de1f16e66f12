"""The gateway's CA over TLS, from a real nginx as the guide's gateway is, and from servers that are none."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from otahsm.errors import ConfigError, GatewayUnavailableError, GatewayUntrustedError
from otahsm.gateway.trust import Gateway, Trust, find_gateway

from support.gateways import DAY, NOW, Signer, authority, build_side, community_authority, make_zip, p12
from support.harness import eventually, free_port
from support.programs import ask, nginx, trust

ROOT = authority("gateway root")
MIDDLE = ROOT.authority("gateway intermediate")
LEAF = MIDDLE.server(["localhost", "127.0.0.1"])
RENEWED = authority("gateway root", end=NOW + 3000 * DAY, key=ROOT.key)
STRANGER = authority("stranger")
SECONDS = 60  # that an honest gateway gets; the quiet one gets half of one

_SERVER = """
    server {{
        listen 127.0.0.1:{port} ssl{default};
        server_name {name};
        ssl_certificate {folder}/{stem}.pem;
        ssl_certificate_key {folder}/{stem}.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_client_certificate {folder}/fleet.pem;
        ssl_verify_client on;
        return 200;
    }}
"""


@dataclass(frozen=True)
class Gateways:
    """Ports of one nginx, by what it presents there."""

    folder: Path
    ports: dict[str, int]

    def find(self, kind: str, trust: Trust, host: str = "localhost") -> Gateway:
        return find_gateway(NOW, url=f"https://{host}:{self.ports[kind]}", trust=trust, seconds=SECONDS)


def presented() -> dict[str, tuple[Signer, ...]]:
    """What is presented, the server's own certificate first."""
    expired = MIDDLE.server(["localhost"], NOW - 9 * DAY, NOW - 2 * DAY)
    old_root = authority("old root", NOW - 9 * DAY, NOW - 2 * DAY)
    community = community_authority("ota-server-CA")
    return {
        "whole": (LEAF, MIDDLE, ROOT),
        "disordered": (LEAF, ROOT, STRANGER, MIDDLE),
        "renewed": (LEAF, MIDDLE, RENEWED, ROOT),
        "rootless": (LEAF, MIDDLE),
        "expired": (expired, MIDDLE, ROOT),
        "old-root": (old_root.server(["localhost"]), old_root),
        "community": (community.server([], name="localhost"), community),
        "names": (MIDDLE.server(["other.example"]), MIDDLE, ROOT),
        # The second certificate is the right CA's, which anybody has, and it signed nothing here.
        "impostor": (STRANGER.server(["localhost"]), ROOT, STRANGER),
    }


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "fleet.pem").write_bytes(authority("fleet").pem)
    kinds = presented()
    ports = {kind: free_port() for kind in (*kinds, "http")}
    server = f"server {{ listen 127.0.0.1:{ports['http']}; return 200; }}"
    for kind, signers in {**kinds, "default": (STRANGER.server(["default.example"]), STRANGER)}.items():
        (folder / f"{kind}.pem").write_bytes(b"".join(signer.pem for signer in signers))
        (folder / f"{kind}.key").write_bytes(signers[0].key_pem)
        is_default = kind == "default"
        server += _SERVER.format(
            port=ports["whole" if is_default else kind],
            default=" default_server" if is_default else "",
            name="_" if is_default else "localhost",
            folder=folder,
            stem=kind,
        )
    with nginx(folder, ports["whole"], server):
        yield Gateways(folder, ports)


@pytest.fixture
def root_file(tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(ROOT.pem)
    return path


def fingerprint(found: Gateway) -> str:
    assert found.connected
    assert found.ca is not None
    return found.ca.fingerprint


@pytest.mark.parametrize("pinned", [ROOT, MIDDLE, LEAF], ids=["root", "intermediate", "own"])
@pytest.mark.parametrize("kind", ["whole", "disordered"])
def test_the_root_is_taken_if_it_or_one_below_it_has_the_fingerprint(
    gateways: Gateways, kind: str, pinned: Signer
) -> None:
    found = gateways.find(kind, Trust(fingerprint=pinned.fingerprint.upper()))
    assert fingerprint(found) == ROOT.fingerprint
    assert found.ca is not None
    assert found.ca.pem == ROOT.pem
    assert "CN=gateway intermediate: an intermediate CA" in found.ca.left_out


def test_of_a_renewed_root_that_is_taken_which_has_the_fingerprint_or_else_ends_last(
    gateways: Gateways,
) -> None:
    for root in (ROOT, RENEWED):
        pinned = gateways.find("renewed", Trust(fingerprint=root.fingerprint))
        assert fingerprint(pinned) == root.fingerprint
    assert fingerprint(gateways.find("renewed", Trust(fingerprint=LEAF.fingerprint))) == RENEWED.fingerprint


def test_a_device_connects_with_what_was_fetched_and_is_asked_for_its_certificate(
    gateways: Gateways, tmp_path: Path
) -> None:
    found = gateways.find("whole", Trust(fingerprint=ROOT.fingerprint))
    assert found.ca is not None
    (tmp_path / "root.crt").write_bytes(found.ca.pem)
    status, page = ask(str(found.url), trust(tmp_path / "root.crt"))
    assert status == 400
    assert "No required SSL certificate was sent" in page
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(f"https://localhost:{gateways.ports['impostor']}", trust(tmp_path / "root.crt"))


def test_another_fingerprint_is_refused_and_both_are_shown(gateways: Gateways) -> None:
    with pytest.raises(GatewayUntrustedError) as caught:
        gateways.find("whole", Trust(fingerprint=STRANGER.fingerprint))
    assert STRANGER.fingerprint in caught.value.message
    assert ROOT.fingerprint in caught.value.message


def test_the_right_root_beside_an_impostors_chain_is_not_enough(gateways: Gateways, root_file: Path) -> None:
    with pytest.raises(GatewayUntrustedError):
        gateways.find("impostor", Trust(fingerprint=ROOT.fingerprint))
    with pytest.raises(GatewayUntrustedError):
        gateways.find("impostor", Trust(authorities=root_file))
    # Who trusts on first use gets the CA that the impostor is under, and not one that its list shows.
    assert fingerprint(gateways.find("impostor", Trust(first_use=True))) == STRANGER.fingerprint


def test_a_gateway_that_does_not_present_its_root_needs_a_file(gateways: Gateways, root_file: Path) -> None:
    for trust_in in (Trust(first_use=True), Trust(fingerprint=MIDDLE.fingerprint)):
        with pytest.raises(GatewayUntrustedError, match=r"presents no root: .*issued by CN=gateway root"):
            gateways.find("rootless", trust_in)
    with pytest.raises(GatewayUntrustedError) as caught:
        gateways.find("rootless", Trust(fingerprint=ROOT.fingerprint))
    assert "--ca" in caught.value.hint
    found = gateways.find("rootless", Trust(authorities=root_file))
    assert found.ca is not None
    assert (found.ca.pem, found.ca.source) == (ROOT.pem, str(root_file))


def test_of_many_cas_in_a_file_the_one_is_taken_that_the_gateway_is_under(
    gateways: Gateways, tmp_path: Path
) -> None:
    others = [authority(f"other {number}") for number in range(10)]
    path = tmp_path / "ca-certificates.crt"
    path.write_bytes(b"".join(one.pem for one in (*others, ROOT, STRANGER)))
    found = gateways.find("rootless", Trust(authorities=path))
    assert fingerprint(found) == ROOT.fingerprint
    assert found.ca is not None
    assert found.ca.left_out[-1] == "and 3 more"


def test_a_gateway_under_another_ca_is_refused_and_both_fingerprints_are_shown(
    gateways: Gateways, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(STRANGER.pem)
    with pytest.raises(GatewayUntrustedError, match="is not under the CA in") as caught:
        gateways.find("whole", Trust(authorities=tmp_path / "ca.pem"))
    assert STRANGER.fingerprint in caught.value.message
    assert ROOT.fingerprint in caught.value.message


def test_the_hosts_name_is_sent_so_that_the_right_one_of_several_gateways_answers(gateways: Gateways) -> None:
    # An address has no name to send: what answers is the default server.
    with pytest.raises(GatewayUntrustedError, match="IP address mismatch"):
        gateways.find("whole", Trust(first_use=True), host="127.0.0.1")
    assert fingerprint(gateways.find("whole", Trust(first_use=True))) == ROOT.fingerprint


def test_an_address_is_good_if_it_is_in_the_certificate(gateways: Gateways, root_file: Path) -> None:
    found = gateways.find("rootless", Trust(authorities=root_file), host="127.0.0.1")
    assert str(found.url) == f"https://127.0.0.1:{gateways.ports['rootless']}"


@pytest.mark.parametrize("how", ["ca", "fingerprint", "first use"])
def test_a_certificate_for_another_host_is_refused_whatever_the_trust(
    gateways: Gateways, root_file: Path, how: str
) -> None:
    trust_in = {
        "ca": Trust(authorities=root_file),
        "fingerprint": Trust(fingerprint=ROOT.fingerprint),
        "first use": Trust(first_use=True),
    }[how]
    with pytest.raises(GatewayUntrustedError, match="hostname mismatch"):
        gateways.find("names", trust_in)


def test_an_expired_certificate_is_refused_with_its_dates(gateways: Gateways) -> None:
    with pytest.raises(GatewayUntrustedError, match=r"certificate has expired \(at depth 0\)") as caught:
        gateways.find("expired", Trust(fingerprint=ROOT.fingerprint))
    assert f"to {NOW - 2 * DAY:%Y-%m-%d %H:%M} UTC" in caught.value.message


def test_an_expired_root_is_refused_even_if_its_fingerprint_is_right(gateways: Gateways) -> None:
    with pytest.raises(GatewayUntrustedError, match=r"certificate has expired \(at depth 1\)"):
        gateways.find("old-root", Trust(first_use=True))


def test_the_time_is_the_callers(gateways: Gateways) -> None:
    url, trust_in = f"https://localhost:{gateways.ports['whole']}", Trust(fingerprint=ROOT.fingerprint)
    with pytest.raises(GatewayUntrustedError, match="certificate has expired"):
        find_gateway(NOW + timedelta(days=100), url=url, trust=trust_in, seconds=SECONDS)
    with pytest.raises(GatewayUntrustedError, match="certificate is not yet valid"):
        find_gateway(NOW - timedelta(days=100), url=url, trust=trust_in, seconds=SECONDS)


def test_community_editions_certificates_are_taken_as_devices_take_them(gateways: Gateways) -> None:
    assert gateways.find("community", Trust(first_use=True)).ca is not None


def test_the_ca_in_credentials_is_checked_against_the_real_gateway(
    gateways: Gateways, tmp_path: Path
) -> None:
    url = f"https://localhost:{gateways.ports['rootless']}".encode()
    entries = {**build_side(), "autoprov.url": url, "autoprov_credentials.p12": p12(LEAF, ROOT, MIDDLE)}
    good = make_zip(tmp_path / "good.zip", entries)
    found = find_gateway(NOW, credentials=good, trust=Trust(), connect=True, seconds=SECONDS)
    assert fingerprint(found) == ROOT.fingerprint
    assert found.ca is not None
    assert "autoprov_credentials.p12" in found.ca.source
    assert not find_gateway(NOW, credentials=good, trust=Trust()).connected
    bad = make_zip(tmp_path / "bad.zip", {**entries, "server_ca.pem": STRANGER.pem})
    assert not find_gateway(NOW, credentials=bad, trust=Trust()).connected
    with pytest.raises(GatewayUntrustedError, match="is not under the CA in"):
        find_gateway(NOW, credentials=bad, trust=Trust(), connect=True, seconds=SECONDS)


def test_nothing_is_taken_without_a_reason_to_trust_it(gateways: Gateways) -> None:
    with pytest.raises(ConfigError, match="nothing says which CA"):
        gateways.find("whole", Trust())


@contextlib.contextmanager
def s_server(folder: Path, version: str) -> Iterator[int]:
    """Run OpenSSL's server, which breaks off the handshake with who has no certificate."""
    port = free_port()
    for name, content in {"own": LEAF.pem, "key": LEAF.key_pem, "chain": MIDDLE.pem + ROOT.pem}.items():
        (folder / name).write_bytes(content)
    command = ["openssl", "s_server", "-accept", str(port), "-cert", f"{folder}/own", "-key", f"{folder}/key"]
    command += ["-cert_chain", f"{folder}/chain", "-CAfile", f"{folder}/chain", "-Verify", "9", version]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            eventually(lambda: _listens(port), "openssl s_server does not listen")
            yield port
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("localhost", port), 5):
        return True
    return False


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_gateway_that_breaks_off_without_a_client_certificate_has_shown_its_own(
    tmp_path: Path, version: str
) -> None:
    with s_server(tmp_path, version) as port:
        found = find_gateway(
            NOW, url=f"localhost:{port}", trust=Trust(fingerprint=ROOT.fingerprint), seconds=SECONDS
        )
    assert fingerprint(found) == ROOT.fingerprint


def unavailable(url: str, seconds: float = SECONDS) -> str:
    with pytest.raises(GatewayUnavailableError) as caught:
        find_gateway(NOW, url=url, trust=Trust(first_use=True), seconds=seconds)
    return caught.value.message


def test_a_server_without_tls_is_said_to_be_one(gateways: Gateways) -> None:
    assert "presents no certificate (wrong version number)" in unavailable(
        f"https://localhost:{gateways.ports['http']}"
    )


def test_nobody_there_is_said_at_once() -> None:
    assert "can't be reached: Connection refused" in unavailable(f"localhost:{free_port()}")


def test_a_name_that_nobody_has_is_said_to_be_one() -> None:
    assert "can't be reached" in unavailable("no-such-host.invalid")


def test_a_server_that_says_nothing_is_left_in_time() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        began = time.monotonic()
        message = unavailable(f"127.0.0.1:{listener.getsockname()[1]}", seconds=0.5)
        assert "did not speak TLS within 0.5 s" in message
        assert time.monotonic() - began < SECONDS
