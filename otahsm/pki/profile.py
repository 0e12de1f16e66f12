"""What is issued under a profile: what a certificate holds, and what a CSR must look like."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, Self, get_args

from otahsm.patterns import Pattern, compile_pattern
from otahsm.pki.keytypes import KeyType
from otahsm.pki.subject import SubjectPart
from otahsm.templates import Template

KeyUsage = Literal["digital_signature", "key_encipherment", "key_agreement", "non_repudiation"]
ExtendedKeyUsage = Literal["client_auth", "server_auth"]
CsrExtras = Literal["refuse", "ignore"]

DEFAULT_DEVICE_ID: Final = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
_DEFAULT_PATTERN: Final = Pattern(DEFAULT_DEVICE_ID)

_WINDOWS: Final = ("validity", "backdate", "renewal", "rekey")
_SETS: Final = ("key_types", "key_usage")


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

    def encode(self) -> bytes:
        """Encode it for another process: equal profiles as equal octets."""
        fields: dict[str, Any] = {name: getattr(self, name) // timedelta.resolution for name in _WINDOWS}
        fields |= {name: sorted(getattr(self, name)) for name in _SETS}
        fields["device_id"] = self.device_id.pattern
        fields["extended_key_usage"] = self.extended_key_usage
        fields["csr_extras"] = self.csr_extras
        fields["subject"] = [(kind, value.text) for kind, value in self.subject]
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """Return the profile that was encoded."""
        fields: dict[str, Any] = json.loads(encoded)
        fields |= {name: fields[name] * timedelta.resolution for name in _WINDOWS}
        fields |= {name: frozenset(fields[name]) for name in _SETS}
        fields["device_id"] = compile_pattern(fields["device_id"])
        fields["extended_key_usage"] = tuple(fields["extended_key_usage"])
        fields["subject"] = tuple(SubjectPart(kind, Template.parse(text)) for kind, text in fields["subject"])
        return cls(**fields)
