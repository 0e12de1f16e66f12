"""The CRLs of all CAs, by name or URL."""

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
    """Selects a CRL: by default the complete one of [ca].

    Attributes:
        ca: the name of the CA.
        url: selects the CRL at this URL, of any CA; empty to select it otherwise.
        shard: selects the shard with this number in the current configuration.
        authorities: selects the CRL of CA certificates.
    """

    ca: str = ""
    url: str = ""
    shard: int | None = None
    authorities: bool = False


class Crls:
    """The CRLs of all CAs.

    Args:
        authorities: the CAs.
        keepers: make their CRLs, by the name of the CA; a retired CA has none.
    """

    def __init__(self, authorities: Authorities, keepers: Mapping[str, CrlKeeper]) -> None:
        self._authorities = authorities
        self.keepers = keepers

    def look(self) -> None:
        """Make every keeper check now whether a CRL is due."""
        for keeper in self.keepers.values():
            keeper.woken.set()

    async def get(self, name: CrlName) -> StoredCrl:
        """Return a CRL: see `CrlKeeper.crl`. Raises NotFoundError: it does not exist."""
        if name.url:
            return await self._at(name.url)
        authority = self._authorities.by_name.get(name.ca)
        if authority is None:
            raise NotFoundError(f"there is no CA {name.ca[:64]!a}")
        if not authority.signs:
            raise NotFoundError(f"the CA {name.ca[:64]!a} is retired and no longer signs CRLs")
        return await self.keepers[name.ca].crl(_scope(name, authority.config.crl))

    async def _at(self, url: str) -> StoredCrl:
        """Return the CRL at a URL, of any CA."""
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
