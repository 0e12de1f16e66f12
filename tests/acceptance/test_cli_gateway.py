"""`otahsm gateway` as a person types it: what is shown, what is written, and what never comes out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from otahsm.config import ClientConfig, parse_config
from otahsm.errors import ConfigError
from otahsm.gateway.files import gateway_files
from otahsm.system.clock import rfc3339

from support.gateways import NOW, SECRET, URL, Signer, authority, build_side, make_zip, p12
from support.harness import free_port
from support.programs import nginx, otahsm

ROOT = authority("gateway root")
MIDDLE = ROOT.authority("gateway intermediate")
LEAF = MIDDLE.server(["localhost"])
STRANGER = authority("stranger")
ENTRIES = {
    **build_side(),
    "provision.json": SECRET,
    "autoprov.url": f"{URL}\n".encode(),
    "server_ca.pem": ROOT.pem + MIDDLE.pem,
    "autoprov_credentials.p12": p12(LEAF, ROOT),
}
CLIENT = {"target": "ca:7443", "ca": "a", "certificate": "c", "key": "k", "devices": "d"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make_zip(tmp_path / "credentials.zip", ENTRIES)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway's URL."""
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "own.pem").write_bytes(LEAF.pem + MIDDLE.pem + ROOT.pem)
    (folder / "own.key").write_bytes(LEAF.key_pem)
    server = f"""server {{
        listen 127.0.0.1:@PORT@ ssl;
        ssl_certificate {folder}/own.pem;
        ssl_certificate_key {folder}/own.key;
        ssl_client_certificate {folder}/own.pem;
        ssl_verify_client on;
    }}"""
    with nginx(folder, port := free_port(), server):
        yield f"https://localhost:{port}"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return otahsm("gateway", *arguments, folder=tmp_path)

    return command


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_no_byte_of_a_secret_comes_out_of_credentials(run: Run, tmp_path: Path, archive: Path) -> None:
    content = archive.read_bytes()
    outputs = [
        run("show", "--credentials", archive),
        run("show", "--credentials", archive, "--json"),
        run("fetch", "--credentials", archive),
    ]
    said = "".join(done.stdout + done.stderr for done in outputs).encode()
    written = {path.name: path.read_bytes() for path in (tmp_path / "gateway").iterdir()}
    assert written == {"root.crt": ROOT.pem, "gateway.url": URL.encode()}
    assert [done.returncode for done in outputs] == [0, 0, 0]
    for out in (said, *written.values()):
        assert SECRET not in out
        assert b"PRIVATE KEY" not in out
        assert LEAF.key_pem.split(b"\n")[1] not in out
    assert archive.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"credentials.zip", "gateway"}


def test_show_tells_a_person_what_devices_get_and_what_stays(run: Run, archive: Path) -> None:
    text = run("show", "--credentials", archive).stdout
    for part in (URL, "gateway.example", "30443", "CN=gateway root", ROOT.fingerprint, "server_ca.pem"):
        assert part in text
    assert "CN=gateway intermediate: an intermediate CA" in text
    stays = next(line for line in text.splitlines() if line.startswith("stays here"))
    for name in ("treehub.json", "targets.sec", "provision.json", "autoprov_credentials.p12"):
        assert name in stays


def test_show_tells_a_program_the_same(run: Run, archive: Path) -> None:
    facts = json.loads(run("show", "--credentials", archive, "--json").stdout)
    assert (facts["url"], facts["host"], facts["port"]) == (URL, "gateway.example", 30443)
    assert facts["ca"]["fingerprint"] == ROOT.fingerprint
    assert facts["ca"]["valid_until"] == rfc3339(ROOT.certificate.not_valid_after_utc)
    assert facts["ca"]["verified"]
    assert not facts["connected"]
    assert set(facts["stays_here"]) == {*ENTRIES} - {"autoprov.url", "server_ca.pem"}


def test_what_a_gateway_presents_is_shown_as_not_verified_and_then_fetched_by_its_fingerprint(
    run: Run, tmp_path: Path, gateway: str
) -> None:
    shown = json.loads(run("show", "--url", gateway, "--json").stdout)
    assert not shown["ca"]["verified"]
    assert "NOT VERIFIED" in run("show", "--url", gateway).stdout
    done = run("fetch", "--url", gateway, "--fingerprint", shown["ca"]["fingerprint"], "--out", "line/gw")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "line/gw/root.crt").read_bytes() == ROOT.pem
    assert (tmp_path / "line/gw/gateway.url").read_text() == gateway


def test_trust_on_first_use_is_loud_and_nothing_else_is_silent(
    run: Run, tmp_path: Path, gateway: str
) -> None:
    refused = run("fetch", "--url", gateway)
    assert refused.returncode == 2
    assert "nothing says which CA" in refused.stderr
    assert "--trust-on-first-use" in refused.stderr
    assert not (tmp_path / "gateway").exists()
    done = run("fetch", "--url", gateway, "--trust-on-first-use")
    assert done.returncode == 0
    assert "TRUSTED ON FIRST USE" in done.stderr
    assert ROOT.fingerprint in done.stderr
    assert "CN=gateway root" in done.stderr
    both = run("fetch", "--url", gateway, "--trust-on-first-use", "--fingerprint", ROOT.fingerprint)
    assert both.returncode == 2


def test_each_way_to_fail_has_its_exit_code_and_writes_nothing(
    run: Run, tmp_path: Path, archive: Path, gateway: str
) -> None:
    expected = {
        ("--url", gateway, "--fingerprint", STRANGER.fingerprint): 1,
        ("--url", gateway, "--fingerprint", "sha256:12"): 2,
        ("--credentials", "missing.zip"): 2,
        (): 2,
        ("--credentials", str(archive), "--url", f"localhost:{free_port()}"): 3,
    }
    for arguments, status in expected.items():
        done = run("fetch", *arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
        assert len(done.stderr.splitlines()) >= 2
    assert not (tmp_path / "gateway").exists()


def test_other_files_are_not_replaced_unless_that_is_asked_for(
    run: Run, tmp_path: Path, archive: Path
) -> None:
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / "gateway.url").write_text("https://old.example:8000")
    refused = run("fetch", "--credentials", archive)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "gateway.url in gateway already exists with other content; nothing was written" in refused.stderr
    assert [path.name for path in folder.iterdir()] == ["gateway.url"]
    assert run("fetch", "--credentials", archive, "--replace").returncode == 0
    again = json.loads(run("fetch", "--credentials", archive, "--json").stdout)
    assert (again["folder"], again["written"]) == ("gateway", [])
    assert {path.name for path in folder.iterdir()} == {"gateway.url", "root.crt"}


def configured(base: Path, **keys: str) -> ClientConfig:
    client = parse_config({"client": {**CLIENT, **keys}}, base=base, source="a test").client
    assert client is not None
    return client


def written(path: Path, *signers: Signer) -> str:
    path.write_bytes(b"".join(signer.pem for signer in signers))
    return str(path)


def test_a_line_is_configured_with_the_archive_itself(tmp_path: Path, archive: Path) -> None:
    files = gateway_files(configured(tmp_path, credentials=archive.name), NOW)
    assert files is not None
    assert (files.url, files.ca, files.ca_path) == (URL, ROOT.pem, None)
    with pytest.raises(ConfigError, match="not now"):
        gateway_files(configured(tmp_path, credentials=archive.name), NOW + timedelta(days=1000))


def test_an_archive_and_an_address_beside_it_are_refused(tmp_path: Path) -> None:
    for key in ("gateway_url", "server_ca"):
        with pytest.raises(ConfigError, match="remove it or those"):
            configured(tmp_path, credentials="c.zip", **{key: "x"})


def test_an_archive_without_a_ca_is_no_configuration(tmp_path: Path) -> None:
    make_zip(tmp_path / "c.zip", {"autoprov.url": URL.encode()})
    with pytest.raises(ConfigError, match="doesn't contain the gateway's CA"):
        gateway_files(configured(tmp_path, credentials="c.zip"), NOW)


def test_a_server_ca_is_given_to_devices_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "server_ca.pem"
    written(path, ROOT, STRANGER)
    path.write_bytes(b"the old one and the next\n" + path.read_bytes())
    files = gateway_files(configured(tmp_path, server_ca=path.name, gateway_url="gw.example"), NOW)
    assert files is not None
    assert (files.url, files.ca, files.ca_path) == ("https://gw.example:8000", path.read_bytes(), path)
    assert gateway_files(configured(tmp_path), NOW) is None


def test_a_server_ca_that_no_device_should_get_is_refused(tmp_path: Path) -> None:
    old = authority("old root", NOW - timedelta(days=9), NOW - timedelta(days=2))
    cases = {
        written(tmp_path / "old.pem", old): "not now",
        written(
            tmp_path / "old-servers.pem", old.server([], NOW - timedelta(9), NOW - timedelta(2))
        ): "no CA",
        written(tmp_path / "empty.pem"): "contains no readable PEM certificate",
        str(tmp_path / "missing.pem"): "can't read",
        str(tmp_path): "can't read",
    }
    (tmp_path / "key.pem").write_bytes(ROOT.pem + ROOT.key_pem)
    cases[str(tmp_path / "key.pem")] = "contains a private key"
    for path, reason in cases.items():
        with pytest.raises(ConfigError, match=reason):
            gateway_files(configured(tmp_path, server_ca=path), NOW)
