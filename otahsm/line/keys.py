"""Device keys, generated locally. A private key never leaves its device's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from otahsm.errors import ConfigError
from otahsm.pki.certificate import assemble
from otahsm.pki.keytypes import KeyType, PrivateKey, generate_key, is_private_key, sign, signature_algorithm
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.request import build_request_info
from otahsm.system.files import read_file


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """A new device's key, in the formats for its folder, and its CSR.

    Attributes:
        pkcs8: PEM, encrypted or not (`pkey.pem`; RFC 5958).
        sec1: PEM in the traditional EC form (`pkey.ec.pem`); None for other keys, and for encrypted ones.
        csr: PKCS#10 in DER, `CN=<device id>`.
    """

    pkcs8: bytes
    sec1: bytes | None
    csr: bytes


def make_device_key(device_id: str, key_type: KeyType, passphrase: bytes | None = None) -> DeviceKey:
    """Generate a key pair and its CSR (steps 1 and 2 of the seed guide), with PBES2 if encrypted."""
    key = generate_key(key_type)
    traditional = None
    if passphrase is None and isinstance(key, ec.EllipticCurvePrivateKey):
        traditional = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return DeviceKey(pkcs8, traditional, make_csr(device_id, key))


def load_key(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """Read a private key that `make_device_key` made.

    Raises:
        ConfigError: it can't be read, has an unsupported type, or another passphrase or none.
    """
    try:
        key = load_pem_private_key(read_file(path), passphrase)
    except TypeError:
        problem = "is encrypted" if passphrase is None else "is not encrypted, but a passphrase was given"
        raise ConfigError(
            f"{path} {problem}", hint="Give the passphrase that the run started with."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} is not a private key, or has another passphrase") from None
    if not is_private_key(key):
        raise ConfigError(f"{path} contains a key of an unsupported type")
    return key


def make_csr(device_id: str, key: PrivateKey) -> bytes:
    """Make a CSR in DER with only `CN=<device_id>`."""
    public_key = key.public_key()
    info = build_request_info(device_id, encode_spki(public_key))
    return assemble(info, signature_algorithm(public_key), sign(key, info))
