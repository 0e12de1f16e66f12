"""Device keys, made where the command runs. A private key never leaves its device's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from otahsm.errors import ConfigError
from otahsm.pki import (
    SIGNATURE_ALGORITHMS,
    KeyType,
    assemble_request,
    build_request_info,
    encode_spki,
    key_type_of,
)

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_CURVES: Final[dict[KeyType, ec.EllipticCurve]] = {"ec-p256": ec.SECP256R1(), "ec-p384": ec.SECP384R1()}
_RSA_BITS: Final[dict[KeyType, int]] = {"rsa-2048": 2048, "rsa-3072": 3072, "rsa-4096": 4096}
_HASHES: Final = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """A new device's key, in the forms that its folder holds, and its CSR.

    Attributes:
        pkcs8: PEM, encrypted or not (`pkey.pem`; RFC 5958).
        sec1: PEM in the traditional EC form (`pkey.ec.pem`); None for other keys, and for encrypted ones.
        csr: PKCS#10 in DER, `CN=<device id>`.
    """

    pkcs8: bytes
    sec1: bytes | None
    csr: bytes


def make_device_key(device_id: str, key_type: KeyType, passphrase: bytes | None = None) -> DeviceKey:
    """Make a key pair and its CSR (steps 1 and 2 of the seed guide); with a passphrase, encrypted (PBES2)."""
    key = _generate(key_type)
    traditional = None
    if passphrase is None and isinstance(key, ec.EllipticCurvePrivateKey):
        traditional = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return DeviceKey(pkcs8, traditional, make_csr(device_id, key))


def load_key(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """Read a private key that `make_device_key` made.

    Raises:
        ConfigError: it can't be read, is of no type that devices have, or has another passphrase or none.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), passphrase)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except TypeError:
        said = "is encrypted" if passphrase is None else "is not encrypted, and a passphrase was given"
        raise ConfigError(f"{path} {said}", hint="Give the passphrase that the run began with.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} is no private key, or has another passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise ConfigError(f"{path} holds a key of a type that devices don't have")
    return key


def make_csr(device_id: str, key: PrivateKey) -> bytes:
    """Make a CSR in DER, `CN=<device_id>` and nothing else."""
    public_key = key.public_key()
    info = build_request_info(device_id, encode_spki(public_key))
    algorithm = SIGNATURE_ALGORITHMS[cast(KeyType, key_type_of(public_key))]
    digest = _HASHES[algorithm.digest or "sha256"]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(info, ec.ECDSA(digest))
    elif isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(info, padding.PKCS1v15(), digest)
    else:
        signature = key.sign(info)
    return assemble_request(info, algorithm, signature)


def _generate(key_type: KeyType) -> PrivateKey:
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type])
    if key_type in _RSA_BITS:
        return rsa.generate_private_key(65537, _RSA_BITS[key_type])
    return ed25519.Ed25519PrivateKey.generate()
