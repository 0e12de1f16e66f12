"""What signing needs to know of the CA certificate; `chain` reads one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from otahsm.pki.keytypes import KeyType, PublicKey
from otahsm.pki.keytypes.family import SignatureAlgorithm


@dataclass(frozen=True, slots=True)
class Issuer:
    """What signing a certificate needs to know of the CA certificate; all of it public."""

    certificate: bytes
    subject: bytes
    subject_text: str
    key_identifier: bytes
    public_key: PublicKey
    key_type: KeyType
    algorithm: SignatureAlgorithm
    not_before: datetime
    not_after: datetime
