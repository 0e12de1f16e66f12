"""The CA's own certificate file: what is a chain, and what is told about one that is not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from otahsm.errors import ConfigError
from otahsm.pki.bundle import allows_cas, find_chain_problems
from otahsm.pki.chain import Chain, check_signs_crls, load_chain, load_issuer
from otahsm.pki.keytypes import KeyType

from support.authority import CA_LIFE, KEY_TYPES, issuer_of, leaf, root_of

CA = x509.BasicConstraints(ca=True, path_length=None)
KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "middle", "issuing", "device")}


def usage(*, cert_sign: bool, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    subject: str,
    issuer: str,
    *extensions: x509.ExtensionType,
    key: ec.EllipticCurvePrivateKey | None = None,
    signer: ec.EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key((key or KEYS[subject]).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(CA_LIFE.not_before)
        .not_valid_after(CA_LIFE.not_before + timedelta(days=3650))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    own = key if key and subject == issuer else KEYS[issuer]
    return builder.sign(signer or own, SHA256())


ROOT = certificate("root", "root", CA)
MIDDLE = certificate("middle", "root", CA)
ISSUING = certificate("issuing", "middle", CA, usage(cert_sign=True))
DEVICE = certificate("device", "issuing")


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(item.public_bytes(Encoding.PEM) for item in certificates)


def der(item: x509.Certificate) -> bytes:
    return item.public_bytes(Encoding.DER)


def test_a_root_may_have_a_key_that_could_not_sign_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KEYS, "company", ec.generate_private_key(ec.SECP521R1()))
    company = certificate("company", "company", CA)
    issuing = certificate("issuing", "company", CA, usage(cert_sign=True))
    chain = load_chain(pem(issuing, company))
    assert chain.issuer.key_type == "ec-p256"
    assert chain.trust_anchor == der(company)
    with pytest.raises(ConfigError, match="EC on secp521r1"):
        load_chain(pem(company))  # to sign itself is another matter


def test_what_is_above_the_issuer_must_be_a_ca_too() -> None:
    not_a_ca = certificate("middle", "root")
    with pytest.raises(ConfigError, match="CN=middle is not a CA certificate"):
        load_chain(pem(ISSUING, not_a_ca, ROOT))


def test_a_chain_has_the_issuer_first_and_the_root_last() -> None:
    chain = load_chain(pem(ISSUING, MIDDLE, ROOT))
    assert chain.issuer == load_issuer(der(ISSUING))
    assert chain.issuer.subject_text == "CN=issuing"
    assert chain.intermediates == (der(ISSUING), der(MIDDLE))
    assert chain.trust_anchor == der(ROOT)


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_root_alone_is_a_chain_without_intermediates(key_type: str) -> None:
    ((der_root, expected),) = [(root_of(kind), issuer_of(kind)) for kind in KEY_TYPES if kind == key_type]
    chain = load_chain(pem(x509.load_der_x509_certificate(der_root)))
    assert (chain.issuer, chain.intermediates, chain.trust_anchor) == (expected, (), der_root)


def test_text_around_the_certificates_is_allowed() -> None:
    assert load_chain(b"# the fleet CA\n" + pem(ROOT) + b"\n# end\n").trust_anchor == der(ROOT)


@pytest.mark.parametrize(
    ("certificates", "child"),
    [
        ((ROOT, MIDDLE, ISSUING), "root"),
        ((ISSUING, ROOT, MIDDLE), "issuing"),
        ((ISSUING, MIDDLE), "middle"),
        ((ISSUING,), "issuing"),
        ((ISSUING, ROOT), "issuing"),
        ((ISSUING, MIDDLE, ROOT, ISSUING), "root"),
    ],
    ids=["upside down", "shuffled", "no root", "no root, alone", "a link missing", "one too many"],
)
def test_what_is_not_a_chain_is_refused_and_the_break_is_named(
    certificates: tuple[x509.Certificate, ...], child: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load_chain(pem(*certificates))
    assert raised.value.message.startswith(f"CN={child} is not signed by")
    assert "root last" in raised.value.hint


def test_a_certificate_of_the_same_name_but_another_key_breaks_the_chain() -> None:
    impostor = certificate("root", "root", CA, key=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ConfigError, match="CN=middle is not signed by"):
        load_chain(pem(ISSUING, MIDDLE, impostor))


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        (DEVICE, "CN=device is not a CA certificate"),
        (certificate("device", "issuing", x509.BasicConstraints(ca=False, path_length=None)), "is not a CA"),
        (certificate("device", "issuing", CA, usage(cert_sign=False)), "lacks keyCertSign"),
    ],
    ids=["no basicConstraints", "CA:FALSE", "no keyCertSign"],
)
def test_what_may_not_sign_certificates_does_not(first: x509.Certificate, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_chain(pem(first, ISSUING, MIDDLE, ROOT))


def test_a_device_certificate_of_our_own_is_no_ca() -> None:
    with pytest.raises(ConfigError, match="is not a CA certificate"):
        load_issuer(leaf("device", "ec-p256"))


def test_a_ca_with_a_key_that_signs_nothing_here_is_refused() -> None:
    odd = certificate("odd", "odd", CA, key=ec.generate_private_key(ec.SECP521R1()))
    with pytest.raises(ConfigError, match="EC on secp521r1"):
        load_issuer(der(odd))


def test_a_ca_without_a_key_identifier_gets_the_one_of_rfc_5280() -> None:
    expected = x509.SubjectKeyIdentifier.from_public_key(ROOT.public_key())
    assert load_issuer(der(ROOT)).key_identifier == expected.digest


def test_a_cas_own_key_identifier_is_kept() -> None:
    own = certificate("root", "root", CA, x509.SubjectKeyIdentifier(b"of another method"))
    assert load_issuer(der(own)).key_identifier == b"of another method"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no certificate",
        der(ROOT),
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        pem(ROOT)[:-40],
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ],
    ids=["nothing", "text", "DER", "empty PEM", "garbage in PEM", "cut off", "a key"],
)
def test_a_file_without_readable_certificates_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match="contains no readable PEM certificate"):
        load_chain(content)


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_certificate_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        load_issuer(der(ROOT)[:length])


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_root_may_sign_crls(key_type: KeyType) -> None:
    check_signs_crls(issuer_of(key_type))


def test_an_issuer_without_key_usage_may_sign_crls_and_one_with_it_only_if_it_says_so() -> None:
    check_signs_crls(load_issuer(der(ROOT)))
    check_signs_crls(load_issuer(der(certificate("root", "root", CA, usage(cert_sign=True, crl_sign=True)))))
    for issuer in (load_issuer(der(ISSUING)), load_issuer(root_of("ec-p256", "root-here"))):
        with pytest.raises(ConfigError, match="may not sign CRLs") as raised:
            check_signs_crls(issuer)
        assert "[crl]" in raised.value.hint


def limited(path_length: int | None) -> x509.BasicConstraints:
    return x509.BasicConstraints(ca=True, path_length=path_length)


def chain_with(issuing: int | None, middle: int | None, root: int | None) -> Chain:
    """Make a chain of three with these path length constraints."""
    return load_chain(
        pem(
            certificate("issuing", "middle", limited(issuing)),
            certificate("middle", "root", limited(middle)),
            certificate("root", "root", limited(root)),
        )
    )


@pytest.mark.parametrize(
    ("limits", "problems"),
    [
        ((0, 1, 2), []),
        ((None, None, None), []),
        ((0, 0, 2), ["CN=middle allows 0 CAs below it (pathLenConstraint), but has 1"]),
        ((None, None, 1), ["CN=root allows 1 CAs below it (pathLenConstraint), but has 2"]),
        ((0, 0, 0), ["CN=middle allows 0 CAs", "CN=root allows 0 CAs"]),
    ],
)
def test_a_path_length_that_what_is_below_exceeds_is_a_problem(
    limits: tuple[int | None, int | None, int | None], problems: list[str]
) -> None:
    found = find_chain_problems(chain_with(*limits), CA_LIFE.not_before)
    assert len(found) == len(problems)
    assert all(text.startswith(problem) for text, problem in zip(found, problems, strict=True))


def test_a_certificate_that_names_itself_as_issuer_does_not_count_for_path_lengths() -> None:
    # Of the root's new key, signed with its old one: RFC 4210, section 4.4.
    link = certificate("root", "root", limited(None), key=KEYS["middle"], signer=KEYS["root"])
    below = certificate("issuing", "root", limited(0), signer=KEYS["middle"])
    chain = load_chain(pem(below, link, certificate("root", "root", limited(1))))
    assert find_chain_problems(chain, CA_LIFE.not_before) == []


@pytest.mark.parametrize(
    "limits",
    [
        (None, None, 2),
        (None, 1, None),
        (0, None, None),
        (1, None, None),  # which somebody chose
    ],
)
def test_a_path_length_limits_the_cas_below_the_one_that_signs(
    limits: tuple[int | None, int | None, int | None],
) -> None:
    assert not allows_cas(chain_with(*limits))


@pytest.mark.parametrize("limits", [(None, None, None), (None, None, 3), (None, 2, 3)])
def test_without_a_path_length_that_reaches_it_the_one_that_signs_may_have_cas_below(
    limits: tuple[int | None, int | None, int | None],
) -> None:
    assert allows_cas(chain_with(*limits))


def test_our_root_allows_no_ca_and_that_of_the_guide_does() -> None:
    roots = [
        load_chain(pem(x509.load_der_x509_certificate(root_of("ec-p256", kind))))
        for kind in ("root", "root-here")
    ]
    assert [allows_cas(chain) for chain in roots] == [False, True]
