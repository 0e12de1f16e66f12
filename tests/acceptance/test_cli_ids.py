"""Ids as the line has them: from serial numbers, tables and templates; and the forms that folders take."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import uuid
from pathlib import Path

import pytest
from cryptography import x509

from support.harness import Fleet
from support.programs import openssl, unpack

NAMESPACE = uuid.UUID("7f3c1e0a-94a5-4d52-a8b6-0f5bd1f3f3b1")


def issue(line: Fleet, out: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return line.run("device", "issue", "--out", str(out), *map(str, options))


def made(out: Path) -> set[str]:
    return {path.parent.name for path in out.glob("[!.]*/client.pem")}


def test_a_table_of_serial_numbers_always_makes_the_same_devices(line: Fleet, tmp_path: Path) -> None:
    table = tmp_path / "units.csv"
    table.write_text("serial,plant\nSN-1,ulm\nSN-2,ulm\n")
    options = ("--ids", table, "--uuid5", str(NAMESPACE))
    assert issue(line, tmp_path / "out", *options).returncode == 0
    assert made(tmp_path / "out") == {str(uuid.uuid5(NAMESPACE, name)) for name in ("SN-1", "SN-2")}
    again = issue(line, tmp_path / "out", *options)
    assert again.stdout.startswith("0 issued")
    assert "2 already complete" in again.stdout


def test_a_template_goes_on_where_the_last_one_ended(line: Fleet, tmp_path: Path) -> None:
    template = ("--template", "{plant}-cam-{seq:04d}", "--set", "plant=ids")
    assert issue(line, tmp_path, "--count", "2", *template).returncode == 0
    assert issue(line, tmp_path, "--count", "2", "--first", "3", *template).returncode == 0
    assert made(tmp_path) == {f"ids-cam-000{number}" for number in range(1, 5)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--count", "2", "--template", "cam"), "gives every device the same id"),
        (("--count", "2", "--template", "{seq"), "invalid template: a brace has no partner"),
        (("--count", "1", "--template", "{foo}"), "Set it with --set foo=VALUE"),
        (("--count", "2", "--uuid5", "dns"), "needs serial numbers"),
        (("--count", "2", "--profile", "nope"), "no profile 'nope'; the daemon has ota-connect"),
        (("--ids", "units.csv", "--uuid5", "ulm"), "is not a namespace"),
        (("--ids", "units.csv", "--uuid5", "dns", "--template", "{serial}"), "either --uuid5 or"),
        (("--count", "1", "--set", "Plant=ulm"), "write NAME=VALUE"),
        (("--count", "1", "--set", "a=1", "--set", "a=2"), "each name once"),
        (("--ids", "units.csv"), "line 1: the first line must name the columns, with device_id, each once"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_made(
    line: Fleet, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    (tmp_path / "units.csv").write_text("serial\nSN-1\n")
    told = [str(tmp_path / word) if word == "units.csv" else word for word in options]
    done = issue(line, tmp_path / "out", *told)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layout", "certificate"),
    [("aktualizr", "var/sota/import/client.pem"), ("flat", "../lay-flat.client.pem"), ("tar", "")],
)
def test_every_layout_holds_what_a_device_needs(
    line: Fleet, tmp_path: Path, layout: str, certificate: str
) -> None:
    name = f"lay-{layout}"
    ids = tmp_path / "ids.csv"
    ids.write_text(f"device_id,hardware_id\n{name},imx8\n")
    for before in (0, 1):
        done = issue(line, tmp_path / "out", "--ids", ids, "--layout", layout, "--json")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout.splitlines()[-1])
        assert (summary["issued"], summary["complete_before"]) == (1 - before, before)
    folder = tmp_path / "out" / name
    if layout == "tar":
        unpack(tmp_path / f"out/{name}.tar", tmp_path / "out")
        certificate = "client.pem"
    elif layout == "flat":
        folder.mkdir()
    else:
        assert 'primary_ecu_hardware_id = "imx8"' in (folder / "var/sota/sota.toml").read_text()
    verdict = openssl("verify", "-x509_strict", "-CAfile", line.root_pem, folder / certificate)
    assert verdict.good, verdict.text


def test_keys_are_encrypted_with_a_passphrase_from_a_file_or_a_command(line: Fleet, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    for number, options in enumerate(
        [("--passphrase-file", str(secret)), ("--passphrase-command", f"cat {secret}")]
    ):
        secret.chmod(0o644)
        if options[0] == "--passphrase-file":
            refused = issue(line, tmp_path / "out", "--count", "1", *options)
            assert refused.returncode == 2
            assert "chmod 600" in refused.stderr
            secret.chmod(0o600)
        out = tmp_path / f"out-{number}"
        assert issue(line, out, "--count", "1", *options).returncode == 0
        (folder,) = (path for path in out.iterdir() if path.is_dir())
        assert not (folder / "pkey.ec.pem").exists()
        certificate = x509.load_pem_x509_certificate((folder / "client.pem").read_bytes())
        key = openssl("pkey", "-in", folder / "pkey.pem", "-passin", "pass:correct horse", "-pubout")
        shown = openssl("x509", "-in", folder / "client.pem", "-noout", "-pubkey")
        assert key.text == shown.text, certificate
        assert not openssl("pkey", "-in", folder / "pkey.pem", "-passin", "pass:x", "-noout").good


def test_a_batch_is_packed_into_one_archive_for_its_owner_alone(line: Fleet, tmp_path: Path) -> None:
    out, archive = tmp_path / "out", tmp_path / "batch.tar"
    assert issue(line, out, "--count", "3").returncode == 0
    (out / "not-complete").mkdir()
    done = line.run("device", "pack", "--out", str(out), "--output", str(archive))
    assert (done.returncode, done.stdout) == (0, f"3 devices in {archive}\n")
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as packed:
        names = {name.partition("/")[0] for name in packed.getnames()}
    unpack(archive, tmp_path / "unpacked")
    assert names == made(out)
    for name in names:
        unpacked = tmp_path / "unpacked" / name
        assert (unpacked / "ca.pem").read_bytes() == (out / name / "root.crt").read_bytes()
        assert (unpacked / "pkey.pem").read_bytes() == (out / name / "pkey.pem").read_bytes()
    again = line.run("device", "pack", "--out", str(out), "--output", str(archive))
    assert again.returncode == 2
    assert "exists" in again.stderr
    missing = line.run("device", "pack", "not-complete", "--out", str(out), "-o", str(tmp_path / "x.tar"))
    assert missing.returncode == 2
    assert "only 0 of these devices are complete" in missing.stderr
    assert not (tmp_path / "x.tar").exists()


def test_quiet_says_only_what_failed(line: Fleet, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("quiet-1\n.bad\n")
    done = issue(line, tmp_path / "out", "--ids", ids, "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("failed: '.bad'")
    assert len(done.stderr.splitlines()) == 1
