"""ECDSA on the NIST curves (RFC 5480; identifiers: RFC 5758, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal, NamedTuple

from asn1crypto.algos import SignedDigestAlgorithm
from asn1crypto.keys import NamedCurve
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otahsm.pki.keytypes.family import (
    Digest,
    KeyFamily,
    SignatureAlgorithm,
    TokenMechanism,
    TokenParameters,
    TokenValues,
    decode_point,
    encode_point,
    encode_spki,
)

Name = Literal["ec-p256", "ec-p384"]
MechanismName = Literal["CKM_ECDSA", "CKM_ECDSA_SHA256", "CKM_ECDSA_SHA384"]


class _Curve(NamedTuple):
    """A curve, and the digest that fits its size."""

    curve: ec.EllipticCurve
    digest: Digest


_CURVES: Final[dict[Name, _Curve]] = {
    "ec-p256": _Curve(ec.SECP256R1(), "sha256"),
    "ec-p384": _Curve(ec.SECP384R1(), "sha384"),
}
_NAMES: Final = {curve.name: name for name, (curve, _) in _CURVES.items()}


def _algorithm(digest: Digest) -> SignatureAlgorithm:
    return SignatureAlgorithm(
        "ecdsa",
        digest,
        SignedDigestAlgorithm({"algorithm": f"{digest}_ecdsa"}).dump(),
        (TokenMechanism("CKM_ECDSA", "digest"), TokenMechanism(f"CKM_ECDSA_{digest.upper()}", "message")),
    )


def _coordinate_bytes(curve: ec.EllipticCurve) -> int:
    return (curve.key_size + 7) // 8


# A key's encoding up to its point: named curve, uncompressed (RFC 5480, section 2).
_CANONICAL: Final[dict[Name, bytes]] = {
    name: encode_spki(ec.derive_private_key(1, curve).public_key())[: -2 * _coordinate_bytes(curve)]
    for name, (curve, _) in _CURVES.items()
}
_CANONICAL_BEGINNINGS: Final = tuple(_CANONICAL.values())
P256_BEGINNING: Final = _CANONICAL["ec-p256"]
_NAMES_BY_LENGTH: Final[dict[int, Name]] = {
    len(beginning) + 2 * _coordinate_bytes(_CURVES[name].curve): name
    for name, beginning in _CANONICAL.items()
}


class Ecdsa(KeyFamily[Name, ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey]):
    """Keys on the curves above; a signature is an Ecdsa-Sig-Value in DER (RFC 3279, section 2.2.3)."""

    public_class = ec.EllipticCurvePublicKey
    private_class = ec.EllipticCurvePrivateKey
    token_kind = "EC"  # noqa: S105 - no password
    algorithms: Mapping[Name, SignatureAlgorithm] = {
        name: _algorithm(digest) for name, (_, digest) in _CURVES.items()
    }

    def type_of(self, key: ec.EllipticCurvePublicKey) -> Name | None:
        """Name the curve."""
        return _NAMES.get(key.curve.name)

    def describe(self, key: ec.EllipticCurvePublicKey) -> str:
        """Name the curve, whichever it is."""
        return f"EC on {key.curve.name}"

    def is_canonical(self, spki: bytes, key: ec.EllipticCurvePublicKey) -> bool:
        """Compare the beginning only: parsing has checked that two coordinates of fixed length follow."""
        return spki.startswith(_CANONICAL_BEGINNINGS) or spki == encode_spki(key)

    def type_of_spki(self, spki: bytes) -> Name | None:
        """Compare beginning and length: reading the point would cost as much as signing."""
        name = _NAMES_BY_LENGTH.get(len(spki))
        return name if name and spki.startswith(_CANONICAL[name]) else None

    def verify(
        self, key: ec.EllipticCurvePublicKey, algorithm: SignatureAlgorithm, signature: bytes, message: bytes
    ) -> None:
        """Verify a signature in DER."""
        key.verify(signature, message, ec.ECDSA(algorithm.hash))

    def generate(self, key_type: Name) -> ec.EllipticCurvePrivateKey:
        """Make a key in software."""
        return ec.generate_private_key(_CURVES[key_type].curve)

    def sign(self, key: ec.EllipticCurvePrivateKey, algorithm: SignatureAlgorithm, message: bytes) -> bytes:
        """Sign in software."""
        return key.sign(message, ec.ECDSA(algorithm.hash))

    def token_parameters(self, key_type: Name) -> TokenParameters:
        """Return the curve's object identifier in DER."""
        return TokenParameters(ec_params=_params(_CURVES[key_type].curve))

    def token_values(self, key: ec.EllipticCurvePrivateKey) -> tuple[TokenValues, TokenValues]:
        """Return the private value, or the point, with the curve."""
        value = key.private_numbers().private_value.to_bytes(_coordinate_bytes(key.curve), "big")
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        curve = {"EC_PARAMS": _params(key.curve)}
        return {**curve, "VALUE": value}, {**curve, "EC_POINT": encode_point(point)}

    def from_token(self, value: Callable[[str], bytes]) -> ec.EllipticCurvePublicKey | None:
        """Read a point on the curve that is named."""
        params = value("EC_PARAMS")
        for curve, _ in _CURVES.values():
            if params == _params(curve):
                decode = partial(ec.EllipticCurvePublicKey.from_encoded_point, curve)
                return decode_point(value("EC_POINT"), decode)
        return None

    def encode_token_signature(self, key: ec.EllipticCurvePublicKey, signature: bytes) -> bytes:
        """Turn r and s, one after the other (PKCS#11 v3.0, section 6.3.1), into DER.

        A token that returns DER is believed. What is neither is returned as it is: it will not verify.
        """
        size = _coordinate_bytes(key.curve)
        if len(signature) == 2 * size:
            r, s = signature[:size], signature[size:]
            return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
        try:
            return encode_dss_signature(*decode_dss_signature(signature))
        except ValueError:
            return signature


def _params(curve: ec.EllipticCurve) -> bytes:
    encoded: bytes = NamedCurve(curve.name).dump()
    return encoded
