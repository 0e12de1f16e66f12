"""Ed25519 (RFC 8032; in X.509: RFC 8410).

A key must not be a point of small order: anybody can make signatures that verify with those, so they prove
possession of nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from asn1crypto.algos import SignedDigestAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519

from otahsm.pki.keytypes.family import (
    KeyFamily,
    SignatureAlgorithm,
    TokenMechanism,
    TokenParameters,
    TokenValues,
    decode_point,
    encode_point,
    weak_key,
)

Name = Literal["ed25519"]
MechanismName = Literal["CKM_EDDSA"]

_PARAMS: Final = bytes.fromhex("06032b6570")  # OID 1.3.101.112 (RFC 8410)
_P25519: Final = 2**255 - 19
_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# The y coordinates of the eight points whose order divides 8.
_SMALL_ORDER: Final = frozenset({0, 1, _P25519 - 1, _ORDER_8, _P25519 - _ORDER_8})


class Eddsa(KeyFamily[Name, ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey]):
    """The one curve; a signature is 64 octets, over the message itself."""

    public_class = ed25519.Ed25519PublicKey
    private_class = ed25519.Ed25519PrivateKey
    token_kind = "EC_EDWARDS"  # noqa: S105 - no password
    algorithms: Mapping[Name, SignatureAlgorithm] = {
        "ed25519": SignatureAlgorithm(
            "eddsa",
            None,
            SignedDigestAlgorithm({"algorithm": "ed25519"}).dump(),
            (TokenMechanism("CKM_EDDSA", "message"),),
        )
    }

    def type_of(self, key: ed25519.Ed25519PublicKey) -> Name:
        """Name the one type."""
        del key
        return "ed25519"

    def describe(self, key: ed25519.Ed25519PublicKey) -> str:
        """Name the curve."""
        del key
        return "Ed25519"

    def check(self, key: ed25519.Ed25519PublicKey) -> None:
        """Refuse points of small order, and other encodings than the canonical one."""
        # The last bit is the sign of x (RFC 8032, section 5.1.2).
        y = int.from_bytes(key.public_bytes_raw(), "little") & (1 << 255) - 1
        if y >= _P25519 or y in _SMALL_ORDER:
            raise weak_key("Ed25519", "it is a point of small order, or not in its canonical encoding")

    def verify(
        self, key: ed25519.Ed25519PublicKey, algorithm: SignatureAlgorithm, signature: bytes, message: bytes
    ) -> None:
        """Verify a raw signature."""
        del algorithm
        key.verify(signature, message)

    def generate(self, key_type: Name) -> ed25519.Ed25519PrivateKey:
        """Make a key in software."""
        del key_type
        return ed25519.Ed25519PrivateKey.generate()

    def sign(self, key: ed25519.Ed25519PrivateKey, algorithm: SignatureAlgorithm, message: bytes) -> bytes:
        """Sign in software."""
        del algorithm
        return key.sign(message)

    def token_parameters(self, key_type: Name) -> TokenParameters:
        """Return the curve's object identifier in DER."""
        del key_type
        return TokenParameters(ec_params=_PARAMS)

    def token_values(self, key: ed25519.Ed25519PrivateKey) -> tuple[TokenValues, TokenValues]:
        """Return the seed, or the point, with the curve."""
        curve = {"EC_PARAMS": _PARAMS}
        point = encode_point(key.public_key().public_bytes_raw())
        return {**curve, "VALUE": key.private_bytes_raw()}, {**curve, "EC_POINT": point}

    def from_token(self, value: Callable[[str], bytes]) -> ed25519.Ed25519PublicKey:
        """Read a point."""
        return decode_point(value("EC_POINT"), ed25519.Ed25519PublicKey.from_public_bytes)
