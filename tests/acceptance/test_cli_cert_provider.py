"""`otahsm cert-provider` in the place of aktualizr-cert-provider: its options, and its files."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from support.harness import Fleet
from support.programs import openssl
from support.sshd import ssh_server


@pytest.fixture
def name() -> str:
    return f"bench-{uuid.uuid4()}"


def provide(line: Fleet, *words: str | Path, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home)} if home else {}
    return line.run("cert-provider", *map(str, words), environment=environment)


def test_a_folder_gets_what_aktualizr_cert_provider_writes(line: Fleet, tmp_path: Path, name: str) -> None:
    words = (
        "--fleet-ca",
        line.root_pem,
        "--fleet-ca-key",
        "/nowhere/ca.key",
        "--bits",
        "3072",
        "--days",
        "365",
    )
    done = provide(line, *words, "--certificate-cn", name, "-l", tmp_path, "--root-ca", "--server-url")
    assert done.returncode == 0, done.stderr
    assert "ignoring /nowhere/ca.key" in done.stderr
    imported = tmp_path / "var/sota/import"
    assert {path.name for path in imported.iterdir()} == {"pkey.pem", "client.pem", "root.crt", "gateway.url"}
    certificate = x509.load_pem_x509_certificate((imported / "client.pem").read_bytes())
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 3072
    assert openssl("verify", "-x509_strict", "-CAfile", line.root_pem, imported / "client.pem").good
    before = {path.name: path.read_bytes() for path in imported.iterdir()}
    again = provide(
        line, "--certificate-cn", name, "-l", tmp_path, "--bits", "3072", "--root-ca", "--server-url"
    )
    assert f"{name} had its files" in again.stdout
    assert {path.name: path.read_bytes() for path in imported.iterdir()} == before


def test_without_the_flags_only_key_and_certificate_are_provided(line: Fleet, tmp_path: Path) -> None:
    done = provide(line, "--local", tmp_path, "--directory", "/data/creds/import")
    assert done.returncode == 0, done.stderr
    device_id = done.stdout.partition("Random device ID is ")[2].split()[0]
    imported = tmp_path / "data/creds/import"
    assert {path.name for path in imported.iterdir()} == {"pkey.pem", "client.pem"}
    shown = openssl("x509", "-in", imported / "client.pem", "-noout", "-subject", "-nameopt", "RFC2253")
    assert shown.text == f"subject=CN={device_id}\n"


def test_a_device_gets_it_over_ssh(line: Fleet, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    with ssh_server(tmp_path) as server:
        server.add(1)
        (home / ".ssh/id_ed25519").write_bytes(server.identity.read_bytes())
        (home / ".ssh/id_ed25519").chmod(0o600)
        words = ("--certificate-cn", name, "-t", f"root@{server.address(1)}", "-p", server.port, "-r", "-u")
        refused = provide(line, *map(str, words), home=home)
        assert refused.returncode == 1
        assert "the host key of" in refused.stderr
        done = provide(line, *map(str, words), "--skip-checks", home=home)
        assert done.returncode == 0, done.stderr
        assert (server.imported(1) / "client.pem").read_bytes() == (
            line.folder / "devices" / name / "client.pem"
        ).read_bytes()


def test_names_come_from_aktualizrs_configuration(line: Fleet, tmp_path: Path, name: str) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/20-sota.toml").write_text('[import]\nbase_path = "/opt/sota/import"\n')
    words = ("--certificate-cn", name, "--local", tmp_path)
    assert provide(line, *words, "--config", tmp_path / "conf.d").returncode == 0
    assert (tmp_path / "opt/sota/import/client.pem").exists()
    (tmp_path / "conf.d/30-sota.toml").write_text('[import]\ntls_pkey_path = "other.pem"\n')
    done = provide(line, *words, "--config", tmp_path / "conf.d")
    assert done.returncode == 2
    assert "tls_pkey_path is other.pem" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --local, --target or both"),
        (("--local", "x", "--bits", "1024"), "smaller keys can be broken"),
        (("--local", "x", "--days", "10"), "gives 365 days, not 10"),
        (("--local", "x", "--certificate-o", "Acme"), "has O=nothing, not Acme"),
        (("--local", "x", "--fleet-ca", "gateway/server_ca.pem"), "is not the expected one"),
        (("--local", "x", "--profile", "nothing"), "there is no profile"),
        (("--local", "x", "--directory", "relative"), "can't be the folder for a device's files"),
        (("--local", "x", "--credentials", "nothing.zip"), "nothing.zip"),
        (("--local", "x", "--certificate-cn", "../x"), "device id"),
    ],
)
def test_what_can_not_be_provided_is_told_and_nothing_is_issued(
    line: Fleet, words: tuple[str, ...], said: str
) -> None:
    done = provide(line, *words)
    assert done.returncode in (1, 2)
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert not (line.folder / "x").exists()
