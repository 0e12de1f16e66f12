"""`otahsm csr sign` as its users type it: CSRs in files and folders, good ones and others."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from cryptography import x509

from otahsm.line import make_device_key

from support.harness import Fleet
from support.programs import openssl


def write_csr(path: Path, device_id: str = "") -> str:
    """Write a CSR, in the form that the name's ending says; return its device id."""
    device_id = device_id or str(uuid.uuid4())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_device_key(device_id, "ec-p256").csr)
    if path.suffix != ".der":
        assert openssl("req", "-inform", "DER", "-in", path, "-out", path).good
    return device_id


def sign(line: Fleet, out: Path, *paths: Path) -> tuple[int, list[Any], dict[str, Any]]:
    done = line.run("csr", "sign", "--json", "--out", str(out), *map(str, paths))
    assert done.stderr == ""
    *reports, summary = [json.loads(text) for text in done.stdout.splitlines()]
    assert summary["type"] == "summary"
    return done.returncode, reports, summary


def test_a_csr_in_pem_and_one_in_der_are_signed(line: Fleet, tmp_path: Path) -> None:
    files = [tmp_path / "a.pem", tmp_path / "b.der"]
    ids = [write_csr(path) for path in files]
    status, reports, summary = sign(line, tmp_path / "out", *files)
    assert status == 0
    assert {report["device_id"] for report in reports} == set(ids)
    assert summary["issued"] == 2
    for device_id in ids:
        folder = tmp_path / "out" / device_id
        assert {path.name for path in folder.iterdir()} == {
            f"{device_id}.csr",
            "client.pem",
            f"{device_id}.chain.pem",
            "ca.pem",
            "root.crt",
            "gateway.url",
        }
        csr = x509.load_pem_x509_csr((folder / f"{device_id}.csr").read_bytes())
        certificate = x509.load_pem_x509_certificate((folder / "client.pem").read_bytes())
        assert certificate.public_key() == csr.public_key()
        assert openssl("verify", "-CAfile", line.root_pem, folder / "client.pem").good


def test_every_csr_in_a_folder_and_its_folders_is_signed(line: Fleet, tmp_path: Path) -> None:
    names = ("1.csr", "2.PEM", "deep/3.der", "deep/er/4.req", "5.p10")
    ids = {write_csr(tmp_path / "in" / name) for name in names}
    (tmp_path / "in/notes.txt").write_text("no CSR, and not asked about")
    status, reports, _ = sign(line, tmp_path / "out", tmp_path / "in")
    assert status == 0
    assert {report["device_id"] for report in reports} == ids


def test_the_same_csr_twice_and_the_same_command_again_give_the_same_certificate(
    line: Fleet, tmp_path: Path
) -> None:
    device_id = write_csr(tmp_path / "a.csr")
    (tmp_path / "b.csr").write_bytes((tmp_path / "a.csr").read_bytes())
    certificate = tmp_path / "out" / device_id / "client.pem"
    status, reports, _ = sign(line, tmp_path / "out", tmp_path / "a.csr", tmp_path / "b.csr")
    assert status == 0
    assert [report["device_id"] for report in reports] == [device_id]
    first = certificate.read_bytes()
    assert sign(line, tmp_path / "out", tmp_path / "a.csr")[0] == 0
    assert certificate.read_bytes() == first


def test_what_is_no_csr_is_listed_with_its_reason_and_costs_no_neighbour(line: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    good = {write_csr(folder / f"good-{number}.csr") for number in range(3)}
    (folder / "text.csr").write_text("hello")
    (folder / "empty.csr").write_bytes(b"")
    (folder / "huge.der").write_bytes(os.urandom(5_000_000))
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n")
    (folder / "certificate.pem").write_bytes(line.root_pem.read_bytes())
    write_csr(folder / "escape.csr", "../escape")
    missing = tmp_path / "missing.csr"
    status, reports, summary = sign(line, tmp_path / "out", folder, missing)
    assert status == 1
    assert {report["device_id"] for report in reports if report["type"] == "issued"} == good
    failed = {Path(report["name"]).name: report for report in reports if report["type"] == "failed"}
    assert {name: report["code"] for name, report in failed.items()} == {
        "text.csr": "INVALID_ARGUMENT",
        "empty.csr": "INVALID_ARGUMENT",
        "huge.der": "INVALID_ARGUMENT",
        "broken.pem": "FAILED_PRECONDITION",
        "certificate.pem": "FAILED_PRECONDITION",
        "escape.csr": "INVALID_ARGUMENT",
        "missing.csr": "FAILED_PRECONDITION",
    }
    assert all(report["message"] and report["hint"] for report in failed.values())
    assert "contains a CERTIFICATE, not a CERTIFICATE REQUEST" in failed["certificate.pem"]["message"]
    assert "No such file or directory" in failed["missing.csr"]["message"]
    assert (summary["issued"], summary["failed"]) == (3, 7)
    assert {path.name for path in (tmp_path / "out").iterdir()} == good | {".lock", ".otahsm.sqlite3"}


def test_another_key_for_a_device_is_a_conflict_and_leaves_its_folder_alone(
    line: Fleet, tmp_path: Path
) -> None:
    device_id = write_csr(tmp_path / "first.csr")
    write_csr(tmp_path / "second.csr", device_id)
    assert sign(line, tmp_path / "out", tmp_path / "first.csr")[0] == 0
    folder = tmp_path / "out" / device_id
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    status, (report,), _ = sign(line, tmp_path / "out", tmp_path / "second.csr")
    assert status == 1
    assert (report["code"], report["reason"]) == ("ALREADY_EXISTS", "CONFLICT")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_was_refused_is_told_again_and_only_new_csrs_are_asked_for(line: Fleet, tmp_path: Path) -> None:
    good = write_csr(tmp_path / "in/good.csr")
    (tmp_path / "in/text.csr").write_text("hello")
    first = sign(line, tmp_path / "out", tmp_path / "in")
    assert (first[0], first[2]["issued"], first[2]["failed"]) == (1, 1, 1)
    new = write_csr(tmp_path / "in/new.csr")
    _, reports, summary = sign(line, tmp_path / "out", tmp_path / "in")
    kinds = {report["device_id"]: report["type"] for report in reports if "device_id" in report}
    assert kinds == {good: "complete", new: "issued"}
    (failed,) = (report for report in reports if report["type"] == "failed")
    assert (Path(failed["name"]).name, failed["remembered"]) == ("text.csr", True)
    assert summary["failed"] == 1
    corrected = write_csr(tmp_path / "in/text.csr")
    status, reports, _ = sign(line, tmp_path / "out", tmp_path / "in")
    assert status == 0
    assert {report["device_id"] for report in reports if report["type"] == "issued"} == {corrected}


def test_a_folder_without_csrs_is_explained(line: Fleet, tmp_path: Path) -> None:
    done = line.run("csr", "sign", str(tmp_path))
    assert done.returncode == 2
    assert "no CSR found in the paths given" in done.stderr
    assert ".csr" in done.stderr
