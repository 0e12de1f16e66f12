"""Where the CRL of a certificate is: shards, and the extensions that name one (RFC 5280, 4.2.1.13 and 5.2.5).

The revocations of a large fleet are divided among several CRLs, the shards, each with a URL of its own. Which
one is a certificate's follows from its serial number when it is issued, and the certificate states the URL.
So it stays in that shard whatever the configuration says later: `crl_url_in` is what counts from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from asn1crypto import crl as asn1_crl
from asn1crypto import x509 as asn1_x509

SHARD: Final = "{shard}"

# The scopes of CRLs that have no URL of their own. A shard's is its URL.
COMPLETE: Final = ""
AUTHORITIES: Final = "authorities"

# Seconds that thisUpdate is backdated, so that verifiers whose clock is a little slow accept a new CRL.
BACKDATED: Final = 600

# How many numbers a CRL may skip, at most: one each second for a century. Numbers can't be taken back, so
# that nobody brings them near the last one by a lie.
MOST_SKIPPED: Final = 1 << 32
_MOST_OCTETS: Final = 255
_SHARD_BITS: Final = 32  # far more than the number of shards, so that all of them get equally many


class CrlLocation(NamedTuple):
    """Where the CRLs of a CA are.

    Attributes:
        template: the URL; `SHARD` in it stands for the number of a shard.
        shards: how many there are, at least 1.
    """

    template: str
    shards: int = 1

    def shard_of(self, serial: int) -> int:
        """Choose the shard of a serial number that is made now, by its last, random bits."""
        return (serial & (1 << _SHARD_BITS) - 1) % self.shards

    def url(self, shard: int) -> str:
        """Return the URL of a shard's CRL."""
        return self.template.replace(SHARD, str(shard))

    @property
    def urls(self) -> list[str]:
        """The URLs of all shards, in order."""
        return [self.url(shard) for shard in range(self.shards)]


def crl_distribution_points(urls: Sequence[str]) -> asn1_x509.CRLDistributionPoints:
    """Build a certificate's cRLDistributionPoints: one CRL, to be had at each of the URLs."""
    return asn1_x509.CRLDistributionPoints([{"distribution_point": _full_name(urls)}])


def issuing_distribution_point(url: str) -> asn1_crl.IssuingDistributionPoint:
    """Build the issuingDistributionPoint of a CRL that holds the devices which state this URL, and no CA.

    A verifier compares the URL with that in the certificate, octet by octet.
    """
    return asn1_crl.IssuingDistributionPoint(
        {"distribution_point": _full_name([url]), "only_contains_user_certs": True}
    )


def is_canonical(url: str) -> bool:
    """Return whether a URL is in a CRL as it is, octet by octet: two spellings must not name one CRL."""
    try:
        octets = url.encode("ascii")
    except UnicodeEncodeError:
        return False
    encoded: bytes = issuing_distribution_point(url).dump()
    is_plain = url.startswith(("http://", "https://")) and url.isprintable() and len(octets) <= _MOST_OCTETS
    return is_plain and octets in encoded


def _full_name(urls: Sequence[str]) -> asn1_x509.DistributionPointName:
    names = [asn1_x509.GeneralName("uniform_resource_identifier", url) for url in urls]
    return asn1_x509.DistributionPointName("full_name", names)
