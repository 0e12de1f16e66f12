"""Checks a certificate of the ledger before it is released again: a row can be changed."""

from __future__ import annotations

from hashlib import sha256

from cryptography import x509

from otahsm.errors import LedgerTamperedError
from otahsm.issuance.authorities import Authorities, Authority
from otahsm.ledger import CertificateComparison, RecordedCertificate, Replay
from otahsm.pki.certificate import Binding
from otahsm.pki.der import children
from otahsm.pki.parsing import PARSE_ERRORS


class Replays:
    """Checks certificates before they are released again.

    Args:
        authorities: the CAs.
    """

    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities
        self._comparison = CertificateComparison(
            authority.chain.issuer for authority in authorities.by_name.values()
        )

    def check(self, replay: Replay, binding: Binding) -> Authority:
        """Check that one of the CAs signed a certificate, for this device and its key; return the CA.

        Raises:
            LedgerTamperedError: none did, or it is not what the ledger says of it.
        """
        try:
            authority = self._authorities.of_certificate(replay.certificate)
            tbs, *_ = children(replay.certificate)
        except (*PARSE_ERRORS, x509.ExtensionNotFound, KeyError):
            problems = ["it can't be read, or none of the CAs has issued it"]
        else:
            row = RecordedCertificate(
                intent_id=None,
                der=replay.certificate,
                serial=replay.serial.key,
                device_id=binding.device_id,
                spki_sha256=sha256(binding.spki).digest(),
                tbs_sha256=sha256(tbs).digest(),
                issuer_key_id=authority.chain.issuer.key_identifier,
                not_before=replay.not_before,
                not_after=replay.not_after,
                void_reason=None,
                is_revoked=False,
                crl_url=None,
            )
            problems = list(self._comparison.compare(row).problems)
        if problems:
            what = "; ".join(problems)
            raise LedgerTamperedError(
                f"the certificate {replay.serial.hex()} of the device {binding.device_id} in the ledger was"
                f" changed: {what}"
            )
        return authority
