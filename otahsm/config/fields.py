"""What the values of `otahsm.toml` may look like, beyond their types."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from otahsm.patterns import compile_pattern
from otahsm.pki.crls.distribution import SHARD

# Only what every URL library leaves as it is: verifiers compare the URL of a CRL octet by octet.
_CRL_URL: Final = r"https?://[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*(:(?P<port>[1-9][0-9]{0,4}))?(/[A-Za-z0-9][A-Za-z0-9._~-]*)+"
_MAX_URL: Final = 255
_LAST_PORT: Final = 65535

_Item = TypeVar("_Item")


class Section(BaseModel):
    """A table of the file: frozen. Unknown keys are refused, and no value is converted to another type."""

    # Deferred: the whole file is validated as one model, and its tables need no validators of their own.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


def beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """Return an absolute path: a relative one starts in the folder of the file that names it."""
    if "\0" in str(path):
        raise ValueError("must not contain a NUL character")
    base: Path = (info.context or {}).get("base", Path())
    try:
        return base / path.expanduser()
    except RuntimeError:
        raise ValueError("starts with the home folder of a user that does not exist here") from None


def _regular_expression(pattern: str) -> str:
    with contextlib.suppress(
        ModuleNotFoundError
    ):  # a client has no RE2, and matches nothing: the daemon does
        compile_pattern(pattern)
    return pattern


def _listen_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > _LAST_PORT:
        raise ValueError("must be host:port, as in 127.0.0.1:7443")
    return address


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _crl_url(url: str) -> str:
    match = re.fullmatch(_CRL_URL, url.replace(SHARD, "0", 1))
    if not match or int(match["port"] or 0) > _LAST_PORT or len(url) > _MAX_URL:
        raise ValueError(
            f"must be a plain http or https URL of at most {_MAX_URL} characters that ends with the name of"
            " the file, with scheme and host in lower case, as in http://crl.example.com/fleet.crl"
        )
    if url.lower().endswith(".pem"):
        raise ValueError("must not end in .pem: a published CRL is DER (RFC 5280, section 4.2.1.13)")
    return url


# What a file has as strings and lists.
ConfigPath = Annotated[Path, Field(strict=False), AfterValidator(beside_the_file)]
ListOf = Annotated[tuple[_Item, ...], Field(strict=False)]
SetOf = Annotated[frozenset[_Item], Field(strict=False)]
Pattern = Annotated[str, AfterValidator(_regular_expression)]
Address = Annotated[str, AfterValidator(_listen_address)]
Addresses = Annotated[ListOf[Address], Field(min_length=1), BeforeValidator(_one_or_more)]
CrlUrl = Annotated[str, AfterValidator(_crl_url)]
