"""Device ids and the subject names that carry them.

The OTA gateway takes a device's identity from its subject with the expression `CN=(.*)$`, so a subject
begins with an RDN of exactly one attribute, the common name, and that is the device id. Mostly it is all.

A device id also becomes a folder name, a log field and a URL part. So whatever a profile's own pattern
allows, `check_device_id` never lets a path separator, a control character, a non-ASCII look-alike, a
leading dot or `..` through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from asn1crypto import x509 as asn1_x509

from otahsm.errors import RequestRefusedError
from otahsm.patterns import Pattern
from otahsm.pki.der import PRINTABLE_STRING, SEQUENCE, SET, UTF8_STRING, children, contents, tlv

MAX_DEVICE_ID: Final = 128

_COMMON_NAME: Final = bytes.fromhex("0603550403")  # OBJECT IDENTIFIER 2.5.4.3
_SAFE: Final = re.compile(rf"(?!\.)[!-.0-\[\]-~]{{1,{MAX_DEVICE_ID}}}")  # printable ASCII but space, / and \
_OTHER_STRINGS: Final = {0x14: "TeletexString", 0x16: "IA5String", 0x1C: "UniversalString", 0x1E: "BMPString"}


def check_device_id(device_id: str, pattern: Pattern | None = None) -> None:
    """Check a device id against what is never safe, and against a profile's pattern, as a whole.

    Raises:
        RequestRefusedError: it is empty, too long, unsafe, or doesn't match.
    """
    if not _SAFE.fullmatch(device_id) or ".." in device_id:
        raise RequestRefusedError(
            "device_id",
            f"the device id {_shown(device_id)} must be 1 to {MAX_DEVICE_ID} printable ASCII characters"
            " without spaces, slashes, a leading dot or '..'",
        )
    if pattern is not None and not pattern.fullmatch(device_id):
        raise RequestRefusedError(
            "device_id",
            f"the device id {_shown(device_id)} doesn't match the profile's pattern {pattern.pattern}",
        )


def common_names(device_id: str) -> Iterator[bytes]:
    """Yield the two AttributeTypeAndValue that a CSR may have for a device id, in DER."""
    value = device_id.encode("utf-8", "replace")
    for kind in (UTF8_STRING, PRINTABLE_STRING):
        yield tlv(SEQUENCE, _COMMON_NAME, tlv(kind, value))


def subject_of(device_id: str, string_type: int = UTF8_STRING, others: bytes = b"") -> bytes:
    """Encode the subject `CN=<device id>` as a DER Name (RFC 5280, section 4.1.2.4).

    Args:
        device_id: the device id.
        string_type: the tag of the common name's value.
        others: relative distinguished names in DER that follow (see `SubjectTemplate`).
    """
    attribute = tlv(SEQUENCE, _COMMON_NAME, tlv(string_type, device_id.encode()))
    return tlv(SEQUENCE, tlv(SET, attribute), others)


def device_id_of(subject: bytes, *, ignore_others: bool) -> str:
    """Take the device id out of a CSR's subject.

    Args:
        subject: the DER Name.
        ignore_others: whether further attributes are tolerated (they are never copied).

    Raises:
        RequestRefusedError: there is not exactly one common name, it is not a UTF8String or
            PrintableString (RFC 5280 allows new names no other), or there are further attributes.
    """
    names = [list(children(rdn)) for rdn in children(subject)]
    if not all(names):
        raise RequestRefusedError("csr.subject", "the subject has an empty relative distinguished name")
    attributes = [tuple(children(attribute)) for name in names for attribute in name]
    common_names = [value for kind, value in attributes if kind == _COMMON_NAME]
    if len(common_names) != 1:
        raise RequestRefusedError(
            "csr.subject", f"the subject has {len(common_names)} common names, but must have exactly one"
        )
    if len(attributes) > 1 and not ignore_others:
        kinds = [str(asn1_x509.NameType.load(kind).native) for kind, _ in attributes]
        others = [kind for kind in kinds if kind != "common_name"]
        raise RequestRefusedError(
            "csr.subject",
            f"the subject contains more than the common name: {', '.join(others)}",
            hint="Make the CSR with the subject CN=<device id> alone, or let the profile ignore the rest"
            ' (csr_extras = "ignore").',
        )
    return _text(common_names[0])


def _text(value: bytes) -> str:
    string_type = value[0]
    if string_type not in (UTF8_STRING, PRINTABLE_STRING):
        kind = _OTHER_STRINGS.get(string_type, f"value with the tag {string_type:#04x}")
        raise RequestRefusedError(
            "csr.subject", f"the common name is a {kind}; it must be a UTF8String or a PrintableString"
        )
    try:
        return contents(value).decode()
    except UnicodeDecodeError:
        raise RequestRefusedError(
            "csr.subject", "the common name is a UTF8String that is not UTF-8"
        ) from None


def _shown(text: str) -> str:
    """Show a hostile string: escaped, and cut to a length that fits a log line."""
    short = text if len(text) <= MAX_DEVICE_ID else text[:MAX_DEVICE_ID] + "..."
    return ascii(short)
