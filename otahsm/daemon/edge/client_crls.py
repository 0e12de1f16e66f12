"""The CRLs of the operator CAs that are in use, by file.

A file that is refused never replaces a good one: what it had before stays in force. Other files are taken in.
So it is with a file that no longer has a CRL which is in no other file either: certificates that it revoked
would be accepted again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509

from otahsm.config import Config
from otahsm.daemon.edge.crl_memory import CrlMemory, key_of
from otahsm.errors import ConfigError
from otahsm.pki.crls.clients import ClientCrl, gaps, key_digest, parse_client_crls
from otahsm.system.files import Files
from otahsm.system.trusted_files import TrustedFiles


class ClientCrls:
    """The CRLs of `[access] client_crls`.

    Args:
        paths: their files.
        memory: the last CRLs that were seen.
        files: what reads them.

    Attributes:
        refused: the files that are refused, and why.
        gaps: what the CRLs can't say, one sentence each.
    """

    def __init__(self, paths: Sequence[Path], memory: CrlMemory, files: Files) -> None:
        self._files = files
        self._paths = paths
        self._memory = memory
        self._good: dict[Path, Sequence[ClientCrl]] = {}
        self.refused: dict[Path, ConfigError] = {}
        self.gaps: Sequence[str] = ()

    @property
    def all(self) -> list[ClientCrl]:
        """All that are in use."""
        return _all(self._good)

    def load(self, authorities: Sequence[x509.Certificate], now: datetime) -> None:
        """Read the files anew; those that are refused keep what they had.

        Args:
            authorities: the operator CAs.
            now: the time, with a time zone.

        Raises:
            ConfigError: a file is refused, and had nothing before that is from these CAs; or a CRL that was
                seen is in no file. Nothing is changed.
        """
        keys = {key_digest(authority) for authority in authorities}
        good: dict[Path, Sequence[ClientCrl]] = {}
        refused: dict[Path, ConfigError] = {}
        for path in self._paths:
            try:
                good[path] = self._read(path, authorities, now)
            except ConfigError as error:
                before = self._good.get(path)
                if before is None or any(crl.issuer not in keys for crl in before):
                    raise
                good[path], refused[path] = before, error
        self._keep_lost(authorities, good, refused)
        self._good, self.refused = good, refused
        self.gaps = gaps(authorities, self.all) if self._paths else ()

    def _keep_lost(
        self,
        authorities: Sequence[x509.Certificate],
        good: dict[Path, Sequence[ClientCrl]],
        refused: dict[Path, ConfigError],
    ) -> None:
        """Keep what files had before, where CRLs that were seen are in none any more. Raises as `load`."""
        if not self._paths:
            return
        lost = self._memory.lost(_all(good), authorities)
        for path, before in self._good.items():
            for error in (lost[key_of(crl)] for crl in before if key_of(crl) in lost):
                good[path], refused[path] = before, error
        for error in self._memory.lost(_all(good), authorities).values():
            raise error

    def remember(self) -> None:
        """Remember the CRLs in use, so that no older ones are taken. Raises ConfigError."""
        self._memory.note(self.all)

    def _read(
        self, path: Path, authorities: Sequence[x509.Certificate], now: datetime
    ) -> Sequence[ClientCrl]:
        crls = parse_client_crls(self._files.read(path, f"the CRL {path}"), str(path), authorities, now)
        self._memory.check(crls, str(path))
        return crls


def _all(by_file: Mapping[Path, Sequence[ClientCrl]]) -> list[ClientCrl]:
    return [crl for crls in by_file.values() for crl in crls]


def client_crls_of(config: Config, files: TrustedFiles) -> ClientCrls:
    """Return the CRLs that a configuration names, not yet read.

    Raises:
        ConfigError: there is no place to remember them in.
    """
    if config.access is None or not config.access.client_crls:
        return ClientCrls((), CrlMemory(Path(), files), files)
    if config.client_crls_seen is None:
        raise ConfigError(
            "[access] client_crls needs a file to remember the last CRLs in",
            hint="Name one that the daemon can write, as in"
            ' client_crls_seen = "/var/lib/otahsm/client-crls.json".',
        )
    return ClientCrls(config.access.client_crls, CrlMemory(config.client_crls_seen, files), files)
