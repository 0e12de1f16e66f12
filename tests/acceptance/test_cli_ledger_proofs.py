"""`otahsm ledger`: checkpoints, proofs and verification as an auditor types them."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from otahsm.tlog import VerifierKey, parse_note

from support.harness import Fleet, RunningDaemon
from support.programs import issue, openssl

VKEY = "ca/checkpoint.vkey"


@pytest.fixture
def line(daemon: RunningDaemon) -> Fleet:
    daemon.configure_client()
    return daemon.fleet


def run(fleet: Fleet, *arguments: str | Path, status: int = 0) -> str:
    """Run `otahsm ledger`; return what it said."""
    done = fleet.run("ledger", *(str(argument) for argument in arguments))
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def serial_of(certificate: Path) -> str:
    return openssl("x509", "-in", certificate, "-noout", "-serial").text.strip().partition("=")[2]


def test_a_certificate_is_proven_with_nothing_but_proof_and_key(line: Fleet, tmp_path: Path) -> None:
    first, second = issue(line, tmp_path / "devices", ["first", "second"])
    run(line, "prove", serial_of(first / "client.pem"), "--output", "first.proof")
    elsewhere = tmp_path / "auditor"
    elsewhere.mkdir()
    for name in ("first.proof", VKEY):
        shutil.copy(line.folder / name, elsewhere)
    auditor = Fleet(elsewhere)
    checked = ("check-proof", "first.proof", "--key", "checkpoint.vkey", "--certificate")
    assert "Proven: the log has this" in run(auditor, *checked, first / "client.pem")
    der = elsewhere / "first.der"
    assert openssl("x509", "-in", first / "client.pem", "-outform", "DER", "-out", der).good
    assert "Proven" in run(auditor, *checked, der)
    assert "is not about the certificate" in run(auditor, *checked, second / "client.pem", status=1)
    proven = json.loads(run(auditor, *checked[:-1], "--json"))
    assert proven["leaf"]["device_id"] == "first"
    assert "--since is only for" in run(auditor, *checked[:-1], "--since", "first.proof", status=2)


def size_of(note: Path) -> int:
    """Return how many leaves the tree of a checkpoint has (c2sp.org/tlog-checkpoint)."""
    return int(note.read_text().splitlines()[1])


def test_growth_is_proven_with_nothing_but_proof_key_and_the_older_checkpoint(
    line: Fleet, tmp_path: Path
) -> None:
    issue(line, tmp_path / "one", ["a", "b", "c"])
    run(line, "checkpoint", "--new", "--output", "old.note")
    issue(line, tmp_path / "two", ["d", "e"])
    run(line, "checkpoint", "--new", "--output", "new.note")
    run(line, "prove-consistency", "old.note", "--output", "growth.proof")
    check = ("check-proof", "growth.proof", "--key", VKEY)
    old, new = (size_of(line.folder / name) for name in ("old.note", "new.note"))
    assert new >= old + 2 >= 5  # two certificates, three before, and events
    assert f"only grew, from {old} leaves to {new}" in run(line, *check, "--since", "old.note")
    assert json.loads(run(line, *check, "--since", "old.note", "--json"))["size"] == new
    run(line, *check, "--since", "new.note", status=1)
    run(line, *check, status=2)
    assert "exists; nothing was written" in run(line, "checkpoint", "--output", "old.note", status=2)


def test_a_proof_is_worth_nothing_with_another_key(line: Fleet, tmp_path: Path) -> None:
    (device,) = issue(line, tmp_path / "devices", ["a"])
    run(line, "prove", serial_of(device / "client.pem"), "--output", "a.proof")
    key = VerifierKey.parse((line.folder / VKEY).read_text().strip())
    text = openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout").text
    pem = tmp_path / "other.pem"
    pem.write_text(text)
    der = tmp_path / "other.der"
    assert openssl("pkey", "-in", pem, "-pubout", "-outform", "DER", "-out", der).good
    other = VerifierKey.from_spki(key.name, der.read_bytes())
    (line.folder / "other.vkey").write_text(other.vkey + "\n")
    assert "None of the trusted keys" in run(line, "check-proof", "a.proof", "--key", "other.vkey", status=1)


def test_openssl_verifies_a_checkpoint(line: Fleet, tmp_path: Path) -> None:
    issue(line, tmp_path / "devices", ["a"])
    run(line, "checkpoint", "--new", "--output", "a.note")
    note = parse_note((line.folder / "a.note").read_bytes())
    key = VerifierKey.parse((line.folder / VKEY).read_text().strip())
    for name, octets in (("text", note.text), ("sig", note.signatures[0].signature), ("key", key.public_key)):
        (tmp_path / name).write_bytes(octets)
    assert openssl("pkey", "-pubin", "-inform", "DER", "-in", tmp_path / "key", "-out", tmp_path / "pem").good
    verdict = openssl(
        "dgst", "-sha256", "-verify", tmp_path / "pem", "-signature", tmp_path / "sig", tmp_path / "text"
    )
    assert verdict.text.strip() == "Verified OK"


def test_verify_names_what_was_changed(line: Fleet, tmp_path: Path) -> None:
    issue(line, tmp_path / "devices", ["a", "b", "c"])
    run(line, "checkpoint", "--new", "--output", "kept.note")
    said = run(line, "verify", "--checkpoint", "kept.note")
    assert "Everything matches." in said
    signed = re.search(r"^\d+ leaves .* the first (\d+) are signed", said)
    assert signed
    # The daemon may have signed a later one since.
    assert int(signed[1]) >= size_of(line.folder / "kept.note")
    with closing(sqlite3.connect(line.folder / "ledger/ledger.sqlite3")) as database, database:
        database.execute("UPDATE intents SET client = 'cn:other' WHERE device_id = 'b'")
    said = run(line, "verify", status=1)
    assert "device 'b', differs from the log: it was changed" in said
    assert "1 MISMATCHES" in said
    found = json.loads(run(line, "verify", "--json", status=1))
    assert found["findings"] == 1
    assert found["first"][0]["where"].startswith("leaf ")


def test_verify_says_which_signatures_it_verified_and_which_not(line: Fleet, tmp_path: Path) -> None:
    issue(line, tmp_path / "devices", ["a", "b", "c"])
    said = run(line, "verify")
    assert (
        "signatures of 3 certificates and 0 CRLs verified; 0 CRL entries compared\nEverything matches."
        in said
    )
    alone = f'[ledger]\npath = "{line.folder}/ledger/ledger.sqlite3"\n'
    (tmp_path / "auditor.toml").write_text(alone)
    auditor = ("verify", "--config", tmp_path / "auditor.toml")
    said = run(line, *auditor)
    assert "NOT VERIFIED: signatures of 3 certificates and 0 CRLs: the configuration has no [ca]" in said
    assert said.endswith("Everything that was compared matches.\n")
    found = json.loads(run(line, *auditor, "--json"))["certificates"]
    assert (found["compared"], found["signatures_verified"]) == (3, 0)
    assert list(found["signatures_not_verified"].values()) == [3]
    with closing(sqlite3.connect(line.folder / "ledger/ledger.sqlite3")) as database, database:
        query = "SELECT der FROM certificates JOIN intents ON intent_id = id WHERE device_id = 'a'"
        ((der,),) = database.execute(query).fetchall()
        theirs = "(SELECT id FROM intents WHERE device_id = 'b')"
        database.execute(f"UPDATE certificates SET der = ? WHERE intent_id = {theirs}", (der,))
    said = run(line, "verify", status=1)
    assert "device 'b': its serial number is " in said
    assert "its public key is not the recorded one" in said
    (line.folder / "ca/fleet-root.pem").rename(tmp_path / "root.pem")
    assert "fleet-root.pem" in run(line, "verify", status=2)  # and not: it could not look


def test_verify_finds_a_ledger_that_was_cut_off_with_a_checkpoint_from_elsewhere(
    line: Fleet, daemon: RunningDaemon, tmp_path: Path
) -> None:
    issue(line, tmp_path / "devices", ["a", "b", "c"])
    run(line, "checkpoint", "--new", "--output", "kept.note")
    assert daemon.stop() == 0  # it may be making another one
    with closing(sqlite3.connect(line.folder / "ledger/ledger.sqlite3")) as database, database:
        for table in ("certificates", "intents", "events", "unlogged", "leaves", "nodes", "checkpoints"):
            database.execute(f"DELETE FROM {table}")
        database.execute("UPDATE tree SET size = 0, peaks = x''")
    assert "Everything matches" in run(line, "verify")
    said = run(line, "verify", "--checkpoint", "kept.note", "--key", VKEY, status=1)
    assert "it was truncated, or replaced by an older copy" in said


def test_init_key_makes_a_key_and_never_replaces_one(fleet: Fleet) -> None:
    vkey = fleet.folder / VKEY
    before = vkey.read_bytes()
    done = fleet.run("ledger", "init-key")
    assert (done.returncode, done.stdout) == (0, before.decode())
    assert "exists, and was not changed" in done.stderr
    assert "know what they signed last" in done.stderr
    assert vkey.read_bytes() == before
    fleet.edit(VKEY, "ca/new.vkey")
    assert "the token already holds" in run(fleet, "init-key", status=4)
    assert not (fleet.folder / "ca/new.vkey").exists()
    fleet.edit("object=ledger-checkpoint", "object=another")
    fleet.edit("id=%C1", "id=%C2")
    run(fleet, "init-key")
    key = VerifierKey.parse((fleet.folder / "ca/new.vkey").read_text().strip())
    assert fleet.config.checkpoint is not None
    assert key.name == fleet.config.checkpoint.origin
    assert key.vkey != before.decode().strip()


@pytest.mark.parametrize("serial", ["zz", "-1", "01" * 21])
def test_what_is_no_serial_number_is_refused(fleet: Fleet, serial: str) -> None:
    assert "takes a serial number" in run(fleet, "prove", "--", serial, status=2)


def test_an_unknown_serial_number_is_said_to_be_unknown(line: Fleet) -> None:
    assert "has no certificate with the serial number 11" in run(line, "prove", "11", status=1)


def test_a_file_that_is_no_evidence_is_named_and_not_taken_for_tampering(fleet: Fleet) -> None:
    (fleet.folder / "junk").write_bytes(b"\xff\n\n")
    for words in (
        ("check-proof", "junk", "--key", VKEY),
        ("check-proof", VKEY, "--key", "junk"),
        ("prove-consistency", "junk"),
        ("verify", "--key", "junk"),
        ("verify", "--checkpoint", "junk"),
    ):
        assert "junk: " in run(fleet, *words, status=2), words
    run(fleet, "check-proof", "no-such-file", "--key", VKEY, status=2)
    (fleet.folder / "ledger/ledger.sqlite3").unlink()
    run(fleet, "verify", status=2)
