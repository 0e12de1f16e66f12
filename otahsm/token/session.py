"""Finds the token and logs in, once a process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

import pkcs11
from pkcs11._pkcs11 import lib as Library  # noqa: N812 - it is a class, and the function hides its name

from otahsm.errors import ConfigError, PinRefusedError, TokenRefusedError, TokenUnavailableError
from otahsm.pkcs11_names import Pkcs11Uri
from otahsm.token import module
from otahsm.token.faults import explained
from otahsm.token.guard import LoginGuard
from otahsm.token.pin import read_pin
from otahsm.token.setup import TokenAccess
from otahsm.workers.child import outliving_the_daemon

_LOGIN_SECONDS: Final = 60.0


class Login(NamedTuple):
    """A session that is logged in, and what logging in again for one signature takes.

    Login is the token's state, not the session's (PKCS#11 v2.40, section 5.6): further sessions of the same
    process share it.
    """

    session: pkcs11.Session
    pin: str
    guard: LoginGuard
    read_write: bool

    def open_another(self) -> pkcs11.Session:
        """Open a further session. Raises PKCS11Error."""
        return self.session.token.open(rw=self.read_write)


@contextlib.contextmanager
def logged_in(config: TokenAccess, *, read_write: bool = False) -> Iterator[Login]:
    """Open a session on the configured token and log in as user.

    Raises:
        ConfigError: the module, the PIN file or the guard directory is not what it should be.
        PinRefusedError: the token refused the PIN, or must not be asked (I7).
        TokenUnavailableError: the token is away; it may come back.
        TokenRefusedError: more than one token matches.
    """
    login = _open(config, read_write=read_write)
    try:
        yield login
    finally:
        with contextlib.suppress(pkcs11.PKCS11Error):
            login.session.close()


def load_module(config: TokenAccess) -> Library:
    """Load the configured PKCS#11 module, once in the life of a process, for as many threads as sessions.

    Raises:
        ConfigError: there is no such file.
        OtahsmError, PKCS11Error: as `module.load`.
    """
    os.environ.update(config.environment)
    if not config.uri.module.is_file():
        raise ConfigError(
            f"[token] uri: module-path {config.uri.module} does not exist",
            hint="Install the HSM vendor's PKCS#11 library, or for SoftHSM2 the package softhsm2.",
        )
    try:
        return module.load(config.uri.module, threads=config.sessions > 1)
    except RuntimeError as error:
        raise TokenUnavailableError(f"can't load the PKCS#11 module {config.uri.module}: {error}") from None


def _open(config: TokenAccess, *, read_write: bool) -> Login:
    guard = LoginGuard(config.guard_dir)
    with guard.lock():
        with explained("being opened"):
            token = find_token(load_module(config), config.uri)
            _check_pin_flags(token)
            # Does the token answer at all? If not, no PIN is at stake yet.
            read_write = read_write or not _has_read_only_sessions(token)
        pin = read_pin(config.uri.pin)
        with outliving_the_daemon(_LOGIN_SECONDS), guard.one_try(), explained("logging in"):
            return Login(token.open(rw=read_write, user_pin=pin), pin, guard, read_write)


def find_token(library: Library, uri: Pkcs11Uri) -> pkcs11.Token:
    """Find the one token that a URI names, whatever slot it is in (RFC 7512, section 2.3).

    Raises:
        TokenUnavailableError: there is none; it may come back.
        TokenRefusedError: there are several.
        PKCS11Error: the module failed.
    """
    present = [(token, describe_token(token)) for token in library.get_tokens()]
    required = uri.token_attributes.items()
    matches = [token for token, uri in present if required <= uri.token_attributes.items()]
    if len(matches) == 1:
        return matches[0]
    listing = ", ".join(str(uri) for _, uri in present if uri.token) or "none"
    what = uri.only_token()
    if matches:
        raise TokenRefusedError(
            f"{len(matches)} tokens match {what}; the module shows {listing}",
            hint="Add to [token] uri an attribute that only the right one has, such as its serial.",
        )
    raise TokenUnavailableError(
        f"no token matches {what}; the module shows {listing}",
        hint="Check [token] uri and environment, and that the HSM is connected.",
    )


def describe_token(token: pkcs11.Token) -> Pkcs11Uri:
    """Return the URI of a token, without the padding of CK_TOKEN_INFO (PKCS#11 v2.40, section 3.2)."""
    return Pkcs11Uri(
        token=token.label.strip(" \0"),
        serial=token.serial.decode("utf-8", "replace").strip(" \0"),
        manufacturer=token.manufacturer_id.strip(" \0"),
        model=token.model.strip(" \0"),
    )


def _has_read_only_sessions(token: pkcs11.Token) -> bool:
    """Return whether a token opens read-only sessions: one vendor's module has only read-write ones.

    Raises:
        PKCS11Error: it opens none at all.
    """
    try:
        token.open().close()
    except pkcs11.PKCS11Error:
        token.open(rw=True).close()
        return False
    return True


def _check_pin_flags(token: pkcs11.Token) -> None:
    """Refuse a token that is locked, or that one more wrong PIN would lock (PKCS#11 v2.40, section 3.2)."""
    for flag, what in (
        (pkcs11.TokenFlag.USER_PIN_LOCKED, "reports that its user PIN is locked"),
        (pkcs11.TokenFlag.USER_PIN_FINAL_TRY, "reports that one more wrong user PIN will lock it"),
    ):
        if token.flags & flag:
            raise PinRefusedError(f"the token {token.label!r} {what}")
