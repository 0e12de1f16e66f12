"""Which CRL is meant, and who keeps it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

from otahsm.config import CrlConfig
from otahsm.errors import NotFoundError
from otahsm.issuance.authorities import Authorities
from otahsm.ledger import AUTHORITIES, COMPLETE, StoredCrl
from otahsm.revocation.crl_keeper import CrlKeeper


class CrlName(NamedTuple):
    """Which CRL is wanted: by default the complete one of the CA of [ca].

    Attributes:
        ca: the CA's name.
        url: the one that certificates state with this URL, whichever CA's it is; empty to name it otherwise.
        shard: the one of today's shard with this number.
        authorities: the one of CA certificates.
    """

    ca: str = ""
    url: str = ""
    shard: int | None = None
    authorities: bool = False


class Crls:
    """The CRLs of all CAs.

    Args:
        authorities: the CAs.
        keepers: who keeps their CRLs, by the CA's name; a CA that is retired has none.
    """

    def __init__(self, authorities: Authorities, keepers: Mapping[str, CrlKeeper]) -> None:
        self._authorities = authorities
        self.keepers = keepers

    def look(self) -> None:
        """Have every keeper look at once whether a CRL is due."""
        for keeper in self.keepers.values():
            keeper.woken.set()

    async def get(self, name: CrlName) -> StoredCrl:
        """Return a CRL: see `CrlKeeper.crl`. Raises NotFoundError: there is none of this name."""
        if name.url:
            return await self._at(name.url)
        authority = self._authorities.by_name.get(name.ca)
        if authority is None:
            raise NotFoundError(f"there is no CA {name.ca[:64]!a}")
        if authority.key is None:
            raise NotFoundError(f"the CA {name.ca[:64]!a} is retired and no longer signs CRLs")
        return await self.keepers[name.ca].crl(_scope(name, authority.config.crl))

    async def _at(self, url: str) -> StoredCrl:
        """Find the CRL of a URL, whichever CA's it is."""
        (*others, last) = self.keepers.values()
        for keeper in others:
            with contextlib.suppress(NotFoundError):
                return await keeper.crl(url)
        return await last.crl(url)


def _scope(name: CrlName, config: CrlConfig | None) -> str:
    if name.shard is not None:
        if config is None or name.shard >= config.shards:
            raise NotFoundError(f"there is no shard {name.shard}")
        return config.location.url(name.shard)
    return AUTHORITIES if name.authorities else COMPLETE
