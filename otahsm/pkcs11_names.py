"""How the configuration names a token, a key, a module and where the PIN is: PKCS#11 URIs (RFC 7512).

Nothing is loaded for them but the standard library: signers need them, and not the configuration.
"""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, unquote_to_bytes

KeyFlaw: TypeAlias = Literal["extractable", "not-sensitive", "not-local"]
PinKind: TypeAlias = Literal["file", "command", "systemd-credential", "env", "prompt"]

_SCHEME: Final = "pkcs11:"
_OF_TOKENS: Final = ("token", "serial", "manufacturer", "model")
_ATTRIBUTES: Final = (*_OF_TOKENS, "object", "id", "type")
_QUERY: Final = ("module-path", "pin-source")
_REFUSED: Final[Mapping[str, str]] = {
    "slot-id": "slot numbers change from start to start; name the token by token, serial or manufacturer",
    "pin-value": "a PIN must not be in a file that others read; use pin-source",
    "module-name": "use module-path, with the path of the library",
}
_TYPES: Final = ("cert", "data", "private", "public", "secret-key")

# What may stand as it is (section 2.3): the query takes "/", "?" and "|" besides.
_PATH_SAFE: Final = ":[]@!$'()*+,=&"
_QUERY_SAFE: Final = ":[]@!$'()*+,=/?|"
_PRINTABLE: Final = frozenset(string.ascii_letters + string.digits + string.punctuation)


_PIN_SOURCES: Final = (
    "pin-source must be file:PATH, systemd-credential:NAME, |COMMAND (with an absolute path), env:NAME or"
    " prompt:"
)


@dataclass(frozen=True, slots=True)
class PinSource:
    """Where the user PIN comes from (RFC 7512, section 2.4, and more kinds).

    Attributes:
        kind: "file", "command", "systemd-credential", "env", or "prompt", which is a terminal.
        value: the path, command line or name; "" for a prompt.
    """

    kind: PinKind
    value: str

    @classmethod
    def parse(cls, text: str) -> PinSource:
        """Read the value of a pin-source. Raises ValueError, which never quotes it, if it is invalid."""
        if text.startswith("|"):
            try:
                program = shlex.split(text[1:])[:1]
            except ValueError:
                program = []
            if not program or not Path(program[0]).is_absolute():
                raise ValueError(_PIN_SOURCES)
            return cls("command", text[1:])
        kind, colon, value = text.partition(":")
        if colon and value:
            if kind == "file":
                return cls("file", value.removeprefix("//") if value.startswith("///") else value)
            if kind == "systemd-credential" and "/" not in value:
                return cls("systemd-credential", value)
            if kind == "env":
                return cls("env", value)
        if text == "prompt:":
            return cls("prompt", "")
        raise ValueError(_PIN_SOURCES)

    @property
    def program(self) -> str:
        """The absolute path of the program of a command."""
        return shlex.split(self.value)[0]


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """The attributes of one URI, decoded; None where it does not have one.

    Attributes:
        token: the token's label.
        serial: its serial number.
        manufacturer: who made it.
        model: what its maker calls it.
        object: an object's label (CKA_LABEL).
        id: an object's id (CKA_ID).
        type: an object's class: "cert", "data", "private", "public" or "secret-key".
        module_path: the PKCS#11 library.
        pin_source: where the PIN is.
    """

    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    object: str | None = None
    id: bytes | None = None
    type: str | None = None
    module_path: str | None = None
    pin_source: str | None = None

    @classmethod
    def parse(cls, text: str) -> Pkcs11Uri:
        """Read a URI.

        Raises:
            ValueError: the URI is invalid, has an attribute twice, or one that otahsm refuses. No value is
                quoted: it might be a PIN.
        """
        if text[: len(_SCHEME)].lower() != _SCHEME:
            raise ValueError("a PKCS#11 URI must start with pkcs11: (RFC 7512)")
        if not _PRINTABLE.issuperset(text):
            raise ValueError("a PKCS#11 URI must be ASCII without spaces; write other characters as %XX")
        path, _, query = text[len(_SCHEME) :].partition("?")
        values = _read(path, ";", _ATTRIBUTES) | _read(query, "&", _QUERY)
        id_ = values.pop("id", None)
        try:
            decoded = {_field(name): value.decode() for name, value in values.items()}
        except UnicodeDecodeError:
            raise ValueError("a value in a PKCS#11 URI is not UTF-8") from None
        if decoded.get("type", _TYPES[0]) not in _TYPES:
            raise ValueError(f"type must be one of {', '.join(_TYPES)}")
        return cls(id=id_, **decoded)

    def __str__(self) -> str:
        """Return it as a URI."""
        path = ";".join(self._written(_ATTRIBUTES, _PATH_SAFE))
        query = "&".join(self._written(_QUERY, _QUERY_SAFE))
        return f"{_SCHEME}{path}?{query}" if query else f"{_SCHEME}{path}"

    @property
    def token_attributes(self) -> dict[str, str]:
        """The attributes that name a token: token, serial, manufacturer and model, where given."""
        return {name: value for name in _OF_TOKENS if (value := getattr(self, name)) is not None}

    def only_token(self) -> Pkcs11Uri:
        """Return a URI with the attributes of the token only."""
        return Pkcs11Uri(self.token, self.serial, self.manufacturer, self.model)

    @property
    def module(self) -> Path:
        """The PKCS#11 library."""
        return Path(self.module_path or "")

    @property
    def pin(self) -> PinSource:
        """Where the PIN comes from. Raises ValueError if pin-source is missing or invalid."""
        return PinSource.parse(self.pin_source or "")

    @property
    def has_object(self) -> bool:
        """Whether it names an object, by label or id."""
        return self.object is not None or self.id is not None

    def _written(self, names: Iterable[str], safe: str) -> Iterator[str]:
        for name in names:
            value = getattr(self, _field(name))
            if value is not None:
                yield f"{name}={_quote_id(value) if isinstance(value, bytes) else quote(value, safe=safe)}"


def _field(name: str) -> str:
    return name.replace("-", "_")


def _read(part: str, separator: str, known: Collection[str]) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    for attribute in part.split(separator) if part else ():
        name, equals, value = attribute.partition("=")
        if reason := _REFUSED.get(name):
            raise ValueError(f"{name} is refused: {reason}")
        if not equals or name not in known:
            shown = equals and re.fullmatch(r"[A-Za-z0-9-]{1,40}", name)  # without "=" it may be a PIN
            what = f"attribute {name!r}" if shown else "such attribute"
            raise ValueError(f"there is no {what} here; use {', '.join(known)}")
        if name in values:
            raise ValueError(f"{name} is given twice")
        if re.search(r"%(?![0-9A-Fa-f]{2})", value):
            raise ValueError(f"{name} has a % without two hexadecimal digits after it")
        values[name] = unquote_to_bytes(value)
    return values


def _quote_id(octets: bytes) -> str:
    return "".join(f"%{octet:02X}" for octet in octets)
