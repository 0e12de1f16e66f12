"""What signing needs to know of the CA certificate; `chain` reads one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self, cast

from otahsm.pki.keytypes import KeyType, PublicKey, key_type_of, signature_algorithm
from otahsm.pki.keytypes.family import SignatureAlgorithm, encode_spki
from otahsm.pki.keytypes.spki import load_public_key


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

    def encode(self) -> tuple[bytes, bytes, bytes]:
        """Encode it for another process, which then has no certificate to read."""
        times = [int(moment.timestamp()) for moment in (self.not_before, self.not_after)]
        names = [self.subject.hex(), self.subject_text, self.key_identifier.hex()]
        facts = json.dumps([*names, self.algorithm.family == "rsa-pss", *times])
        return facts.encode(), encode_spki(self.public_key), self.certificate

    @classmethod
    def decode(cls, facts: bytes, spki: bytes, certificate: bytes) -> Self:
        """Return the issuer that was encoded."""
        subject, subject_text, key_identifier, pss, not_before, not_after = json.loads(facts)
        public_key = load_public_key(spki)
        return cls(
            certificate=certificate,
            subject=bytes.fromhex(subject),
            subject_text=subject_text,
            key_identifier=bytes.fromhex(key_identifier),
            public_key=public_key,
            key_type=cast(KeyType, key_type_of(public_key)),
            algorithm=signature_algorithm(public_key, pss=pss),
            not_before=datetime.fromtimestamp(not_before, UTC),
            not_after=datetime.fromtimestamp(not_after, UTC),
        )
