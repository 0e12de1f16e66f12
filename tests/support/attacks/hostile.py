"""CSRs that must be refused, each with the field that must be named; and odd ones that must not be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from otahsm.pki.csr import MAX_CSR_BYTES
from otahsm.pki.der import BIT_STRING, PRINTABLE_STRING, SEQUENCE, SET, UTF8_STRING, tlv
from otahsm.pki.keytypes import SIGNATURE_ALGORITHMS
from otahsm.pki.keytypes.family import encode_spki

from support.attacks.forging import (
    BMP_STRING,
    EC_SHA256,
    IA5_STRING,
    MS_EXTENSION_REQUEST,
    OCTET_STRING,
    ORGANIZATION,
    RSA_SHA256,
    RSA_WITHOUT_NULL,
    TELETEX_STRING,
    attribute,
    extension,
    forge,
    named,
    oid,
    p256,
    request_info,
    rsa_with_close_primes,
    rsa_with_equal_primes,
    rsa_with_exponent,
    rsa_with_roca,
    rsa_with_small_factor,
    signed,
    spki_of,
    subject,
    wish,
)

NAME = "hostile-device"
CA_TRUE = extension("2.5.29.19", bytes.fromhex("30030101ff"), critical=True)
CA_FALSE = extension("2.5.29.19", bytes.fromhex("3000"), critical=True)
KEY_USAGE = extension("2.5.29.15", bytes.fromhex("03020780"), critical=True)
CERT_SIGN = extension("2.5.29.15", bytes.fromhex("03020204"), critical=True)
CLIENT_AUTH = extension("2.5.29.37", bytes.fromhex("300a06082b06010505070302"), critical=True)
SERVER_AUTH = extension("2.5.29.37", bytes.fromhex("300a06082b06010505070301"))
ALT_NAME = extension("2.5.29.17", bytes.fromhex("3003820161"))
UNKNOWN = extension("1.3.6.1.4.1.99999.1", b"\x05\0", critical=True)


class Hostile(NamedTuple):
    """A CSR that must be refused, and the field that the refusal must name."""

    field: str
    build: Callable[[], bytes]


def _good() -> bytes:
    return forge(named(NAME))


def _flipped(position: int, bit: int) -> bytes:
    csr = bytearray(_good())
    csr[position] ^= 1 << bit
    return bytes(csr)


def _with_key(spki: bytes) -> bytes:
    return forge(named(NAME), spki=spki)


def _on_curve(curve: ec.EllipticCurve) -> bytes:
    return forge(named(NAME), key=ec.generate_private_key(curve))


def _of_key(
    key: x25519.X25519PublicKey | ed448.Ed448PublicKey | dsa.DSAPublicKey | rsa.RSAPublicKey,
) -> bytes:
    return _with_key(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def point(form: PublicFormat) -> bytes:
    return p256().public_key().public_bytes(Encoding.X962, form)


def _ec_point(encoded: bytes) -> bytes:
    algorithm = encode_spki(p256().public_key())[2:23]  # id-ecPublicKey, prime256v1
    return _with_key(spki_of(algorithm, encoded))


def _hybrid_point() -> bytes:
    full = point(PublicFormat.UncompressedPoint)
    return _ec_point(bytes((6 + (full[-1] & 1),)) + full[1:])


def _point_off_the_curve() -> bytes:
    full = point(PublicFormat.UncompressedPoint)
    return _ec_point(full[:-1] + bytes((full[-1] ^ 1,)))


def _ed25519(public: bytes, signature: bytes) -> bytes:
    identifier = SIGNATURE_ALGORITHMS["ed25519"].identifier
    return signed(request_info(named(NAME), spki_of(identifier, public)), identifier, signature)


def _anybodys_ed25519_key(y: int = 1) -> bytes:
    # With the neutral point as key and as R, and S = 0, RFC 8032's equation holds for any message.
    return _ed25519(y.to_bytes(32, "little"), (1).to_bytes(64, "little"))


def _rsa_1024() -> bytes:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    info = request_info(named(NAME), encode_spki(key.public_key()))
    return signed(info, RSA_SHA256, key.sign(info, padding.PKCS1v15(), SHA256()))


def _claiming(algorithm: str) -> bytes:
    info = request_info(named(NAME), encode_spki(p256().public_key()))
    return signed(info, tlv(SEQUENCE, oid(algorithm)), p256().sign(info, ec.ECDSA(SHA256())))


def _signed_with_sha1() -> bytes:
    info = request_info(named(NAME), encode_spki(p256().public_key()))
    signature = p256().sign(info, ec.ECDSA(SHA1()))  # noqa: S303 - that is the point
    return signed(info, tlv(SEQUENCE, oid("1.2.840.10045.4.1")), signature)


def _by_another_key() -> bytes:
    other = ec.generate_private_key(ec.SECP256R1())
    info = request_info(named(NAME), encode_spki(p256().public_key()))
    return signed(info, EC_SHA256, other.sign(info, ec.ECDSA(SHA256())))


def _pem() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(p256(), SHA256())
    return csr.public_bytes(Encoding.PEM)


def _indefinite_length() -> bytes:
    return b"\x30\x80" + _good()[3:] + b"\0\0"


def _long_length() -> bytes:
    csr = _good()
    return b"\x30\x82\0" + csr[2:]


def _without_attributes() -> bytes:
    info = tlv(SEQUENCE, b"\x02\x01\0", named(NAME), encode_spki(p256().public_key()))
    return signed(info, EC_SHA256, p256().sign(info, ec.ECDSA(SHA256())))


def of_size(size: int, device_id: str = NAME) -> bytes:
    """Make a good CSR of exactly so many bytes, with an attribute that asks for nothing."""
    key = ed25519.Ed25519PrivateKey.generate()  # its signatures are all of one length
    identifier = SIGNATURE_ALGORITHMS["ed25519"].identifier

    def padded(padding: int) -> bytes:
        filler = tlv(SEQUENCE, oid("1.3.6.1.4.1.99999.2"), tlv(SET, tlv(OCTET_STRING, bytes(padding))))
        info = request_info(named(device_id), encode_spki(key.public_key()), filler)
        return signed(info, identifier, key.sign(info))

    return padded(size - (len(padded(1024)) - 1024))


def _subjects() -> dict[str, Hostile]:
    organization = attribute(b"fleet", kind=ORGANIZATION)
    ids = {
        "an empty common name": "",
        "a common name of 129 characters": "a" * 129,
        "a common name of 10 kB": "a" * 10_000,
        "a NUL": "device\0id",
        "a newline": "device\nid",
        "a newline at the end": "device\n",
        "a space": "device id",
        "a slash": "device/id",
        "a backslash": "device\\id",
        "a way up": "../device",
        "two dots": "device..id",
        "a leading dot": ".device",
        "a look-alike letter": "d\N{CYRILLIC SMALL LETTER IE}vice",
        "an escape sequence": "\x1b[2Jdevice",
        "what the profile's pattern lacks": "device@id",
    }
    subjects = {
        "no common name": subject(organization),
        "an empty subject": subject(),
        "an empty RDN": subject(b"", attribute(b"device")),
        "two common names in one RDN": subject(attribute(b"device1") + attribute(b"device2")),
        "the same common name twice": subject(attribute(b"device") + attribute(b"device")),
        "two common names in two RDNs": subject(attribute(b"device1"), attribute(b"device2")),
        "an organization before": subject(organization, attribute(b"device")),
        "an organization after": subject(attribute(b"device"), organization),
        "an organization in the same RDN": subject(organization + attribute(b"device")),
        "an unknown attribute": subject(attribute(b"device"), attribute(b"x", kind="1.3.6.1.4.1.99999.3")),
        "a BMPString": named("device".encode("utf-16-be"), BMP_STRING),
        "a TeletexString": named("device", TELETEX_STRING),
        "a TeletexString in Latin-1": named(b"d\xe9vice", TELETEX_STRING),
        "an IA5String": named("device", IA5_STRING),
        "a BIT STRING": named(b"\0device", BIT_STRING),
        "a SEQUENCE": named(b"", SEQUENCE),
        "a UTF8String that is not UTF-8": named(b"d\xe9vice", UTF8_STRING),
    }
    malformed = {
        "an underscore in a PrintableString": named("my_device", PRINTABLE_STRING),
        "an RDN out of order": subject(attribute(b"device2") + attribute(b"device1")),
    }
    return {
        **{f"subject: {name}": Hostile("device_id", partial(forge, named(i))) for name, i in ids.items()},
        **{f"subject: {name}": Hostile("csr.subject", partial(forge, s)) for name, s in subjects.items()},
        **{f"subject: {name}": Hostile("csr", partial(forge, s)) for name, s in malformed.items()},
    }


def _keys() -> dict[str, Hostile]:
    builders: dict[str, Callable[[], bytes]] = {
        "RSA of 1024 bits": _rsa_1024,
        "RSA exponent 1": lambda: rsa_with_exponent(1).csr(NAME),
        "RSA exponent 3": lambda: rsa_with_exponent(3).csr(NAME),
        "RSA exponent 65521": lambda: rsa_with_exponent(65521).csr(NAME),
        "RSA exponent 65538": lambda: rsa_with_exponent(65538).csr(NAME),
        "RSA exponent of 257 bits": lambda: rsa_with_exponent(2**256 + 1).csr(NAME),
        "RSA with the factor 3": lambda: rsa_with_small_factor(3).csr(NAME),
        "RSA with the factor 751": lambda: rsa_with_small_factor(751).csr(NAME),
        "RSA with close primes": lambda: rsa_with_close_primes().csr(NAME),
        "RSA with one prime twice": lambda: rsa_with_equal_primes().csr(NAME),
        "RSA with the ROCA fingerprint": lambda: rsa_with_roca().csr(NAME),
        "RSA without NULL parameters": lambda: rsa_with_exponent(65537).csr(NAME, RSA_WITHOUT_NULL),
        "EC on secp256k1": lambda: _on_curve(ec.SECP256K1()),
        "EC on P-521": lambda: _on_curve(ec.SECP521R1()),
        "EC on P-224": lambda: _on_curve(ec.SECP224R1()),
        "a compressed point": lambda: _ec_point(point(PublicFormat.CompressedPoint)),
        "a hybrid point": _hybrid_point,
        "a point off the curve": _point_off_the_curve,
        "the point at infinity": lambda: _ec_point(b"\0"),
        "X25519": lambda: _of_key(x25519.X25519PrivateKey.generate().public_key()),
        "Ed448": lambda: _of_key(ed448.Ed448PrivateKey.generate().public_key()),
        "DSA": lambda: _of_key(dsa.generate_private_key(2048).public_key()),
        "an unknown algorithm": lambda: _with_key(spki_of(tlv(SEQUENCE, oid("1.3.6.1.4.1.99999.4")), b"key")),
        "Ed25519's neutral point": _anybodys_ed25519_key,
        "Ed25519 above the prime": lambda: _anybodys_ed25519_key(2**255 - 18),
    }
    return {f"key: {name}": Hostile("csr.public_key", build) for name, build in builders.items()}


def _extensions() -> dict[str, Hostile]:
    wishes = {
        "CA:TRUE": [wish(CA_TRUE)],
        "CA:TRUE, as Microsoft asks": [wish(CA_TRUE, kind=MS_EXTENSION_REQUEST)],
        "CA:TRUE in a second attribute": [wish(KEY_USAGE), wish(CA_TRUE)],
        "keyCertSign": [wish(CERT_SIGN)],
        "serverAuth": [wish(SERVER_AUTH)],
        "an alternative name": [wish(ALT_NAME)],
        "an unknown critical extension": [wish(UNKNOWN)],
        "a good one and a bad one": [wish(KEY_USAGE, ALT_NAME)],
    }
    malformed = {
        "the same twice": wish(KEY_USAGE, KEY_USAGE),
        "critical FALSE written out": wish(extension("2.5.29.15", bytes.fromhex("03020780"), critical=False)),
        "garbage for basicConstraints": wish(extension("2.5.29.19", b"\x30")),
    }
    return {
        **{
            f"asks for {name}": Hostile("csr.extensions", partial(forge, named(NAME), *a))
            for name, a in wishes.items()
        },
        **{
            f"asks for {name}": Hostile("csr", partial(forge, named(NAME), a))
            for name, a in malformed.items()
        },
    }


def _bytes() -> dict[str, Hostile]:
    builders: dict[str, Callable[[], bytes]] = {
        "empty": bytes,
        "PEM": _pem,
        "text": lambda: b"give me a certificate",
        "cut in half": lambda: _good()[: len(_good()) // 2],
        "a NUL after it": lambda: _good() + b"\0",
        "another one after it": lambda: _good() + _good(),
        "16 KiB and one byte": lambda: of_size(MAX_CSR_BYTES + 1),
        "BER with an indefinite length": _indefinite_length,
        "BER with a length that is too long": _long_length,
        "version 2": lambda: forge(named(NAME), version=1),
        "no attributes field": _without_attributes,
        "an unknown signature algorithm": lambda: _claiming("1.3.6.1.4.1.99999.5"),
    }
    return {f"bytes: {name}": Hostile("csr", build) for name, build in builders.items()}


def _signatures() -> dict[str, Hostile]:
    builders: dict[str, Callable[[], bytes]] = {
        "another key's": _by_another_key,
        "its last bit flipped": lambda: _flipped(-1, 0),
        "a letter of the subject changed": lambda: _good().replace(NAME.encode(), b"Hostile-device"),
        "SHA-1": _signed_with_sha1,
        "said to be RSA's": lambda: _claiming("1.2.840.113549.1.1.11"),
        "empty": lambda: signed(request_info(named(NAME), encode_spki(p256().public_key())), EC_SHA256, b""),
        "zeros": lambda: _ed25519(
            ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw(), bytes(64)
        ),
    }
    return {f"signature: {name}": Hostile("csr.signature", build) for name, build in builders.items()}


HOSTILE = {**_bytes(), **_signatures(), **_keys(), **_subjects(), **_extensions()}
