"""The sections that say where keys are: [token], [ca] and [checkpoint]."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    PlainSerializer,
    ValidationInfo,
    model_validator,
)

from otahsm.config.fields import ConfigPath, ListOf, Section, SetOf, beside_the_file
from otahsm.pkcs11_names import KeyFlaw, PinSource, Pkcs11Uri
from otahsm.pki.keytypes import MechanismName


def _uri(value: object) -> object:
    return Pkcs11Uri.parse(value) if isinstance(value, str) else value


def _names_a_token(uri: Pkcs11Uri, info: ValidationInfo) -> Pkcs11Uri:
    if uri.has_object or uri.type is not None:
        raise ValueError("must not name an object; [ca] key and [checkpoint] key name the keys")
    if not uri.token_attributes:
        raise ValueError("must name the token, by token (its label), serial, manufacturer or model")
    if uri.module_path is None or uri.pin_source is None:
        raise ValueError("must end with ?module-path=...&pin-source=...")
    module, pin = beside_the_file(Path(uri.module_path), info), PinSource.parse(uri.pin_source)
    if pin.kind == "file":
        uri = replace(uri, pin_source=f"file:{beside_the_file(Path(pin.value), info)}")
    return replace(uri, module_path=str(module))


def _names_a_key(uri: Pkcs11Uri) -> Pkcs11Uri:
    if not uri.has_object:
        raise ValueError(
            "must name the key, by object (its label) and id, as in pkcs11:object=fleet-root;id=%01"
        )
    if uri.type not in {None, "private"}:
        raise ValueError("must name a private key")
    if uri.module_path is not None or uri.pin_source is not None:
        raise ValueError("module-path and pin-source belong in [token] uri")
    return replace(uri, type=None)


_Uri = Annotated[InstanceOf[Pkcs11Uri], BeforeValidator(_uri), PlainSerializer(str)]
TokenUri = Annotated[_Uri, AfterValidator(_names_a_token)]
KeyUri = Annotated[_Uri, AfterValidator(_names_a_key)]


class ReplicaConfig(Section):
    """[[token.replica]]: another token with the same keys, for when the first one fails."""

    uri: TokenUri
    guard_dir: ConfigPath
    environment: dict[str, str] = {}  # noqa: RUF012 - pydantic copies it
    signers: Annotated[int, Field(ge=1, le=64)] = 2
    sessions: Annotated[int, Field(ge=1, le=64)] = 1
    sign_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    weight: Annotated[int, Field(ge=0, le=1000)] = 1
    signer_socket: ConfigPath | None = None

    @model_validator(mode="after")
    def _nobody_types_at_a_socket(self) -> Self:
        if self.signer_socket is not None and self.uri.pin.kind == "prompt":
            raise ValueError("signers at signer_socket can't prompt for the PIN: use another pin-source")
        return self

    @property
    def name(self) -> str:
        """The token's display name."""
        return str(self.uri.only_token())


class TokenConfig(ReplicaConfig):
    """[token]: the PKCS#11 token, how to log in, and how many signatures it makes at once."""

    journal_dir: ConfigPath | None = None
    replica: ListOf[ReplicaConfig] = ()

    @property
    def all(self) -> tuple[ReplicaConfig, ...]:
        """Itself and its replicas."""
        return self, *self.replica

    @model_validator(mode="after")
    def _replicas_are_apart(self) -> Self:
        if len({token.guard_dir for token in self.all}) < len(self.all):
            raise ValueError("each replica needs its own guard_dir: it is for the PIN of one token")
        if not any(token.weight for token in self.all):
            raise ValueError("the token or one of its replicas needs a weight above 0")
        return self


class KeyConfig(Section):
    """A key pair in the token, and how to sign with it."""

    key: KeyUri
    mechanism: MechanismName | None = None
    accept: SetOf[KeyFlaw] = frozenset()


class CaConfig(KeyConfig):
    """[ca]: the certificate chain of the CA (signing certificate first, root last) and its key."""

    certificate: ConfigPath


class CheckpointConfig(KeyConfig):
    """[checkpoint]: the key that signs checkpoints of the ledger, so that every later change is detected.

    Without this section an attacker who knows the ledger's format can change it unnoticed.
    """

    origin: Annotated[str, Field(pattern=r"^[!-*,-~]{1,255}$")]
    verifier_key: ConfigPath
    interval_seconds: Annotated[int, Field(ge=1, le=86_400)] = 60


def may_be_one(first: Pkcs11Uri, second: Pkcs11Uri) -> bool:
    """Return whether two URIs may name one key: they share a label or an id, or can't be compared."""
    pairs = ((first.object, second.object), (first.id, second.id))
    same = [one == other for one, other in pairs if one is not None and other is not None]
    return any(same) or not same
