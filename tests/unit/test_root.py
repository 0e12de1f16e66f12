"""Fleet roots, field by field; and what an independent linter says of them and of device certificates."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from pkilint import loader
from pkilint.pkix import certificate as pkix
from pkilint.pkix import extension as pkix_extension
from pkilint.pkix import name as pkix_name
from pkilint.validation import ValidationFindingSeverity

from otahsm.pki.certificate import Validity
from otahsm.pki.keytypes import SIGNATURE_ALGORITHMS, KeyType
from otahsm.pki.root import RootKind

from support.attacks.forging import key_of
from support.authority import CA_LIFE, CA_NAME, KEY_TYPES, SERIAL, issuer_of, leaf, root_of

LINTER = pkix.create_pkix_certificate_validator_container(
    pkix.create_decoding_validators(pkix_name.ATTRIBUTE_TYPE_MAPPINGS, pkix_extension.EXTENSION_MAPPINGS),
    [
        pkix.create_issuer_validator_container([]),
        pkix.create_validity_validator_container(),
        pkix.create_subject_validator_container([]),
        pkix.create_extensions_validator_container([]),
        pkix.create_spki_validator_container([]),
    ],
)


def lint(der: bytes) -> set[str]:
    """Return the codes of all findings that are a warning or worse."""
    document = loader.RFC5280CertificateDocumentLoader().load_der_document(der, "a certificate")
    return {
        description.finding.code
        for result in LINTER.validate(document.root)
        for description in result.finding_descriptions
        if description.finding.severity <= ValidationFindingSeverity.WARNING
    }


def load(key_type: KeyType, kind: RootKind) -> x509.Certificate:
    """Load a root after checking what both kinds share."""
    der = root_of(key_type, kind)
    key = key_of(key_type).public_key()
    strict = asn1_x509.Certificate.load(der, strict=True)
    assert strict.dump(force=True) == der
    assert strict["signature_algorithm"].dump() == SIGNATURE_ALGORITHMS[key_type].identifier
    root = x509.load_der_x509_certificate(der)
    assert root.version is x509.Version.v3
    assert root.serial_number == SERIAL
    assert root.subject == root.issuer
    assert root.subject.rfc4514_string() == f"CN={CA_NAME}"
    assert (root.not_valid_before_utc, root.not_valid_after_utc) == CA_LIFE
    assert root.public_key() == key
    root.verify_directly_issued_by(root)
    own = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert own == x509.SubjectKeyIdentifier.from_public_key(key)
    return root


def constraints_of(certificate: x509.Certificate) -> x509.BasicConstraints:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_root_is_what_every_verifier_accepts(key_type: KeyType) -> None:
    root = load(key_type, "root")
    assert {extension.oid: extension.critical for extension in root.extensions} == {
        ExtensionOID.BASIC_CONSTRAINTS: True,
        ExtensionOID.KEY_USAGE: True,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
    }
    assert constraints_of(root) == x509.BasicConstraints(ca=True, path_length=0)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.public_bytes() == bytes.fromhex("03020106")  # keyCertSign and cRLSign, nothing else
    own = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    above = root.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert above == x509.AuthorityKeyIdentifier(own.digest, None, None)


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_root_of_the_guide_is_to_its_letter(key_type: KeyType) -> None:
    root = load(key_type, "root-here")
    assert {extension.oid: extension.critical for extension in root.extensions} == {
        ExtensionOID.BASIC_CONSTRAINTS: False,
        ExtensionOID.KEY_USAGE: False,
        ExtensionOID.EXTENDED_KEY_USAGE: True,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
    }
    assert constraints_of(root) == x509.BasicConstraints(ca=True, path_length=None)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.public_bytes() == bytes.fromhex("03020204")  # keyCertSign, nothing else
    purposes = root.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize("path_length", [1, 255])
def test_a_root_allows_as_many_cas_below_it_as_it_was_told(path_length: int) -> None:
    root = root_of("ec-p256", path_length=path_length)
    constraints = constraints_of(x509.load_der_x509_certificate(root))
    assert constraints == x509.BasicConstraints(ca=True, path_length=path_length)
    assert not lint(root)


def test_a_root_may_live_into_the_years_of_generalized_time() -> None:
    for end in (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)):
        root = root_of("ed25519", "root", Validity(CA_LIFE.not_before, end))
        assert x509.load_der_x509_certificate(root).not_valid_after_utc == end
        assert not lint(root)


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_root_is_an_issuer_with_its_keys_one_algorithm(key_type: KeyType) -> None:
    issuer = issuer_of(key_type)
    assert (issuer.key_type, issuer.algorithm) == (key_type, SIGNATURE_ALGORITHMS[key_type])
    assert issuer.subject_text == f"CN={CA_NAME}"
    assert (issuer.not_before, issuer.not_after) == CA_LIFE


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_the_linter_finds_nothing_in_a_root(key_type: KeyType) -> None:
    assert lint(root_of(key_type)) == set()


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_the_linter_finds_in_a_root_of_the_guide_only_what_the_guide_demands(key_type: KeyType) -> None:
    # The OTA Connect guide's root has neither of the two critical; it is offered because of that.
    assert lint(root_of(key_type, "root-here")) == {
        "pkix.basic_constraints_extension_not_critical",
        "pkix.key_usage_extension_not_critical",
    }


@pytest.mark.parametrize("ca", KEY_TYPES)
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_the_linter_finds_nothing_in_a_device_certificate(key_type: KeyType, ca: KeyType) -> None:
    assert lint(leaf("4f1c9c9e-5b1e-4e5e-9e39-3a3f6f6d1c5a", key_type, ca=ca)) == set()
    assert lint(leaf("d" * 64, key_type, ca=ca)) == set()
    assert lint(leaf("device", key_type, ca=ca, crl_url="http://crl.example.com/fleet-3.crl")) == set()


def test_the_linter_finds_a_device_id_above_64_characters() -> None:
    # RFC 5280's ub-common-name is 64. The default profile allows 128, which verifiers do accept.
    assert lint(leaf("d" * 65, "ec-p256")) == {"itu.invalid_asn1_syntax"}
