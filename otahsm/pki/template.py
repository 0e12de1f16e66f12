"""A profile's TBSCertificate with its variable fields left open: built once by asn1crypto, filled often.

Building a TBS field by field takes several times as long as the token takes to sign it. But between two
certificates of one profile and one issuer only serial number, validity, subject, public key and subject key
identifier differ; and the URL of its CRL, which is one of a few. So `build_tbs` makes one exemplar for each
URL, the exemplar is cut where those fields are, and the TBS of a device is the pieces joined around its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from otahsm.pki.certificate import Binding, Validity, build_tbs, encode_validity, validity_at
from otahsm.pki.crls.distribution import CrlLocation
from otahsm.pki.der import SEQUENCE, children, integer, tlv
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes.spki import subject_key_identifier
from otahsm.pki.names import subject_of
from otahsm.pki.profile import Profile
from otahsm.pki.serial import SerialNumber
from otahsm.pki.subject import SubjectTemplate

# A key that nobody has: what is its own in the exemplar can't be mistaken for what is the issuer's.
_NOBODYS_KEY: Final = bytes.fromhex("302a300506032b6570032100" + "a5" * 32)  # Ed25519 (RFC 8410, section 4)


class TbsTemplate:
    """Builds the TBSCertificates of one profile and one CRL shard under one issuer.

    Args:
        profile: what the certificates hold.
        issuer: the CA certificate.
        crl_url: where the CRL of the shard is; None if the certificates are to state none.
    """

    def __init__(self, profile: Profile, issuer: Issuer, crl_url: str | None = None) -> None:
        exemplar = build_tbs(
            Binding("exemplar", _NOBODYS_KEY),
            profile,
            issuer,
            serial=1,
            validity=Validity(issuer.not_before, issuer.not_after),
            crl_url=crl_url,
        )
        # The fields of a v3 TBSCertificate, in their order (RFC 5280, section 4.1).
        self._version, _, algorithm, name, _, _, _, extensions = children(exemplar)
        self._algorithm_and_issuer = algorithm + name
        # All identifiers have 20 octets, so that no length around one ever changes.
        self._until_identifier, self._after_identifier = extensions.split(
            subject_key_identifier(_NOBODYS_KEY)
        )

    def fill(self, binding: Binding, serial: int, validity: Validity, others: bytes = b"") -> bytes:
        """Build the TBSCertificate of one device, in DER: byte for byte what `build_tbs` would build."""
        return tlv(
            SEQUENCE,
            self._version,
            integer(serial),
            self._algorithm_and_issuer,
            _encoded(validity),
            subject_of(binding.device_id, others=others),
            binding.spki,
            self._until_identifier,
            subject_key_identifier(binding.spki),
            self._after_identifier,
        )


_encoded: Final = lru_cache(maxsize=16)(encode_validity)  # a batch has one, and so have those of a second


@dataclass(frozen=True, slots=True)
class Terms:
    """What is issued under one profile.

    Attributes:
        profile: what the certificates contain.
        issuer: the CA certificate.
        crls: the CRL distribution point of the certificates; None for none.
    """

    profile: Profile
    issuer: Issuer
    crls: CrlLocation | None


class ProfileTemplate:
    """Builds the TBSCertificates of one profile, of all its CRL shards.

    All of a certificate follows from the terms and four values: the serial number, whose time is that of its
    validity and whose random bits choose the shard; the device id; the key; and what a request says for the
    subject. So whoever has the terms and these values builds the same octets.

    Args:
        terms: what the certificates hold.

    Raises:
        RequestRefusedError: the profile's subject is not allowed.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._subject = SubjectTemplate(terms.profile.subject)
        self._of_shard = {0: self._template(0)}  # those of other shards are made when they are first needed
        self._validity = lru_cache(maxsize=16)(self._validity_at)

    def fill(
        self, serial: SerialNumber, binding: Binding, attributes: Sequence[tuple[str, str]] = ()
    ) -> bytes:
        """Build the TBSCertificate of one device, in DER.

        Args:
            serial: one of `make_serial`.
            binding: the device's id and key, of a CSR that was checked.
            attributes: names and values for the profile's subject, not checked.

        Raises:
            RequestRefusedError: an attribute is missing, unexpected, or not allowed in a subject.
            AuthorityUnusableError: the issuer is not valid at the time of the serial number.
        """
        others = self._subject.fill(attributes)
        shard = self.terms.crls.shard_of(serial) if self.terms.crls else 0
        template = self._of_shard.get(shard)
        if template is None:
            template = self._of_shard[shard] = self._template(shard)
        return template.fill(binding, serial, self._validity(serial.milliseconds // 1000), others)

    def _template(self, shard: int) -> TbsTemplate:
        profile, issuer, crls = self.terms.profile, self.terms.issuer, self.terms.crls
        return TbsTemplate(profile, issuer, crls.url(shard) if crls else None)

    def _validity_at(self, seconds: int) -> Validity:
        return validity_at(datetime.fromtimestamp(seconds, UTC), self.terms.profile, self.terms.issuer)
