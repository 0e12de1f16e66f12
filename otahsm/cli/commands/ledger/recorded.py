"""Compares certificates and CRLs with what the ledger says of them, for `otahsm ledger verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from otahsm.config import Config, ca_section
from otahsm.ledger import ComparedCertificates, ComparedCrls, Verdict, compare_certificates, compare_crls
from otahsm.pki.issuer import Issuer
from otahsm.system.clock import utc_now
from otahsm.templates import counted
from otahsm.token.files import read_chain


class Recorded(NamedTuple):
    """What was found, and whether the configuration names the ledger's CAs."""

    issued: ComparedCertificates
    crls: ComparedCrls
    names_cas: bool

    @property
    def is_complete(self) -> bool:
        """Whether every signature was looked at."""
        return not (self.issued.unchecked or self.crls.unchecked)

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "certificates": {
                "compared": self.issued.certificates,
                "signatures_verified": self.issued.signatures,
                "signatures_not_verified": dict(self.issued.unchecked),
            },
            "crls": {
                "compared": self.crls.crls,
                "signatures_verified": self.crls.signatures,
                "signatures_not_verified": dict(self.crls.unchecked),
                "entries": self.crls.entries,
                "revocations_since": self.crls.later,
            },
        }

    def lines(self) -> Iterator[str]:
        """Yield it in words."""
        verified = _both(self.issued.signatures, self.crls.signatures)
        entries = counted(self.crls.entries, "CRL entry", "CRL entries")
        yield f"signatures of {verified} verified; {entries} compared"
        if self.crls.later:
            since = counted(self.crls.later, "revocation")
            yield f"{since} recorded since the CRL was made that should list it"
        for identifier in sorted(self.issued.unchecked.keys() | self.crls.unchecked.keys()):
            what = _both(self.issued.unchecked[identifier], self.crls.unchecked[identifier])
            why = "the configuration has no [ca]"
            if self.names_cas:
                why = f"no CA with the key identifier {identifier} is configured"
            yield f"NOT VERIFIED: signatures of {what}: {why}"


def compare_recorded(
    connection: Any, issuers: Sequence[Issuer], verdict: Verdict, show: Callable[[str], None]
) -> Recorded | None:
    """Compare what a snapshot of the ledger holds, and add what does not match to the verdict.

    Args:
        connection: from `snapshot`.
        issuers: as `configured_issuers` returns them.
        verdict: on the snapshot. If its rows could not be read, nothing is compared, and None returned.
        show: called with what to show as progress.
    """
    if not verdict.readable:
        return None
    now = utc_now()
    issued = compare_certificates(
        connection, issuers, verdict, now, lambda count: show(f"{counted(count, 'certificate')}")
    )
    return Recorded(issued, compare_crls(connection, issuers, verdict, now), bool(issuers))


def configured_issuers(settings: Config) -> list[Issuer]:
    """Read the CA certificates of the configuration, also of retired CAs.

    Raises:
        ConfigError: one is missing or can't be read.
    """
    return [
        read_chain(section, ca_section(name)).issuer for name, section in settings.all_authorities.items()
    ]


def _both(certificates: int, crls: int) -> str:
    return f"{counted(certificates, 'certificate')} and {counted(crls, 'CRL')}"
