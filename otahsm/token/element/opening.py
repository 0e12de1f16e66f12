"""Opens a device's own secure element on the line, with a PIN and a guard for each.

It works like opening the CA's token, but its errors name the URI on the command line and the device.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pkcs11
from pkcs11 import exceptions
from pydantic import ValidationError

from otahsm.config import ReplicaConfig
from otahsm.errors import ConfigError, OtahsmError, TokenRefusedError, TokenUnavailableError
from otahsm.pkcs11_names import Pkcs11Uri
from otahsm.token.faults import explain
from otahsm.token.session import Login, describe_token, find_token, load_module, logged_in

AGAIN: Final = "Make sure that the device's token is connected, then run the same command again to continue."
_NAME_DIGITS: Final = 16


class _Fault(NamedTuple):
    kinds: tuple[type[pkcs11.PKCS11Error], ...]
    kind: type[OtahsmError]
    what: str
    hint: str


_FAULTS: Final = (
    _Fault(
        (exceptions.DeviceMemory,),
        TokenRefusedError,
        "is full",
        "Delete objects that are not needed (pkcs11-tool --delete-object), then run the same command again.",
    ),
    _Fault(
        (exceptions.TokenWriteProtected, exceptions.SessionReadOnly),
        TokenRefusedError,
        "is write-protected",
        "Remove the protection with the vendor's tool, then run the same command again.",
    ),
    _Fault(
        (exceptions.DeviceRemoved, exceptions.TokenNotPresent), TokenUnavailableError, "was removed", AGAIN
    ),
)


def read_element_uri(uri: str, logins: Path) -> ReplicaConfig:
    """Read the URI of a device's token.

    Args:
        uri: names token, module-path and pin-source, and no object (RFC 7512).
        logins: the folder that remembers refused PINs.

    Raises:
        ConfigError: the URI is invalid or incomplete. No value is quoted: it might be a PIN.
    """
    try:
        if Pkcs11Uri.parse(uri).has_object:
            raise ConfigError(
                "the URI of the device's token names an object",
                hint="Omit object and id: --key-id and --certificate-id name the objects.",
            )
        config = ReplicaConfig.model_validate({"uri": uri, "guard_dir": logins})
    except ValueError as error:  # pydantic's is one too
        problems = error.errors(include_input=False) if isinstance(error, ValidationError) else ()
        cause = problems[0]["ctx"]["error"] if problems else error
        raise ConfigError(
            f"invalid URI of the device's token: {cause}",
            hint="Write pkcs11:token=LABEL?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:pin.",
        ) from None
    if not config.uri.module.is_file():
        raise ConfigError(
            f"invalid URI of the device's token: module-path {config.uri.module} does not exist",
            hint="Install the PKCS#11 library of the device's token on this machine.",
        )
    return config


@contextlib.contextmanager
def element_opened(config: ReplicaConfig) -> Iterator[Login]:
    """Find a device's token and log in, to write to it.

    The PIN guard (I7) is the token's own, whatever URI names it: a wrong PIN costs one device a try, and
    stops none that has another label or serial number.

    Raises:
        PinRefusedError: the token refused the PIN, or must not be asked.
        TokenUnavailableError: it is not there, or it failed.
        TokenRefusedError: several match, or it is write-protected, or has no user PIN yet.
        ConfigError: the PIN can't be had, or the guard's folder not be used.
    """
    try:
        with explained("being opened"):
            token = find_token(load_module(config), config.uri)
            _check_flags(token)
            name = str(describe_token(token))
    except TokenUnavailableError as error:
        raise TokenUnavailableError(error.message, hint=AGAIN) from None
    guard = config.guard_dir / hashlib.sha256(name.encode()).hexdigest()[:_NAME_DIGITS]
    with logged_in(config.model_copy(update={"guard_dir": guard}), read_write=True) as login:
        yield login


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Raise PKCS#11 errors as ours; `doing` completes "the token failed while ..."."""
    try:
        yield
    except pkcs11.PKCS11Error as error:
        raise explain_element(error, doing) from None


def explain_element(error: pkcs11.PKCS11Error, doing: str) -> OtahsmError:
    """Turn a PKCS#11 error into ours."""
    if fault := known_fault(error, doing):
        return fault
    explanation = explain(error, doing)
    if isinstance(explanation, TokenUnavailableError):
        return TokenUnavailableError(explanation.message, hint=AGAIN)
    return explanation


def known_fault(error: pkcs11.PKCS11Error, doing: str) -> OtahsmError | None:
    """Turn a PKCS#11 error with a clear meaning into ours; return None for others."""
    for fault in _FAULTS:
        if isinstance(error, fault.kinds):
            name = type(error).__name__
            message = f"the device's token {fault.what}: it failed while {doing} ({name})"
            return fault.kind(message, hint=fault.hint)
    return None


def _check_flags(token: pkcs11.Token) -> None:
    """Refuse a token that can't be written to, before a PIN is at stake (PKCS#11 v2.40, section 3.2)."""
    if token.flags & pkcs11.TokenFlag.WRITE_PROTECTED:
        raise explain_element(exceptions.TokenWriteProtected(), "being opened")
    if not token.flags & pkcs11.TokenFlag.USER_PIN_INITIALIZED:
        raise TokenRefusedError(
            f"the token {describe_token(token)} has no user PIN yet",
            hint="Initialise it first, with pkcs11-tool --init-pin or the vendor's tool.",
        )
