"""RSA keys of chosen primes, as a generator without randomness would make them, and their certificates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from otahsm.pki.certificate import Binding, Validity, assemble, build_tbs
from otahsm.pki.keytypes import sign
from otahsm.pki.profile import Profile

from support.attacks.forging import key_of, primes_of
from support.authority import CA_LIFE, SERIAL, issuer_of


@cache
def primes(count: int = 5) -> Sequence[int]:
    """Return distinct primes, any two of which make a key of 2048 bits."""
    found: set[int] = set()
    while len(found) < count:
        found.update(primes_of(2048))
    return sorted(found)[:count]


def private_key(p: int, q: int, exponent: int = 65537) -> rsa.RSAPrivateKey:
    """Make a key of two primes."""
    d = pow(exponent, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p,
        q,
        d,
        rsa.rsa_crt_dmp1(d, p),
        rsa.rsa_crt_dmq1(d, q),
        rsa.rsa_crt_iqmp(p, q),
        rsa.RSAPublicNumbers(exponent, p * q),
    ).private_key()


def csr_of(key: rsa.RSAPrivateKey, device_id: str) -> bytes:
    """Make a device's CSR, in DER."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    return csr.public_bytes(Encoding.DER)


def certificate_over(
    spki: bytes, device_id: str, validity: Validity = CA_LIFE, serial: int = SERIAL
) -> bytes:
    """Issue a device certificate for any public key, in DER."""
    issuer = issuer_of("ec-p256")
    tbs = build_tbs(Binding(device_id, spki), Profile(), issuer, serial, validity)
    return assemble(tbs, issuer.algorithm, sign(key_of("ec-p256"), tbs))
