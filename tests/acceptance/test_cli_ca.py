"""The `otahsm ca` commands as the security team types them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from otahsm.quickstart.certificates import FileCa

from support.harness import Fleet
from support.programs import QUICKSTART_ROOT, make_ca, openssl

NEW_FILE = ('certificate = "ca/fleet-root.pem"', 'certificate = "ca/new-root.pem"')
NEW_LABEL = ("object=fleet-root", "object=new-root")
NEW_ID = ("id=%01", "id=%02")


def show(fleet: Fleet) -> Any:
    done = fleet.run("ca", "show", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ca_init_refuses_to_replace_a_certificate(fleet: Fleet) -> None:
    fleet.edit(*NEW_LABEL)
    fleet.edit(*NEW_ID)
    before = fleet.root_pem.read_bytes()
    done = fleet.run("ca", "init")
    assert done.returncode == 2
    assert "fleet-root.pem exists; nothing was changed" in done.stderr
    assert fleet.root_pem.read_bytes() == before


@pytest.mark.parametrize("edit", [NEW_LABEL, NEW_ID], ids=["id-exists", "label-exists"])
def test_ca_init_refuses_a_label_or_an_id_that_the_token_holds(fleet: Fleet, edit: tuple[str, str]) -> None:
    config = fleet.toml.read_text()
    fleet.edit(*NEW_FILE)
    fleet.edit(*edit)
    done = fleet.run("ca", "init")
    assert done.returncode == 4
    assert "the token already holds" in done.stderr
    assert "nothing was changed" in done.stderr
    assert not (fleet.folder / "ca/new-root.pem").exists()
    fleet.toml.write_text(config)
    assert show(fleet)["key"]["belongs to the certificate"] == "yes"


def test_ca_init_makes_the_root_that_was_asked_for(fleet: Fleet) -> None:
    done = make_ca(fleet, "--key-type", "ec-p384", "--days", "30")
    assert done.returncode == 0, done.stderr
    root = fleet.folder / "ca/another-root.pem"
    text = openssl("x509", "-in", root, "-noout", "-text").text
    assert f"Subject: CN = {QUICKSTART_ROOT}\n" in text
    assert f"Issuer: CN = {QUICKSTART_ROOT}\n" in text
    assert "NIST CURVE: P-384" in text
    assert re.search(r"X509v3 Basic Constraints: critical\n +CA:TRUE, pathlen:0\n", text)
    assert re.search(r"X509v3 Key Usage: critical\n +Certificate Sign, CRL Sign\n", text)
    assert openssl("verify", "-x509_strict", "-check_ss_sig", "-CAfile", root, root).good
    days = 24 * 60 * 60
    assert openssl("x509", "-in", root, "-noout", "-checkend", str(29 * days)).good
    assert not openssl("x509", "-in", root, "-noout", "-checkend", str(30 * days)).good
    assert show(fleet)["key"]["type"] == "ec-p384"


@pytest.mark.parametrize(
    "options", [("--name", "x" * 65), ("--key-type", "rsa-1024")], ids=["65-characters", "rsa-1024"]
)
def test_ca_init_refuses_what_makes_no_sense(fleet: Fleet, options: tuple[str, ...]) -> None:
    fleet.edit(*NEW_FILE)
    fleet.edit(*NEW_LABEL)
    fleet.edit(*NEW_ID)
    done = fleet.run("ca", "init", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (fleet.folder / "ca/new-root.pem").exists()


def test_ca_show_reports_a_key_that_signs_and_can_not_leave_the_token(fleet: Fleet) -> None:
    report = show(fleet)
    assert report["attributes"] == report["attributes"] | {
        "CKA_TOKEN": "true",
        "CKA_PRIVATE": "true",
        "CKA_SENSITIVE": "true",
        "CKA_ALWAYS_SENSITIVE": "true",
        "CKA_EXTRACTABLE": "false",
        "CKA_NEVER_EXTRACTABLE": "true",
        "CKA_LOCAL": "true",
        "CKA_SIGN": "true",
        "CKA_DECRYPT": "false",
        "CKA_UNWRAP": "false",
        "CKA_DERIVE": "false",
    }
    assert report["key"]["belongs to the certificate"] == "yes"
    (root,) = report["chain"]
    fingerprint = openssl("x509", "-in", fleet.root_pem, "-noout", "-fingerprint", "-sha256").text
    assert fingerprint.strip().lower() == f"sha256 fingerprint={root['SHA-256']}"


def test_ca_show_says_the_same_to_people(fleet: Fleet) -> None:
    done = fleet.run("ca", "show")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for expected in (
        f"subject CN={QUICKSTART_ROOT}",
        "belongs to the certificate yes",
        "CKA_SENSITIVE true",
        "CKA_EXTRACTABLE false",
        "CKA_SIGN true",
    ):
        assert expected in lines


def foreign_root(fleet: Fleet) -> None:
    FileCa.create(QUICKSTART_ROOT).write_certificate(fleet.root_pem)


def root_of_another_type(fleet: Fleet) -> None:
    config = fleet.toml.read_text()
    assert make_ca(fleet, "--key-type", "rsa-2048").returncode == 0
    fleet.toml.write_text(config)
    fleet.root_pem.write_bytes((fleet.folder / "ca/another-root.pem").read_bytes())


@pytest.mark.parametrize("swap", [foreign_root, root_of_another_type])
def test_ca_show_exits_with_4_if_the_certificate_is_of_another_key(fleet: Fleet, swap: Any) -> None:
    swap(fleet)
    done = fleet.run("ca", "show", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["key"]["belongs to the certificate"] == "NO"
    assert "Traceback" not in done.stderr


def test_ca_show_without_a_certificate_says_how_to_make_one(fleet: Fleet) -> None:
    fleet.root_pem.unlink()
    done = fleet.run("ca", "show")
    assert done.returncode == 2
    assert "fleet-root.pem: No such file or directory" in done.stderr
    assert "otahsm ca init" in done.stderr


def test_ca_show_without_a_key_says_which_key_is_missing(fleet: Fleet) -> None:
    fleet.edit(*NEW_LABEL)
    done = fleet.run("ca", "show")
    assert done.returncode == 3
    assert "no private key in the token matches pkcs11:object=new-root;id=%01" in done.stderr
    assert "pkcs11:object=fleet-root;id=%01" in done.stderr  # what it has instead
    assert "Traceback" not in done.stderr
