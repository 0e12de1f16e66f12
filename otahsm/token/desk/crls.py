"""CRLs of the mandate's CAs: each continues the last one of its scope."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from otahsm.errors import NotContinuedError, SigningRefusedError
from otahsm.pki.crls.building import build_tbs_crl
from otahsm.pki.crls.distribution import AUTHORITIES, BACKDATED, COMPLETE, MOST_SKIPPED, is_canonical
from otahsm.pki.issuer import Issuer
from otahsm.token.desk.codec import CrlToSign, decode_entries, split_entries
from otahsm.token.desk.memory import Memory
from otahsm.token.setup import AuthorityMandate

_SLACK: Final = 600  # seconds, for a CRL that waited for a signer
_NUMBERS_END: Final = 1 << 63  # of the ledger's; a higher one would be the last CRL for ever


def build(crl: CrlToSign, issuer: Issuer) -> bytes:
    """Build the TBSCertList in DER.

    Raises:
        ValueError: a value is malformed.
    """
    return build_tbs_crl(
        issuer,
        decode_entries(crl.entries),
        number=crl.number,
        this_update=_moment(crl.this_update),
        next_update=_moment(crl.next_update),
        distribution_point=None if crl.scope in (COMPLETE, AUTHORITIES) else crl.scope,
        only_authorities=crl.scope == AUTHORITIES,
    )


class Crls:
    """Builds the CRLs that the key of a CA signs.

    A CRL can't be taken back, nor can a revocation: each has a higher number than the last one of its scope,
    and all entries of that one. The same again is signed again, for a daemon that did not get the answer.

    Args:
        memory: what was signed last; locked while this is used.
        now: returns the time, in seconds since the Unix epoch.
    """

    def __init__(self, memory: Memory, now: Callable[[], int]) -> None:
        self._memory = memory
        self._now = now

    def build(self, crl: CrlToSign, authority: AuthorityMandate) -> bytes:
        """Return the TBSCertList in DER.

        Raises:
            SigningRefusedError: the CA signs none, it does not continue the last one, or its times are not of
                now.
        """
        if not authority.crl_seconds:
            raise SigningRefusedError("the CA certificate does not allow its key to sign CRLs")
        _check_scope(crl)
        last = self._memory.crl(authority.issuer.key_identifier, crl.scope)
        if last != crl:
            if last is not None:
                _check_that_it_continues(last, crl)
            self._check_skipped(authority.issuer.key_identifier, last, crl.number)
            self._check_times(crl, authority.crl_seconds)
        try:
            return build(crl, authority.issuer)
        except ValueError as error:
            raise SigningRefusedError(f"the CRL {crl.number} can't be built: {error}") from None

    def _check_skipped(self, issuer_key_id: bytes, last: CrlToSign | None, number: int) -> None:
        """Numbers can't be taken back: after the highest, there would be no CRL ever again."""
        if last is not None:
            before = last.number
        else:
            lasts = self._memory.last_crls(issuer_key_id).values()
            before = max((each.number for each in lasts), default=0)
        if number > before + MOST_SKIPPED:
            raise SigningRefusedError(
                f"the number {number} of a CRL is too far above the last one, {before}: somebody changed it"
            )

    def _check_times(self, crl: CrlToSign, life: int) -> None:
        now = self._now()
        if not now - BACKDATED - _SLACK <= crl.this_update <= now + _SLACK:
            raise SigningRefusedError(f"the CRL {crl.number} is not of now, by this clock")
        if not now < crl.next_update <= now + life + _SLACK:
            raise SigningRefusedError(f"the CRL {crl.number} would be valid for longer than [crl] says")


def _check_scope(crl: CrlToSign) -> None:
    if crl.scope not in (COMPLETE, AUTHORITIES) and not is_canonical(crl.scope):
        raise SigningRefusedError("the scope of a CRL is not a URL as a certificate states it")
    if crl.scope == AUTHORITIES and crl.entries:
        raise SigningRefusedError("the CRL of CA certificates holds none")
    if not 0 < crl.number < _NUMBERS_END:
        raise SigningRefusedError("the number of a CRL is not one of the ledger's")


def _check_that_it_continues(last: CrlToSign, crl: CrlToSign) -> None:
    if crl.number <= last.number:
        raise SigningRefusedError(
            f"a CRL with the number {last.number} was signed here before: {crl.number} is not higher"
        )
    if missing := split_entries(last.entries) - split_entries(crl.entries):
        raise NotContinuedError(
            f"the CRL {crl.number} lacks revocations that are on the CRL {last.number}: {len(missing)}"
        )


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError):
        raise ValueError(f"{seconds} is no time") from None
