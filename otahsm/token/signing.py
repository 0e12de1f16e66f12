"""Signs with a key in the token, and believes no signature that it has not verified (I4)."""

from __future__ import annotations

import hashlib
from typing import Final, cast

import pkcs11
from asn1crypto.algos import DigestInfo
from asn1crypto.core import Null
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Mechanism

from otahsm.errors import TokenUnavailableError
from otahsm.pki import PublicKey, SignatureAlgorithm, signature_is_valid
from otahsm.token.faults import explain

_DIGEST_INFO_SHA256: Final[bytes] = DigestInfo(
    {"digest_algorithm": {"algorithm": "sha256", "parameters": Null()}, "digest": bytes(32)}
).dump()[:-32]


class SigningKey:
    """A private key in an open session.

    Args:
        key: the handle in the token.
        public_key: what its signatures must verify with.
        algorithm: how it signs.
    """

    def __init__(self, key: pkcs11.PrivateKey, public_key: PublicKey, algorithm: SignatureAlgorithm) -> None:
        # python-pkcs11 mixes `sign` in when it sees CKA_SIGN; its types say so of the mixin only.
        self._key = cast(pkcs11.SignMixin, key)
        self._public_key = public_key
        self._algorithm = algorithm

    def sign(self, message: bytes) -> bytes:
        """Sign a message; return a signature that verifies, as X.509 wants it (DER for ECDSA).

        Uses the portable core of PKCS#11: the digest is made here, and signed in one part.

        Raises:
            TokenUnavailableError: the token failed, or its signature does not verify.
            TokenRefusedError: the token can't sign with this key at all.
        """
        try:
            signature = self.sign_unverified(message)
        except pkcs11.PKCS11Error as error:
            raise explain(error, "signing") from None
        if not signature_is_valid(self._public_key, self._algorithm, signature, message):
            raise TokenUnavailableError(
                "the token returned a signature that does not verify with the public key of its key; it was"
                " thrown away",
                hint="If this happens at every start, [ca] certificate and key_label don't belong together,"
                " or [checkpoint] verifier_key and key_label don't. If it happens now and then, the HSM is"
                " failing: take it out of service.",
            )
        return signature

    def sign_unverified(self, message: bytes) -> bytes:
        """Sign a message, and believe the token; only for measuring it.

        Raises:
            PKCS11Error: the token failed.
        """
        match self._algorithm.family:
            case "ecdsa":
                digest = hashlib.new(self._algorithm.digest or "sha256", message).digest()
                raw = self._key.sign(digest, mechanism=Mechanism.ECDSA)
                half = len(raw) // 2
                return encode_dss_signature(
                    int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
                )
            case "rsa":
                info = _DIGEST_INFO_SHA256 + hashlib.sha256(message).digest()
                return self._key.sign(info, mechanism=Mechanism.RSA_PKCS)
            case "eddsa":
                return self._key.sign(message, mechanism=Mechanism.EDDSA)
