"""A CA made with one signature of the root's key is worth nothing, unless the ceremony allowed it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asn1crypto import pem
from asn1crypto import x509 as asn1_x509

from otahsm.config import section
from otahsm.pki.certificate import Binding, Validity, assemble, build_tbs, encode_tbs
from otahsm.pki.chain import load_issuer
from otahsm.pki.extensions import extension, key_identifiers
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes import generate_key, sign
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import Profile
from otahsm.token.ceremony.key_pairs import new_serial

from support.attacks.forging import key_of
from support.harness import Fleet
from support.programs import Verdict, certtool, make_ca, openssl
from support.stolen_signature import signature_over

NOW = datetime.now(UTC).replace(microsecond=0)
VALIDITY = Validity(NOW - timedelta(hours=1), NOW + timedelta(days=1))


class Chains:
    """A device's certificate of the root, and one of a CA that the root's key has signed."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        ca = section(fleet.config.ca, "ca")
        self.root, self.device, self.middle, self.impostor = (
            ca.certificate, folder / "device.pem", folder / "middle.pem", folder / "impostor.pem"
        )  # fmt: skip
        root = load_issuer(pem.unarmor(ca.certificate.read_bytes())[2])
        self.key = generate_key("ec-p256")
        tbs = device_tbs("device-1", root)
        self.device.write_bytes(armored(assemble(tbs, root.algorithm, signature_over(tbs, fleet))))
        tbs = ca_tbs(encode_spki(self.key.public_key()), root)
        middle = assemble(tbs, root.algorithm, signature_over(tbs, fleet))
        self.middle.write_bytes(armored(middle))
        below = load_issuer(middle)
        tbs = device_tbs("device-2", below)
        self.impostor.write_bytes(armored(assemble(tbs, below.algorithm, sign(self.key, tbs))))

    def judge_with_openssl(self, certificate: Path) -> Verdict:
        return openssl(
            "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", self.root, "-untrusted",
            self.middle, certificate,
        )  # fmt: skip

    def judge_with_gnutls(self, certificate: Path, *above: Path) -> Verdict:
        chain = certificate.with_suffix(".chain")
        chain.write_bytes(b"".join(path.read_bytes() for path in (certificate, *above)))
        return certtool(
            "--verify",
            "--verify-purpose=1.3.6.1.5.5.7.3.2",
            f"--load-ca-certificate={self.root}",
            f"--infile={chain}",
        )


def armored(der: bytes) -> bytes:
    encoded: bytes = pem.armor("CERTIFICATE", der)
    return encoded


def device_tbs(device_id: str, issuer: Issuer) -> bytes:
    binding = Binding(device_id, encode_spki(key_of("ec-p256").public_key()))
    return build_tbs(binding, Profile(), issuer, new_serial(NOW), VALIDITY)


def ca_tbs(spki: bytes, issuer: Issuer) -> bytes:
    """Build what a thief of one signature would have signed."""
    return encode_tbs(
        subject=asn1_x509.Name.build({"common_name": "a CA below"}).dump(),
        spki=spki,
        issuer=issuer.subject,
        algorithm=issuer.algorithm,
        serial=new_serial(NOW),
        validity=VALIDITY,
        extensions=[
            extension("basic_constraints", asn1_x509.BasicConstraints({"ca": True}), critical=True),
            extension("key_usage", asn1_x509.KeyUsage({"key_cert_sign"}), critical=True),
            *key_identifiers(spki, issuer.key_identifier),
        ],
    )


def test_a_device_below_a_ca_that_somebody_had_signed_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    made = make_ca(fleet)
    assert made.returncode == 0, made.stderr
    chains = Chains(fleet, tmp_path)
    good = chains.judge_with_openssl(chains.device)
    assert good.good, good.text
    good = chains.judge_with_gnutls(chains.device)
    assert good.good, good.text
    bad = chains.judge_with_openssl(chains.impostor)
    assert not bad.good
    assert "path length constraint exceeded" in bad.text
    bad = chains.judge_with_gnutls(chains.impostor, chains.middle)
    assert not bad.good
    assert "Not verified" in bad.text


def test_a_device_below_a_ca_is_accepted_if_the_ceremony_allowed_it(fleet: Fleet, tmp_path: Path) -> None:
    made = make_ca(fleet, "--path-len", "1")
    assert made.returncode == 0, made.stderr
    chains = Chains(fleet, tmp_path)
    for verdict in (
        chains.judge_with_openssl(chains.device),
        chains.judge_with_openssl(chains.impostor),
        chains.judge_with_gnutls(chains.device),
        chains.judge_with_gnutls(chains.impostor, chains.middle),
    ):
        assert verdict.good, verdict.text


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--kind", "root-here", "--path-len", "0"), "no pathLenConstraint"),
        (("--path-len", "-1"), "must be at least 0, not -1"),
        (("--path-len", "256"), "must be at most 255, not 256"),
    ],
    ids=["root-here", "negative", "too many"],
)
def test_a_path_length_that_the_root_can_not_have_is_refused_before_a_key_is_made(
    fleet: Fleet, options: tuple[str, ...], why: str
) -> None:
    done = make_ca(fleet, *options)
    assert done.returncode == 2
    assert why in done.stderr
    assert not (fleet.folder / "ca/another-root.pem").exists()
    assert fleet.run("ca", "init").returncode == 0  # the label is not taken
