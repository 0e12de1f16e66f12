"""A device's own secure element: its key, its CSR, its certificate.

Objects are found by their ids, as aktualizr does. What is there is used, so that the same steps again finish
what a crash left: a key pair is made only when there is none, and a certificate is written only when it is
not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

import pkcs11
from pkcs11 import Attribute, ObjectClass

from otahsm.config import KeyConfig
from otahsm.errors import OtahsmError, TokenRefusedError
from otahsm.pkcs11_names import KeyFlaw, Pkcs11Uri
from otahsm.pki.certificate import assemble
from otahsm.pki.keytypes import KeyType, PublicKey, describe_key, key_type_of
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.request import build_request_info
from otahsm.token import keys
from otahsm.token.element.certificate import CertificatePlace
from otahsm.token.element.opening import explained, known_fault
from otahsm.token.opening import find_flaws, get_ready
from otahsm.token.session import Login, describe_token

_DEFAULT_KEY_TYPE: Final[KeyType] = "ec-p256"
_EVERY_FLAW: Final[frozenset[KeyFlaw]] = frozenset(get_args(KeyFlaw))
_OR_DELETE: Final = "Delete it if it is not needed (pkcs11-tool --delete-object), or use another --key-id."


@dataclass(frozen=True, slots=True)
class KeySpec:
    """What a device's token is to hold.

    Attributes:
        device_id: whom the certificate is for.
        key_id: the CKA_ID of the key pair.
        certificate_id: the CKA_ID of the certificate.
        label: the CKA_LABEL of new objects.
        key_type: of the key; None makes one on P-256, and takes one that is there as it is.
        accept: what is accepted of a key that is there, though it should not be.
        replace: write over a certificate of another device or another key.
    """

    device_id: str
    key_id: bytes
    certificate_id: bytes
    label: str
    key_type: KeyType | None = None
    accept: frozenset[KeyFlaw] = frozenset()
    replace: bool = False


@dataclass(frozen=True, slots=True)
class ElementKey:
    """The key pair in a token.

    Attributes:
        public_key: the public half.
        private: the handle of the private half.
        public: that of the public one.
        made: it was generated just now.
    """

    public_key: PublicKey
    private: pkcs11.PrivateKey
    public: pkcs11.PublicKey
    made: bool

    @property
    def key_type(self) -> str:
        """Its type, as on the command line."""
        return str(key_type_of(self.public_key))


class SecureElement:
    """A device's token, in a session that is logged in; see `element_opened`."""

    def __init__(self, login: Login, spec: KeySpec) -> None:
        self._login = login
        self._session = login.session
        self._spec = spec
        self._key_id = spec.key_id.hex()
        self.token = describe_token(login.session.token)
        self.certificate = CertificatePlace(login.session, spec.device_id, spec.certificate_id, spec.label)

    def find_or_make_key(self) -> ElementKey:
        """Return the key pair with the requested id; generate it if there is none.

        Raises:
            TokenRefusedError: what is there can't be used, or a certificate is another's; nothing was
                changed then. Or the token can't make such a key.
            TokenUnavailableError: the token failed.
        """
        with explained("looking for key and certificate"):
            found = self._find_key()
            if not self._spec.replace:
                self.certificate.refuse_others(found.public_key if found else None)
            if found:
                return found
            self._remove_leftovers()
        return self._make_key()

    def make_csr(self, key: ElementKey) -> bytes:
        """Return a CSR for `CN=<device id>` in DER, signed by the token and verified.

        Raises:
            BadSignatureError: the signature is not of the public key in the token.
            OtahsmError: as `SigningKey.sign`.
        """
        config = KeyConfig(key=Pkcs11Uri(id=self._spec.key_id), accept=_EVERY_FLAW)
        signing = get_ready(self._login, key.private, config, key.public_key)
        info = build_request_info(self._spec.device_id, encode_spki(key.public_key))
        return assemble(info, signing.algorithm, signing.sign(info))

    def forget(self, key: ElementKey) -> None:
        """Destroy a key pair if it was made just now; there must be no certificate for it."""
        if key.made:
            with explained("destroying the new key"):
                key.private.destroy()
                key.public.destroy()

    def _find_key(self) -> ElementKey | None:
        private = self._find(ObjectClass.PRIVATE_KEY)
        if not private:
            return None
        if len(private) > 1:
            raise TokenRefusedError(
                f"the token holds {len(private)} private keys with id {self._key_id}; nothing was changed",
                hint="Delete those that are not needed, or use another --key-id.",
            )
        public = self._find(ObjectClass.PUBLIC_KEY)
        if len(public) != 1:
            raise TokenRefusedError(
                f"the token holds a private key with id {self._key_id} and {len(public)} public keys, instead"
                " of one; nothing was changed",
                hint=_OR_DELETE,
            )
        key = ElementKey(
            keys.decode_public_key(public[0]),
            cast(pkcs11.PrivateKey, private[0]),
            cast(pkcs11.PublicKey, public[0]),
            made=False,
        )
        self._check_fitness(key)
        return key

    def _check_fitness(self, key: ElementKey) -> None:
        """Refuse an existing key of another type than requested, or one that may also exist elsewhere."""
        if self._spec.key_type not in (None, key.key_type):
            raise TokenRefusedError(
                f"the key with id {self._key_id} in the token is {describe_key(key.public_key)}, not"
                f" {self._spec.key_type}; nothing was changed",
                hint=f"Omit --key-type to use it. {_OR_DELETE}",
            )
        found = find_flaws(key.private)
        flaws = {flaw: why for flaw, why in found.items() if flaw not in self._spec.accept}
        if flaws:
            options = " ".join(f"--accept {flaw}" for flaw in sorted(flaws))
            raise TokenRefusedError(
                f"the key with id {self._key_id} in the token is unfit for a device:"
                f" {'; '.join(flaws.values())}",
                hint=f"{_OR_DELETE} To use it all the same (some tokens report wrongly): {options}.",
            )

    def _remove_leftovers(self) -> None:
        """Destroy a public key without a private one: what a crash leaves while a key is made.

        Raises:
            TokenRefusedError: it has another label, and may belong to another application.
            PKCS11Error: the token failed.
        """
        for public in self._find(ObjectClass.PUBLIC_KEY):
            if public[Attribute.LABEL] != self._spec.label:
                raise TokenRefusedError(
                    f"the token holds a public key with id {self._key_id} and label"
                    f" {public[Attribute.LABEL]!r}, but not its private key; nothing was changed",
                    hint=_OR_DELETE,
                )
            public.destroy()

    def _make_key(self) -> ElementKey:
        key_config = KeyConfig(key=Pkcs11Uri(object=self._spec.label, id=self._spec.key_id))
        try:
            public, private = keys.generate(
                self._session, key_config, self._spec.key_type or _DEFAULT_KEY_TYPE
            )
        except TokenRefusedError as error:
            raise self._explain_generation(error) from None
        with explained("reading the new public key"), keys.destroyed_on_failure((public, private)):
            return ElementKey(keys.decode_public_key(public), private, public, made=True)

    def _explain_generation(self, error: TokenRefusedError) -> OtahsmError:
        cause = error.__cause__
        if isinstance(cause, pkcs11.PKCS11Error) and (fault := known_fault(cause, "making the key")):
            return fault
        with explained("listing its key types"):
            possible = ", ".join(keys.possible_key_types(self._session.token.slot))
        return TokenRefusedError(
            error.message,
            hint=f"The token supports {possible or 'no key type of otahsm'}. Choose one with --key-type.",
        )

    def _find(self, kind: ObjectClass) -> Sequence[Any]:
        return list(self._session.get_objects({Attribute.CLASS: kind, Attribute.ID: self._spec.key_id}))
