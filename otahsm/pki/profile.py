"""What is issued under a profile: what a certificate holds, and what a CSR must look like."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, get_args

from otahsm.patterns import Pattern
from otahsm.pki.keytypes import KeyType
from otahsm.pki.subject import SubjectPart

KeyUsage = Literal["digital_signature", "key_encipherment", "key_agreement", "non_repudiation"]
ExtendedKeyUsage = Literal["client_auth", "server_auth"]
CsrExtras = Literal["refuse", "ignore"]

DEFAULT_DEVICE_ID: Final = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
_DEFAULT_PATTERN: Final = Pattern(DEFAULT_DEVICE_ID)


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of certificate. The defaults are `ota-connect`, the OTA Connect guide's contract.

    Attributes:
        validity: how long a certificate is valid, unless its CA expires before.
        backdate: how long before its issuing it becomes valid, for devices whose clock is slow.
        renewal: in the last part of its validity, this long, a certificate may be renewed for the same key.
        rekey: the same for another key. Zero: never.
        device_id: what a device id must match as a whole.
        key_types: what a device's key may be.
        key_usage: in asn1crypto's names (RFC 5280, section 4.2.1.3).
        extended_key_usage: the same (section 4.2.1.12), in this order.
        csr_extras: whether a CSR that asks for more is refused, or what it asks for is ignored.
        subject: what follows the common name.
    """

    validity: timedelta = timedelta(days=365)
    backdate: timedelta = timedelta(minutes=60)
    renewal: timedelta = timedelta(0)
    rekey: timedelta = timedelta(0)
    device_id: Pattern = _DEFAULT_PATTERN
    key_types: frozenset[KeyType] = frozenset(get_args(KeyType))
    key_usage: frozenset[KeyUsage] = frozenset({"digital_signature"})
    extended_key_usage: tuple[ExtendedKeyUsage, ...] = ("client_auth",)
    csr_extras: CsrExtras = "refuse"
    subject: tuple[SubjectPart, ...] = ()
