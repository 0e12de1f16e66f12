"""Signs with a key in the token, and verifies every signature (I4)."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import pkcs11

from otahsm.errors import BadSignatureError
from otahsm.pki.keytypes import PublicKey, family_of, signature_is_valid
from otahsm.pki.keytypes.family import KeyFamily, SignatureAlgorithm
from otahsm.token.faults import explain
from otahsm.token.guard import LoginGuard
from otahsm.token.mechanisms import SigningMechanism


class PinAtEachSignature(NamedTuple):
    """What a key with CKA_ALWAYS_AUTHENTICATE needs for every signature (PKCS#11 v2.40, section 4.9)."""

    pin: str
    guard: LoginGuard


class SigningKey:
    """A private key in an open session.

    Args:
        key: the handle in the token.
        public_key: what its signatures must verify with.
        algorithm: how it signs.
        mechanism: what the token is asked for.
        again: set if the key wants the PIN for every signature.
    """

    def __init__(
        self,
        key: pkcs11.PrivateKey,
        public_key: PublicKey,
        algorithm: SignatureAlgorithm,
        mechanism: SigningMechanism,
        again: PinAtEachSignature | None = None,
    ) -> None:
        # python-pkcs11 mixes `sign` in when it sees CKA_SIGN; its types say so of the mixin only.
        self._key = cast(pkcs11.SignMixin, key)
        self._public_key = public_key
        self.algorithm = algorithm
        self.mechanism_name = f"CKM_{mechanism.mechanism.name}"
        self._prepare = mechanism.prepare
        self._how: dict[str, Any] = {"mechanism": mechanism.mechanism}
        if mechanism.parameter is not None:
            self._how["mechanism_param"] = mechanism.parameter
        self._again = again
        self._family = cast(KeyFamily[Any, PublicKey, Any], family_of(public_key))

    def sign(self, message: bytes) -> bytes:
        """Sign a message; return a signature that verifies, as X.509 wants it (DER for ECDSA).

        Raises:
            BadSignatureError: what the token returned does not verify.
            TokenUnavailableError: the token failed.
            TokenRefusedError: the token can't sign with this key at all.
            PinRefusedError: the key wants the PIN again, and the token refused it.
        """
        if self._again:
            with self._again.guard.another_try():
                signature = self._sign(message)
        else:
            signature = self._sign(message)
        if not signature_is_valid(self._public_key, self.algorithm, signature, message):
            raise BadSignatureError(
                "the token returned a signature that does not verify with the public key; it was discarded"
            )
        return signature

    def _sign(self, message: bytes) -> bytes:
        try:
            return self.sign_unverified(message)
        except pkcs11.PKCS11Error as error:
            raise explain(error, "signing") from None

    def sign_unverified(self, message: bytes) -> bytes:
        """Sign a message without verifying the signature; only for benchmarks.

        Raises:
            PKCS11Error: the token failed.
        """
        how = {**self._how, "pin": self._again.pin} if self._again else self._how
        signature = self._key.sign(self._prepare(message), **how)
        return self._family.encode_token_signature(self._public_key, signature)
