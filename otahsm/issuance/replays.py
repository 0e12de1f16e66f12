"""What a client may know of the certificates that are in the way of its request.

One that is to be released again is checked before: a row can be changed.
"""

from __future__ import annotations

from hashlib import sha256

from cryptography import x509

from otahsm.access import AccessControl, Caller, Owner
from otahsm.errors import ConflictError, LedgerTamperedError, NotAllowedError, OtahsmError
from otahsm.issuance.authorities import Authorities, Authority
from otahsm.ledger import CertificateComparison, RecordedCertificate, Replay
from otahsm.pki.certificate import Binding
from otahsm.pki.der import children
from otahsm.pki.parsing import PARSE_ERRORS
from otahsm.system.clock import Clock


class Replays:
    """Decides what a client is told of certificates that exist.

    Args:
        authorities: the CAs.
        access: decides whose they are.
        clock: the time of decisions.
    """

    def __init__(self, authorities: Authorities, access: AccessControl, clock: Clock) -> None:
        self._authorities = authorities
        self._access = access
        self._clock = clock
        self._comparison = CertificateComparison(
            authority.chain.issuer for authority in authorities.by_name.values()
        )

    def refusal(self, caller: Caller, error: OtahsmError, owner: Owner) -> OtahsmError:
        """Return the error for a caller whose request conflicts with a certificate.

        Args:
            caller: the client that requests a certificate.
            error: names the other certificate.
            owner: to whom that was issued.
        """
        try:
            if self._access.may_see(caller, owner, self._clock()):
                return error
        except NotAllowedError as denied:  # since it was admitted
            return denied
        return ConflictError(
            "the device id or the public key belongs to another client's certificate",
            hint="Check device id and CSR. An auditor or operator can look up whose certificate it is.",
        )

    def release(self, caller: Caller, replay: Replay, binding: Binding) -> Authority:
        """Check that a certificate may be released again to a caller; return its CA.

        It must have the signature of one of the CAs, for this device and its key.

        Raises:
            NotAllowedError: it was issued to another client.
            LedgerTamperedError: no CA has signed it, or it is not what the ledger says of it.
        """
        if not self._access.may_see(caller, replay.owner, self._clock()):
            raise NotAllowedError(
                f"the device {binding.device_id} already has a certificate, issued to another client"
            )
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
