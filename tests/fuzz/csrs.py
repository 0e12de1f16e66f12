"""CSRs: what we take, `cryptography` takes too, and nothing but key and device id comes out of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from otahsm.config.subject import parse_subject
from otahsm.errors import RequestRefusedError
from otahsm.pki.certificate import Binding, Validity, assemble, build_tbs
from otahsm.pki.csr import check_csr
from otahsm.pki.keytypes import SIGNATURE_ALGORITHMS, KeyType
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import KeyUsage, Profile
from otahsm.pki.subject import SubjectTemplate
from otahsm.pki.template import TbsTemplate
from otahsm.preparation.codec import Task, decode_answers, encode_answer

from fuzz.draws import Draws
from support.attacks.forging import key_of, signed
from support.authority import CA_LIFE, issuer_of

STRICT: Final = Profile()
LENIENT: Final = Profile(csr_extras="ignore")
# Everybody knows these keys: the corpus has CSRs of theirs, which are signed anew after every change.
EC_KEY: Final = ec.derive_private_key(0x07A45, ec.SECP256R1())
ED25519_KEY: Final = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))

_ISSUER: Final = issuer_of("ed25519")
_TEMPLATES: Final = {profile.csr_extras: TbsTemplate(profile, _ISSUER) for profile in (STRICT, LENIENT)}
_CLIENT_AUTH: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])

_KEY_TYPES: Final[tuple[KeyType, ...]] = ("ec-p256", "ec-p384", "rsa-2048", "ed25519")
_USAGES: Final[tuple[KeyUsage, ...]] = (
    "digital_signature",
    "key_encipherment",
    "key_agreement",
    "non_repudiation",
)
_ID_CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:"
_KINDS: Final = ("O", "OU", "L", "ST", "title", "businessCategory", "serialNumber", "C")
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS: Final = int((datetime(9999, 12, 31, tzinfo=UTC) - _FIRST).total_seconds())


def csr(data: bytes) -> None:
    """Check a CSR as a preparer does."""
    strict, lenient = _checked(data, STRICT), _checked(data, LENIENT)
    assert strict in {None, lenient}


def csr_signed(data: bytes) -> None:
    """Check a CSR with these octets as its CertificationRequestInfo, and a good signature."""
    spki = encode_spki(ED25519_KEY.public_key())
    if spki in data:
        csr(signed(data, SIGNATURE_ALGORITHMS["ed25519"].identifier, ED25519_KEY.sign(data)))
    else:
        signature = EC_KEY.sign(data, ec.ECDSA(SHA256()))
        csr(signed(data, SIGNATURE_ALGORITHMS["ec-p256"].identifier, signature))


def template(data: bytes) -> None:
    """Fill a template with what the octets say, and build the same field by field."""
    draws = Draws(data)
    key_type, ca = draws.one_of(_KEY_TYPES), draws.one_of(_KEY_TYPES)
    device_id = "".join(_ID_CHARACTERS[octet % 64] for octet in draws.octets(1 + draws.number(128)))
    serial = 1 + int.from_bytes(draws.octets(20), "big") % (2**159 - 1)
    begin, end = sorted(_FIRST + timedelta(seconds=draws.number(_SECONDS)) for _ in range(2))
    usages = frozenset(usage for usage in _USAGES if draws.number(2)) or STRICT.key_usage
    profile = Profile(key_usage=usages, extended_key_usage=draws.one_of((("client_auth",), ("server_auth",))))
    url = draws.one_of((None, "http://crl.example.com/" + "x" * (1 + draws.number(220))))
    kinds = [draws.one_of(_KINDS) for _ in range(draws.number(4))]
    others = SubjectTemplate(parse_subject(f"{kind}={{a{number}}}" for number, kind in enumerate(kinds)))
    said = [(f"a{number}", draws.text(70)) for number in range(len(kinds))]
    try:
        rest = others.fill(said)
    except RequestRefusedError:
        return
    made = Binding(device_id, encode_spki(key_of(key_type).public_key()))
    issuer, life = issuer_of(ca), Validity(begin, end)
    filled = TbsTemplate(profile, issuer, url).fill(made, serial, life, rest)
    assert filled == build_tbs(made, profile, issuer, serial, life, url, rest)
    certificate = x509.load_der_x509_certificate(assemble(filled, issuer.algorithm, bytes(64)))
    assert certificate.serial_number == serial
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == life
    assert _encoded(certificate.public_key()) == made.spki
    with _long_names():
        assert certificate.subject.rfc4514_string().endswith(f"CN={device_id}")  # the first is written last
        assert len(certificate.subject.rdns) == 1 + len(kinds)


def _checked(der: bytes, profile: Profile) -> Binding | None:
    try:
        checked = check_csr(der, profile)
    except RequestRefusedError as error:
        answer = encode_answer(error)
        (told,) = decode_answers([Task("", "", der)], answer)  # as it comes out of a preparer
        assert isinstance(told, RequestRefusedError)
        assert told.violations[0].field == error.violations[0].field
        return None
    assert decode_answers([Task("", "", der)], encode_answer(checked)) == [checked]
    with _long_names():
        _judge(der, checked, profile)
    return checked


def _judge(der: bytes, checked: Binding, profile: Profile) -> None:
    judge = x509.load_der_x509_csr(der)
    assert judge.is_signature_valid
    assert _encoded(judge.public_key()) == checked.spki
    if profile.csr_extras == "refuse":  # else there may be anything that is ignored, also what can't be read
        ((attribute,),) = judge.subject.rdns
        assert (attribute.oid, attribute.value) == (NameOID.COMMON_NAME, checked.device_id)
        for extension in judge.extensions:
            if isinstance(extension.value, x509.BasicConstraints):
                assert not extension.value.ca
            if isinstance(extension.value, x509.KeyUsage):
                assert not extension.value.key_cert_sign
    assert check_csr(der, profile, checked.device_id) == checked
    tbs = _TEMPLATES[profile.csr_extras].fill(checked, 1, CA_LIFE)
    certificate = x509.load_der_x509_certificate(assemble(tbs, _ISSUER.algorithm, bytes(64)))
    assert certificate.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, checked.device_id)])
    assert _encoded(certificate.public_key()) == checked.spki
    given = {type(extension.value): extension.value for extension in certificate.extensions}
    assert given.keys() == {
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.SubjectKeyIdentifier,
        x509.AuthorityKeyIdentifier,
    }
    usage = given[x509.KeyUsage]
    assert isinstance(usage, x509.KeyUsage)
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert given[x509.ExtendedKeyUsage] == _CLIENT_AUTH


@contextmanager
def _long_names() -> Iterator[None]:
    """Let `cryptography` have names of more than 64 characters, without a word: device ids may have 128."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _encoded(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
