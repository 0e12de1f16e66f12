"""A copy of the CA's chain with throw-away keys and a device under it, for verifiers to judge.

A real device certificate would need the token, and would have to be in the ledger. Verifiers look at names,
validity and extensions: the copy has all of them, and only keys and signatures differ.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from asn1crypto import algos, keys, pem
from asn1crypto import x509 as asn1_x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from otahsm.pki.certificate import Binding, Validity, assemble, build_tbs
from otahsm.pki.chain import Chain, load_issuer
from otahsm.pki.keytypes import SIGNATURE_ALGORITHMS
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import Profile
from otahsm.pki.serial import SERIAL_RANDOM_BYTES, make_serial

_ALGORITHM = SIGNATURE_ALGORITHMS["ec-p256"]


@dataclass(frozen=True, slots=True)
class Mirror:
    """The files of a copy.

    Attributes:
        anchor: the root.
        chain: the certificates between it and the device, and the root.
        device: a device's certificate.
    """

    anchor: Path
    chain: Path
    device: Path

    @classmethod
    def write(cls, chain: Chain, profile: Profile, validity: Validity, folder: Path) -> Mirror:
        """Write a copy of a chain into a folder, with a device certificate of a profile under it."""
        pairs = [ec.generate_private_key(ec.SECP256R1()) for _ in chain.certificates]
        parents = [*pairs[1:], pairs[-1]]
        copies = [_copy(*item) for item in zip(chain.certificates, pairs, parents, strict=True)]
        spki = encode_spki(ec.generate_private_key(ec.SECP256R1()).public_key())
        serial = make_serial(secrets.token_bytes(SERIAL_RANDOM_BYTES), time.time_ns() // 1_000_000)
        binding = Binding("otahsm-doctor", spki)
        tbs = build_tbs(binding, profile, load_issuer(copies[0]), serial, validity)
        device = assemble(tbs, _ALGORITHM, pairs[0].sign(tbs, ec.ECDSA(hashes.SHA256())))
        files = {"anchor": copies[-1:], "chain": copies, "device": [device]}
        for name, certificates in files.items():
            armored = (pem.armor("CERTIFICATE", certificate) for certificate in certificates)
            (folder / name).write_bytes(b"".join(armored))
        return cls(folder / "anchor", folder / "chain", folder / "device")


def _copy(der: bytes, key: ec.EllipticCurvePrivateKey, parent: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a copy of a certificate with another key, signed by another parent."""
    tbs = asn1_x509.Certificate.load(der)["tbs_certificate"].copy()
    tbs["subject_public_key_info"] = keys.PublicKeyInfo.load(encode_spki(key.public_key()))
    tbs["signature"] = algos.SignedDigestAlgorithm.load(_ALGORITHM.identifier)
    encoded = tbs.dump(force=True)
    return assemble(encoded, _ALGORITHM, parent.sign(encoded, ec.ECDSA(hashes.SHA256())))
