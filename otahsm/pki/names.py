"""Device ids and the subject names that carry them.

The OTA gateway takes a device's identity from its subject with the expression `CN=(.*)$`, so a subject
is exactly one RDN with exactly one attribute, the common name, and that is the device id.

A device id also becomes a folder name, a log field and a URL part. So whatever a profile's own pattern
allows, `check_device_id` never lets a path separator, a control character, a non-ASCII look-alike, a
leading dot or `..` through.
"""

from __future__ import annotations

import re
from typing import Final

from asn1crypto import x509 as asn1_x509

from otahsm.errors import RequestRefusedError
from otahsm.pki.der import PRINTABLE_STRING, SEQUENCE, SET, UTF8_STRING, tlv

MAX_DEVICE_ID: Final = 128

_COMMON_NAME: Final = bytes.fromhex("0603550403")  # OBJECT IDENTIFIER 2.5.4.3
_SAFE: Final = re.compile(rf"(?!\.)[!-.0-\[\]-~]{{1,{MAX_DEVICE_ID}}}")  # printable ASCII but space, / and \


def check_device_id(device_id: str, pattern: str) -> None:
    """Check a device id against the profile's pattern (whole match) and against what is never safe.

    Raises:
        RequestRefusedError: it is empty, too long, unsafe, or doesn't match.
    """
    if not _SAFE.fullmatch(device_id) or ".." in device_id:
        raise RequestRefusedError(
            "device_id",
            f"the device id {_shown(device_id)} is not 1 to {MAX_DEVICE_ID} printable ASCII characters"
            " without spaces, slashes, a leading dot or '..'",
        )
    if not re.fullmatch(pattern, device_id):
        raise RequestRefusedError(
            "device_id",
            f"the device id {_shown(device_id)} doesn't match the profile's pattern {pattern}",
        )


def subject_of(device_id: str, string_type: int = UTF8_STRING) -> bytes:
    """Encode the subject `CN=<device id>` as a DER Name (RFC 5280, section 4.1.2.4)."""
    attribute = tlv(SEQUENCE, _COMMON_NAME, tlv(string_type, device_id.encode()))
    return tlv(SEQUENCE, tlv(SET, attribute))


def device_id_of(subject: bytes, common_names: list[str], *, ignore_others: bool) -> str:
    """Take the device id out of a CSR's subject.

    Args:
        subject: the DER Name.
        common_names: its common names, as parsed.
        ignore_others: whether further attributes are tolerated (they are never copied).

    Raises:
        RequestRefusedError: there is not exactly one common name, it is not a UTF8String or
            PrintableString (RFC 5280 allows new names no other), or there are further attributes.
    """
    if len(common_names) != 1:
        raise RequestRefusedError(
            "csr.subject", f"the subject has {len(common_names)} common names, and needs exactly one"
        )
    (device_id,) = common_names
    # What nearly every CSR looks like, without a second parse.
    if subject in (subject_of(device_id), subject_of(device_id, PRINTABLE_STRING)):
        return device_id
    others = []
    for rdn in asn1_x509.Name.load(subject).chosen:
        for attribute in rdn:
            kind = attribute["type"].native
            if kind != "common_name":
                others.append(kind)
            elif attribute["value"].chosen.__class__.__name__ not in ("UTF8String", "PrintableString"):
                raise RequestRefusedError(
                    "csr.subject",
                    f"the common name is a {attribute['value'].chosen.__class__.__name__};"
                    " it must be a UTF8String or a PrintableString",
                )
    if others and not ignore_others:
        raise RequestRefusedError(
            "csr.subject",
            f"the subject holds more than the common name: {', '.join(others)}",
            hint="Make the CSR with the subject CN=<device id> alone, or let the profile ignore the rest"
            ' (csr_extras = "ignore").',
        )
    return device_id


def _shown(text: str) -> str:
    """Show a hostile string: escaped, and cut to a length that fits a log line."""
    short = text if len(text) <= MAX_DEVICE_ID else text[:MAX_DEVICE_ID] + "..."
    return ascii(short)
