"""The whole recipe of the OTA Connect guide, against real parts: credentials.zip, gateway, devices over SSH.

What is on a device afterwards is all that it needs: nginx lets it in, and reads its id.
"""

from __future__ import annotations

import concurrent.futures
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from asn1crypto import pem
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from support.harness import Fleet, free_port, running
from support.programs import GATEWAY, nginx, run
from support.sshd import Devices, ssh_server

DEVICES = int(os.environ.get("OTAHSM_TEST_DEVICES", "40"))  # `make soak` has 200


@dataclass(frozen=True)
class Site:
    """A fleet whose daemon runs, its gateway, and its devices."""

    fleet: Fleet
    url: str
    devices: Devices


@pytest.fixture(scope="module")
def site(make_fleet: Callable[[], Fleet], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    fleet, port = make_fleet(), free_port()
    fleet.edit('gateway_url = "https://localhost:8000"\nserver_ca = "gateway/server_ca.pem"\n', "")
    fleet.edit("[client]\n", '[client]\ncredentials = "credentials.zip"\n')
    with (
        nginx(tmp_path_factory.mktemp("nginx"), port, GATEWAY.format(fleet=fleet.folder)),
        ssh_server(tmp_path_factory.mktemp("sshd")) as devices,
        running(fleet) as daemon,
    ):
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        yield Site(fleet, f"https://localhost:{port}", devices)


def server_ca(site: Site) -> bytes:
    return (site.fleet.folder / "gateway/server_ca.pem").read_bytes()


def p12(site: Site) -> bytes:
    """Make what an account's archive has: a key of its own, and the server's CA; no password."""
    certificate = x509.load_pem_x509_certificate((site.fleet.folder / "tls/client.pem").read_bytes())
    key = serialization.load_pem_private_key((site.fleet.folder / "tls/client.key").read_bytes(), None)
    ca = x509.load_pem_x509_certificate(server_ca(site))
    plain = serialization.NoEncryption()
    return pkcs12.serialize_key_and_certificates(None, key, certificate, [ca], plain)  # type: ignore[arg-type]


# What archives have that must not reach a device, and what they call the address and the CA.
VARIANTS: dict[str, Callable[[Site], dict[str, bytes]]] = {
    "community-edition": lambda site: {
        "autoprov.url": site.url.encode(),
        "server_ca.pem": server_ca(site),
        "autoprov_credentials.p12": p12(site),
    },
    "ota-connect": lambda site: {
        "autoprov.url": f"{site.url}\n".encode(),
        "autoprov_credentials.p12": p12(site),
        "treehub.json": b'{"oauth2": {"client_secret": "MINE"}}',
        "tufrepo.url": b"https://tuf.example",
    },
    "bare": lambda site: {"autoprov": f"\ufeff{site.url}\r\n".encode(), "server_ca.pem": server_ca(site)},
    "torizon": lambda site: {
        "autoprov.url": site.url.encode(),
        "server_ca.pem": server_ca(site),
        "provision.json": b'{"secret": "MINE"}',
        "targets.sec": b"MINE",
    },
}


def write_archive(site: Site, variant: str) -> None:
    with zipfile.ZipFile(site.fleet.folder / "credentials.zip", "w") as archive:
        for name, content in VARIANTS[variant](site).items():
            archive.writestr(name, content)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_archive_gives_the_gateway_that_is_there_and_nothing_else(
    site: Site, tmp_path: Path, variant: str
) -> None:
    write_archive(site, variant)
    fetch = ("gateway", "fetch", "--credentials", "credentials.zip", "--connect", "--out", str(tmp_path))
    fetched = site.fleet.run(*fetch)
    assert fetched.returncode == 0, fetched.stderr
    assert pem.unarmor((tmp_path / "root.crt").read_bytes())[2] == pem.unarmor(server_ca(site))[2]
    ids = tmp_path / "ids.txt"
    ids.write_text(f"from-{variant}")
    out = tmp_path / "devices"
    done = site.fleet.run("device", "issue", "--ids", str(ids), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert connected(out / f"from-{variant}") == f"from-{variant}"
    for path in (*tmp_path.rglob("*"),):
        assert not path.is_file() or b"MINE" not in path.read_bytes(), path


def connected(imported: Path) -> str:
    """Connect with curl as a device does, with nothing but its files; return what nginx reads."""
    verdict = run(
        *("curl", "--silent", "--show-error", "--cacert", imported / "root.crt"),
        *("--cert", imported / "client.pem", "--key", imported / "pkey.pem"),
        (imported / "gateway.url").read_text(),
    )
    assert verdict.good, verdict.text
    return verdict.text


def connected_with_openssl(imported: Path) -> str:
    """The same with `openssl s_client`."""
    address = (imported / "gateway.url").read_text().removeprefix("https://")
    verdict = run(
        *("openssl", "s_client", "-quiet", "-connect", address, "-servername", "localhost"),
        *("-verify_return_error", "-CAfile", imported / "root.crt"),
        *("-cert", imported / "client.pem", "-key", imported / "pkey.pem", "-ign_eof"),
        stdin="GET / HTTP/1.0\r\n\r\n",
    )
    return verdict.text.rpartition("\n\n")[2]


def test_a_batch_of_devices_is_issued_installed_and_let_in(site: Site, tmp_path: Path) -> None:
    write_archive(site, "community-edition")
    done = site.fleet.run("batch", "create", "guide", "--count", str(DEVICES), "--expect", str(DEVICES))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "devices"
    done = site.fleet.run("batch", "run", "guide", "--out", str(out))
    assert done.returncode == 0, done.stderr
    ids = sorted(path.parent.name for path in out.glob("[!.]*/client.pem"))
    assert len(ids) == DEVICES
    where = [f"{site.devices.address(number)},{site.devices.port},root" for number in range(DEVICES)]
    rows = [",".join(pair) for pair in zip(ids, where, strict=True)]
    table = tmp_path / "hosts.csv"
    table.write_text("device_id,host,port,user\n" + "\n".join(rows))
    for number in range(DEVICES):
        site.devices.add(number)
    words = ("--devices", str(out), "--inventory", str(table), "--sota-toml", *site.devices.options)
    done = site.fleet.run("device", "install", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{DEVICES} installed")
    imported = [site.devices.imported(number) for number in range(DEVICES)]
    with concurrent.futures.ThreadPoolExecutor(4) as lines:
        assert list(lines.map(connected, imported)) == ids
        assert list(lines.map(connected_with_openssl, imported[::10])) == ids[::10]
