"""Key ceremonies as the security team holds them: what is made, what is refused, and what is on record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.external_ca import DAYS, external_root, sign
from support.harness import Fleet
from support.programs import openssl


def another_ca(fleet: Fleet) -> Path:
    """Name a key and a certificate that don't exist yet; return the certificate's path."""
    fleet.edit("ca/fleet-root.pem", "ca/fleet-ca.pem")
    fleet.edit("object=fleet-root;id=%01", "object=fleet-ca;id=%02")
    return fleet.folder / "ca/fleet-ca.pem"


def requested(fleet: Fleet) -> Path:
    """Make a CSR for a CA below an external root; return its path."""
    csr = fleet.folder / "fleet-ca.csr"
    done = fleet.run("ca", "csr", "--name", "Fleet CA", "--organization", "Acme", "-o", str(csr))
    assert done.returncode == 0, done.stderr
    return csr


def records(fleet: Fleet) -> list[str]:
    return [path.read_text() for path in sorted((fleet.folder / "ca/ceremonies").iterdir())]


def test_an_intermediate_is_made_below_an_external_root_and_issues(fleet: Fleet, tmp_path: Path) -> None:
    certificate = another_ca(fleet)
    csr = requested(fleet)
    text = openssl("req", "-in", csr, "-noout", "-text", "-verify").text
    assert "Subject: O = Acme, CN = Fleet CA\n" in text
    assert "CA:TRUE, pathlen:0" in text
    assert "self-signature verify OK" in text
    external_root(tmp_path)
    sign(tmp_path, csr, tmp_path / "signed.pem")
    alone = fleet.run("ca", "import", str(tmp_path / "signed.pem"))
    assert alone.returncode == 2
    assert "the certificate of CN=Acme Root is missing" in alone.stderr
    assert not certificate.exists()
    done = fleet.run("ca", "import", str(tmp_path / "root.pem"), str(tmp_path / "signed.pem"))
    assert done.returncode == 0, done.stderr
    assert fleet.run("ca", "show").returncode == 0
    again = fleet.run("ca", "import", str(tmp_path / "root.pem"), str(tmp_path / "signed.pem"))
    assert again.returncode == 2
    assert "exists; nothing was written" in again.stderr
    for what, count in (("anchor", 1), ("certificate", 1), ("chain", 2)):
        assert fleet.run("ca", "export", what).stdout.count("BEGIN CERTIFICATE") == count
    exported = fleet.run("ca", "export", "anchor").stdout
    assert exported.replace("\n", "") == (tmp_path / "root.pem").read_text().replace("\n", "")
    request, imported = records(fleet)
    assert re.search(r"^CSR for +CN=Fleet CA$", request, re.MULTILINE)
    assert re.search(r"^certificate +CN=Fleet CA,O=Acme$", imported, re.MULTILINE)


@pytest.mark.parametrize(
    ("extensions", "why"),
    [
        (("basicConstraints=critical,CA:FALSE",), "is not a CA certificate"),
        (("basicConstraints=critical,CA:TRUE", "keyUsage=digitalSignature"), "keyUsage lacks keyCertSign"),
        (
            ("basicConstraints=critical,CA:TRUE", "extendedKeyUsage=serverAuth"),
            "has an extendedKeyUsage without clientAuth",
        ),
    ],
)
def test_a_certificate_under_which_no_device_could_be_is_not_imported(
    fleet: Fleet, tmp_path: Path, extensions: tuple[str, ...], why: str
) -> None:
    certificate = another_ca(fleet)
    csr = requested(fleet)
    external_root(tmp_path)
    sign(tmp_path, csr, tmp_path / "signed.pem", *extensions)
    done = fleet.run("ca", "import", str(tmp_path / "root.pem"), str(tmp_path / "signed.pem"))
    assert done.returncode == 2
    assert why in done.stderr
    assert not certificate.exists()


def test_a_root_that_allows_no_ca_below_it_is_told(fleet: Fleet, tmp_path: Path) -> None:
    another_ca(fleet)
    csr = requested(fleet)
    external_root(tmp_path, "keyUsage=critical,keyCertSign", "basicConstraints=critical,CA:TRUE,pathlen:0")
    sign(tmp_path, csr, tmp_path / "signed.pem")
    done = fleet.run("ca", "import", str(tmp_path / "root.pem"), str(tmp_path / "signed.pem"))
    assert done.returncode == 2
    assert "CN=Acme Root allows 0 CAs below it (pathLenConstraint), but has 1" in done.stderr


def test_a_certificate_of_another_key_is_not_imported(fleet: Fleet, tmp_path: Path) -> None:
    certificate = another_ca(fleet)
    csr = requested(fleet)
    external_root(tmp_path)
    sign(tmp_path, csr, tmp_path / "signed.pem")
    fleet.edit("object=fleet-ca;id=%02", "object=fleet-root;id=%01")
    done = fleet.run("ca", "import", str(tmp_path / "root.pem"), str(tmp_path / "signed.pem"))
    assert done.returncode == 3
    assert "does not verify with the public key" in done.stderr
    assert not certificate.exists()


def test_a_csr_can_be_made_again_with_the_key_that_exists(fleet: Fleet) -> None:
    another_ca(fleet)
    first = requested(fleet)
    second = fleet.folder / "second.csr"
    twice = fleet.run("ca", "csr", "--name", "Fleet CA", "-o", str(second))
    assert twice.returncode == 4
    assert "the token already holds" in twice.stderr
    done = fleet.run("ca", "csr", "--name", "Fleet CA", "-o", str(second), "--reuse-key")
    assert done.returncode == 0, done.stderr
    keys = [openssl("req", "-in", csr, "-noout", "-pubkey").text for csr in (first, second)]
    assert keys[0] == keys[1]


def test_a_cloud_is_shown_that_the_ca_is_ours(fleet: Fleet, tmp_path: Path) -> None:
    proof = tmp_path / "proof.pem"
    done = fleet.run("ca", "prove-possession", "66cdba55-registration-code", "-o", str(proof))
    assert done.returncode == 0, done.stderr
    assert openssl("verify", "-x509_strict", "-CAfile", fleet.root_pem, proof).good
    assert (
        openssl("x509", "-in", proof, "-noout", "-subject").text
        == "subject=CN = 66cdba55-registration-code\n"
    )
    # It is no device: a gateway must not take it for one.
    purpose = openssl("x509", "-in", proof, "-noout", "-text").text
    assert "CA:FALSE" in purpose
    for code in ("", "x" * 65, "a\nb"):
        assert fleet.run("ca", "prove-possession", code, "-o", str(tmp_path / "other")).returncode == 2


@pytest.mark.parametrize(
    "algorithm",
    [
        ("EC", "ec_paramgen_curve:P-256"),
        ("EC", "ec_paramgen_curve:P-384"),
        ("RSA", "rsa_keygen_bits:2048"),
        ("ED25519", ""),
    ],
    ids=["ec-p256", "ec-p384", "rsa-2048", "ed25519"],
)
def test_the_seeds_ca_key_is_brought_into_the_token_with_a_warning(
    fleet: Fleet, tmp_path: Path, algorithm: tuple[str, str]
) -> None:
    certificate = another_ca(fleet)
    kind, parameter = algorithm
    key = tmp_path / "ca.key"
    options = ["-pkeyopt", parameter] if parameter else []
    assert openssl("genpkey", "-algorithm", kind, *options, "-out", key).good
    root = openssl(
        "req", "-x509", "-key", key, "-subj", "/CN=Seed root", *DAYS, "-out", certificate, "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    assert root.good, root.text
    refused = fleet.run("ca", "import-key", str(key), "--yes")
    assert refused.returncode == 2
    assert 'accept = ["not-local"]' in refused.stderr
    fleet.edit(
        'key = "pkcs11:object=fleet-ca;id=%02"',
        'key = "pkcs11:object=fleet-ca;id=%02"\naccept = ["not-local"]',
    )
    done = fleet.run("ca", "import-key", str(key), "--yes")
    assert done.returncode == 0, done.stderr
    assert "WARNING: this key was outside the token" in done.stderr
    assert key.exists()
    shown = fleet.run("ca", "show")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^CKA_LOCAL +false$", shown.stdout, re.MULTILINE)
    assert re.search(r"^CKA_EXTRACTABLE +false$", shown.stdout, re.MULTILINE)
    assert "WARNING: not-local" in shown.stderr
    assert "WARNING: not-local" in records(fleet)[-1]
    again = fleet.run("ca", "import-key", str(key), "--yes")
    assert again.returncode == 4
    assert "the token already holds" in again.stderr


def test_a_key_that_is_not_the_certificates_is_not_imported(fleet: Fleet, tmp_path: Path) -> None:
    key = tmp_path / "other.key"
    assert openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key).good
    done = fleet.run("ca", "import-key", str(key), "--yes")
    assert done.returncode == 2
    assert "is not the one of [ca] certificate" in done.stderr
    (tmp_path / "none.key").write_text("no key")
    done = fleet.run("ca", "import-key", str(tmp_path / "none.key"), "--yes")
    assert done.returncode == 2
    assert "has no PEM private key" in done.stderr


def test_a_rehearsal_takes_its_answers_from_a_file(fleet: Fleet, tmp_path: Path) -> None:
    another_ca(fleet)
    answers = tmp_path / "rehearsal.toml"
    record = tmp_path / "record.txt"
    answers.write_text(
        f'[init]\nname = "Rehearsed root"\ndays = 10\noperator = ["Alice", "Bob"]\nrecord = "{record}"\n'
        "[import-key]\nyes = true\n"
    )
    done = fleet.run("ca", "init", "--answers", str(answers), "--days", "20")
    assert done.returncode == 0, done.stderr
    root = fleet.folder / "ca/fleet-ca.pem"
    assert "CN = Rehearsed root" in openssl("x509", "-in", root, "-noout", "-subject").text
    assert openssl(
        "x509", "-in", root, "-noout", "-checkend", str(19 * 86400)
    ).good  # the command line counts
    text = record.read_text()
    sha256 = (
        openssl("x509", "-in", root, "-noout", "-fingerprint", "-sha256").text.strip().split("=")[1].lower()
    )
    for expected in (
        r"ceremony +ca init",
        r"token +pkcs11:token=otahsm-quickstart;serial=[0-9a-f]{16};manufacturer=SoftHSM%20project;.*",
        r"key +pkcs11:object=fleet-ca;id=%02",
        r"CKA_EXTRACTABLE +false",
        r"CKA_LOCAL +true",
        r"certificate +CN=Rehearsed root",
        f"certificate, SHA-256 +{sha256}",
        r"Alice +_+",
        r"Bob +_+",
    ):
        assert re.search(f"^{expected}$", text, re.MULTILINE), expected
    answers.write_text("[init]\nnmae = 'x'\n")
    wrong = fleet.run("ca", "init", "--answers", str(answers))
    assert wrong.returncode == 2
    assert "[init] has no nmae" in wrong.stderr
