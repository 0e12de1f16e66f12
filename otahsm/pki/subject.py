"""What follows the common name in a device's subject: fixed, or from what a request says.

The common name stays the first: the OTA gateway reads a subject from its end (RFC 4514), where it must find
nothing but the device id.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from otahsm.errors import RequestRefusedError
from otahsm.pki.der import PRINTABLE_STRING, SEQUENCE, SET, UTF8_STRING, tlv
from otahsm.templates import Template

SubjectKind = Literal["C", "ST", "L", "O", "OU", "serialNumber", "businessCategory", "title"]

MAX_VALUE: Final = 64  # characters: the least of the upper bounds of RFC 5280, appendix A.1

# Attribute types (X.520; RFC 4519), as OBJECT IDENTIFIER in DER.
_TYPES: Final[Mapping[SubjectKind, bytes]] = {
    "C": bytes.fromhex("0603550406"),
    "ST": bytes.fromhex("0603550408"),
    "L": bytes.fromhex("0603550407"),
    "O": bytes.fromhex("060355040a"),
    "OU": bytes.fromhex("060355040b"),
    "serialNumber": bytes.fromhex("0603550405"),
    "businessCategory": bytes.fromhex("060355040f"),
    "title": bytes.fromhex("060355040c"),
}
_PRINTABLE: Final = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]+")  # X.680, section 41.4
_PATTERNS: Final[Mapping[SubjectKind, re.Pattern[str]]] = {
    "C": re.compile(r"[A-Z]{2}"),  # ISO 3166
    "serialNumber": _PRINTABLE,
}


class SubjectPart(NamedTuple):
    """A relative distinguished name with one attribute; its value may have places for what a request says."""

    kind: SubjectKind
    value: Template

    def __str__(self) -> str:
        return f"{self.kind}={self.value.text}"


class SubjectTemplate:
    """The part of the subject that a profile adds.

    Args:
        parts: what follows the common name, in order.

    Attributes:
        names: what a request must say: the names of its attributes.
    """

    def __init__(self, parts: Sequence[SubjectPart]) -> None:
        self._parts = parts
        self.names = frozenset(name for part in parts for name in part.value.names)
        self._fixed = b"" if self.names else self._encode({})

    def fill(self, attributes: Sequence[tuple[str, str]]) -> bytes:
        """Return the relative distinguished names in DER, one after another.

        Args:
            attributes: names and values, as the request has them: not checked.

        Raises:
            RequestRefusedError: one is missing, unexpected, or not allowed in a subject.
        """
        if not attributes and not self.names:
            return self._fixed
        values = dict(attributes)
        if unknown := sorted(values.keys() - self.names):
            needed = ", ".join(sorted(self.names)) or "none"
            raise _refused(f"the profile does not use the attribute {unknown[0][:64]!a}; it needs {needed}")
        if missing := sorted(self.names - values.keys()):
            raise _refused(f"the profile needs the attribute {missing[0]}, which the request lacks")
        return self._encode({name: _checked(name, value) for name, value in values.items()})

    def _encode(self, values: Mapping[str, str]) -> bytes:
        return b"".join(_encoded(part.kind, part.value.fill(values)) for part in self._parts)


def _checked(name: str, value: str) -> str:
    normal = unicodedata.normalize("NFC", value)
    if not normal.isprintable() or not normal.strip() or len(normal) > MAX_VALUE:
        raise _refused(f"the attribute {name} must be 1 to {MAX_VALUE} printable characters")
    return normal


def _encoded(kind: SubjectKind, value: str) -> bytes:
    if "CN=" in value.upper():  # a gateway looks for the first one
        raise _refused(f"{kind} would contain 'CN=', which a gateway would take for the device id")
    pattern = _PATTERNS.get(kind)
    if len(value) > MAX_VALUE or (pattern and not pattern.fullmatch(value)):
        what = "two capital letters" if kind == "C" else f"a PrintableString of 1 to {MAX_VALUE} characters"
        text = f"{kind} would be {value[:MAX_VALUE]!a}, which is not {what if pattern else 'that short'}"
        raise _refused(text)
    string_type = PRINTABLE_STRING if pattern else UTF8_STRING
    return tlv(SET, tlv(SEQUENCE, _TYPES[kind], tlv(string_type, value.encode())))


def _refused(message: str) -> RequestRefusedError:
    return RequestRefusedError(
        "attributes", message, hint="`ListProfiles` shows which attributes each profile needs."
    )
