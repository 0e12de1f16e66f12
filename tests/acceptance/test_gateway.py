"""A real nginx, set up as the seed's gateway is, lets devices in, and nobody else."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.harness import Fleet, free_port, running
from support.programs import GATEWAY, Device, ask, assert_refused, issue, nginx, openssl, trust

IDS = (
    str(uuid.uuid4()),
    "Line-3.station_7:unit-0042",
    "x" * 128,
)
KEY_TYPES = ("ec-p384", "rsa-2048", "ed25519")
PLANT = """
[profiles.plant]
subject = ["C=DE", "O=Acme, Inc.", "OU={plant}", "serialNumber={serial}"]
"""
TOLD, WORKS = "told-1", "Werk Köln + Nord / 3"
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@dataclass(frozen=True)
class Gateway:
    """The gateway's fleet, and where the folders of its devices are."""

    fleet: Fleet
    devices: Path

    @property
    def url(self) -> str:
        return (self.devices / IDS[0] / "gateway.url").read_text()


@pytest.fixture(scope="module")
def gateway(make_fleet: Callable[[], Fleet], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    fleet, port = make_fleet(), free_port()
    devices, folder = tmp_path_factory.mktemp("line") / "devices", tmp_path_factory.mktemp("nginx")
    fleet.edit('gateway_url = "https://localhost:8000"', f'gateway_url = "https://localhost:{port}"')
    fleet.edit("[profiles.ota-connect]", f"{PLANT}\n[profiles.ota-connect]")
    with nginx(folder, port, GATEWAY.format(fleet=fleet.folder)):
        with running(fleet) as daemon:
            daemon.wait_for("health.changed", serving=True)
            daemon.configure_client()
            issue(fleet, devices, IDS)
            for key_type in KEY_TYPES:
                issue(fleet, devices, [f"dev-{key_type}"], "--key-type", key_type)
            table = devices.with_name("units.csv")
            table.write_text(f"device_id,plant,serial,note\n{TOLD},{WORKS},SN-1,not for the subject\n")
            done = fleet.run(
                "device", "issue", "--ids", str(table), "--profile", "plant", "--out", str(devices)
            )
            assert done.returncode == 0, done.stderr
        yield Gateway(fleet, devices)


def connect(
    folder: Path, certificate: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> tuple[int, str]:
    """Connect as a device does, with nothing but the files of its folder."""
    context = trust(folder / "root.crt", version)
    context.load_cert_chain(folder / certificate, folder / "pkey.pem")
    return ask((folder / "gateway.url").read_text(), context)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("device_id", IDS, ids=["uuid", "punctuation", "128-characters"])
def test_nginx_accepts_an_issued_device_and_reads_its_id(
    gateway: Gateway, device_id: str, version: ssl.TLSVersion
) -> None:
    assert connect(gateway.devices / device_id, "client.pem", version) == (200, device_id)


def test_nginx_reads_the_id_alone_from_a_subject_that_says_more(gateway: Gateway) -> None:
    folder = gateway.devices / TOLD
    shown = openssl(
        "x509", "-in", folder / "client.pem", "-noout", "-subject", "-nameopt", "RFC2253,utf8,-esc_msb"
    )
    assert shown.text == (
        f"subject=serialNumber=SN-1,OU={WORKS.replace('+', chr(92) + '+')},O=Acme\\, Inc.,C=DE,CN={TOLD}\n"
    )
    assert openssl("verify", "-x509_strict", "-CAfile", gateway.fleet.root_pem, folder / "client.pem").good
    assert connect(folder, "client.pem") == (200, TOLD)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_nginx_accepts_a_device_with_every_type_of_key(
    gateway: Gateway, key_type: str, version: ssl.TLSVersion
) -> None:
    assert connect(gateway.devices / f"dev-{key_type}", "client.pem", version) == (200, f"dev-{key_type}")


@pytest.mark.parametrize("device_id", IDS, ids=["uuid", "punctuation", "128-characters"])
def test_nginx_accepts_a_device_that_sends_its_whole_chain(gateway: Gateway, device_id: str) -> None:
    assert connect(gateway.devices / device_id, f"{device_id}.chain.pem") == (200, device_id)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_nginx_refuses_a_device_of_another_fleet_whose_root_has_the_same_name(
    gateway: Gateway, devices_of: Callable[[str], dict[str, Device]], version: ssl.TLSVersion
) -> None:
    stranger = devices_of("ec-p256")["ec-p256"]
    context = trust(gateway.fleet.folder / "gateway/server_ca.pem", version)
    context.load_cert_chain(stranger.chain, stranger.key)
    assert_refused(gateway.url, context)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_nginx_refuses_a_client_without_a_certificate(gateway: Gateway, version: ssl.TLSVersion) -> None:
    assert_refused(gateway.url, trust(gateway.fleet.folder / "gateway/server_ca.pem", version))


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_nginx_refuses_the_certificate_of_an_operator(gateway: Gateway, version: ssl.TLSVersion) -> None:
    context = trust(gateway.fleet.folder / "gateway/server_ca.pem", version)
    context.load_cert_chain(gateway.fleet.tls.certificate, gateway.fleet.tls.key)
    assert_refused(gateway.url, context)


def test_a_device_refuses_a_server_that_is_not_the_gateway(gateway: Gateway) -> None:
    context = trust(gateway.fleet.root_pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(gateway.url, context)
