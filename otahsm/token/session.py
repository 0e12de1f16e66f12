"""Finds the token and logs in, once a process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import pkcs11
from pkcs11._pkcs11 import lib as Library  # noqa: N812 - it is a class, and the function hides its name

from otahsm.config import TokenConfig
from otahsm.errors import ConfigError, PinRefusedError, TokenRefusedError, TokenUnavailableError
from otahsm.token import module
from otahsm.token.faults import explain
from otahsm.token.pin import LoginGuard, read_pin
from otahsm.workers import outliving_the_daemon

_LOGIN_SECONDS: Final = 60.0


@contextlib.contextmanager
def logged_in(config: TokenConfig, *, read_write: bool = False) -> Iterator[pkcs11.Session]:
    """Open a session on the configured token and log in as user.

    Raises:
        ConfigError: the module, the PIN file or the guard directory is not what it should be.
        PinRefusedError: the token refused the PIN, or must not be asked (I7).
        TokenUnavailableError: the token is away; it may come back.
        TokenRefusedError: more than one token matches.
    """
    session = _open(config, read_write=read_write)
    try:
        yield session
    finally:
        with contextlib.suppress(pkcs11.PKCS11Error):
            session.close()


def _open(config: TokenConfig, *, read_write: bool) -> pkcs11.Session:
    os.environ.update(config.environment)
    if not config.module.is_file():
        raise ConfigError(
            f"[token] module: {config.module} does not exist",
            hint="Install the HSM vendor's PKCS#11 library, or for SoftHSM2 the package softhsm2.",
        )
    guard = LoginGuard(config.guard_dir)
    with guard.lock():
        try:
            token = _find(module.load(config.module, threads=config.sessions > 1), config)
            _check_pin_flags(token)
            # Does the token answer at all? If not, no PIN is at stake yet.
            token.open().close()
        except pkcs11.PKCS11Error as error:
            raise explain(error, "being opened") from None
        except RuntimeError as error:
            raise TokenUnavailableError(f"the PKCS#11 module {config.module} doesn't load: {error}") from None
        pin = read_pin(config.pin_file)
        with outliving_the_daemon(_LOGIN_SECONDS), guard.one_try():
            try:
                return token.open(rw=read_write, user_pin=pin)
            except pkcs11.PKCS11Error as error:
                raise explain(error, "logging in") from None


def _find(library: Library, config: TokenConfig) -> pkcs11.Token:
    tokens = list(library.get_tokens())
    matches = [
        token
        for token in tokens
        if token.label == config.label and config.serial in (None, _serial_text(token))
    ]
    if len(matches) == 1:
        return matches[0]
    listing = ", ".join(f"{token.label!r} (serial {_serial_text(token)})" for token in tokens if token.label)
    if matches:
        raise TokenRefusedError(
            f"{len(matches)} tokens are called {config.label!r}: {listing}",
            hint="Add the serial of the right one to the [token] section.",
        )
    raise TokenUnavailableError(
        f"no token is called {config.label!r}; the module shows {listing or 'none'}",
        hint="Check [token] label, serial and environment; is the HSM connected?",
    )


def _serial_text(token: pkcs11.Token) -> str:
    return token.serial.decode("ascii", "replace").strip(" \0")


def _check_pin_flags(token: pkcs11.Token) -> None:
    """Refuse a token that is locked, or that one more wrong PIN would lock (PKCS#11 v2.40, section 3.2)."""
    for flag, what in (
        (pkcs11.TokenFlag.USER_PIN_LOCKED, "says that its user PIN is locked"),
        (pkcs11.TokenFlag.USER_PIN_FINAL_TRY, "says that one more wrong user PIN will lock it"),
    ):
        if token.flags & flag:
            raise PinRefusedError(f"the token {token.label!r} {what}")
