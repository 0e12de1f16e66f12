"""What a PKCS#11 error means for the daemon: try again in a new process, or stop until an operator acts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import pkcs11
from pkcs11 import exceptions

from otahsm.errors import OtahsmError, PinRefusedError, TokenRefusedError, TokenUnavailableError

PIN_REFUSALS: Final = (
    exceptions.PinIncorrect,
    exceptions.PinInvalid,
    exceptions.PinLenRange,
    exceptions.PinExpired,
    exceptions.PinLocked,
)
_REFUSALS: Final = (
    exceptions.MechanismInvalid,
    exceptions.KeyTypeInconsistent,
    exceptions.KeySizeRange,
    exceptions.ArgumentsBad,
    exceptions.MultipleObjectsReturned,
    exceptions.MultipleTokensReturned,
)


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Raise PKCS#11 errors as ours; `doing` completes "the token failed while ..."."""
    try:
        yield
    except pkcs11.PKCS11Error as error:
        raise explain(error, doing) from None


def explain(error: pkcs11.PKCS11Error, doing: str) -> OtahsmError:
    """Turn a PKCS#11 error into ours; `doing` completes "the token failed while ..."."""
    name = type(error).__name__
    what = f"{name}: {error}" if str(error) else name
    message = f"the token failed while {doing} ({what})"
    if isinstance(error, PIN_REFUSALS):
        return PinRefusedError(message)
    if isinstance(error, _REFUSALS):
        return TokenRefusedError(message)
    return TokenUnavailableError(message)
