"""The CRL files that web servers and gateways read. Each is replaced atomically."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from asn1crypto import pem

from otahsm.errors import FolderError, RequestRefusedError
from otahsm.ledger import AUTHORITIES, COMPLETE, StoredCrl
from otahsm.pki.crls.distribution import CrlLocation
from otahsm.pki.crls.reading import check_crl_signature, describe_crl
from otahsm.pki.issuer import Issuer
from otahsm.system.durable import TEMPORARY, open_beside, replace_file

_LOCK: Final = ".lock"
_FIXED: Final = {
    # For nginx: PEM, for the whole chain.
    "complete.pem": COMPLETE,
    "complete.crl": COMPLETE,
    "authorities.pem": AUTHORITIES,
    "authorities.crl": AUTHORITIES,
}


class _CrlInFile(NamedTuple):
    scope: str
    number: int


class CrlFiles(NamedTuple):
    """The CRL of each file, and the URLs that have no file because another CRL has its name."""

    scopes: dict[str, str]
    without: tuple[str, ...]


def name_files(location: CrlLocation, urls: Mapping[str, bool]) -> CrlFiles:
    """Return the files to write: one for each URL, named like its last part, and some with fixed names.

    Args:
        location: the current configuration, whose URLs take precedence.
        urls: every URL that certificates may contain, and whether it is that of the complete CRL.
    """
    today = location.urls
    scopes: dict[str, str] = {}
    without: list[str] = []
    for url in (*today, *sorted(urls.keys() - set(today))):
        scope = COMPLETE if urls.get(url, location.shards == 1) else url
        if scopes.setdefault(url.rpartition("/")[2], scope) != scope:
            without.append(url)
    sharded = not all(urls.values())
    for name, scope in _FIXED.items():
        if scope == COMPLETE or sharded:
            scopes.setdefault(name, scope)
    return CrlFiles(scopes, tuple(without))


class CrlFolder:
    """[crl] directory. Several daemons may write to it: a CRL is never replaced by an older one.

    Args:
        folder: it is created if it is missing.
        issuer: the issuer of the CRLs.
    """

    def __init__(self, folder: Path, issuer: Issuer) -> None:
        self._folder = folder
        self._issuer = issuer

    def numbers(self) -> dict[str, int]:
        """Return the highest number of the issuer's CRLs in the folder, by their scope.

        A ledger that was restored from a backup doesn't know the latest numbers, which must not be reused.

        Raises:
            FolderError: the folder can't be created, read or written. The other methods raise it too.
        """
        with self._locked():
            crls = [self._crl_in(path) for path in self._folder.iterdir() if path.name != _LOCK]
            for left in self._folder.glob(f"{TEMPORARY}*"):  # files of a daemon that was killed
                left.unlink()
        return dict(sorted(filter(None, crls)))  # of several numbers of a scope, the highest stays

    def missing(self, names: Iterator[str]) -> set[str]:
        """Return the names of the files that don't exist."""
        return {name for name in names if not (self._folder / name).exists()}

    def write(self, name: str, crl: StoredCrl) -> int:
        """Write a CRL, unless the file has a newer one of the same issuer and scope.

        Args:
            name: the name of the file, which is written in PEM if it ends with .pem.
            crl: the CRL; it was checked.

        Returns:
            The number of the CRL that the file has now.
        """
        content = pem.armor("X509 CRL", crl.der) if name.endswith(".pem") else crl.der
        path = self._folder / name
        with self._locked():
            there = self._crl_in(path)
            if there and there.scope == crl.url and there.number > crl.row.number:
                return there.number
            replace_file(path, content, 0o644)  # the web server may run as another user
        return crl.row.number

    def _crl_in(self, path: Path) -> _CrlInFile | None:
        """Return what a file has; None if it is missing, not a CRL, or from another issuer."""
        try:
            content = path.read_bytes()
            check_crl_signature(content, self._issuer)
            said = describe_crl(content)
        except (FileNotFoundError, IsADirectoryError, RequestRefusedError):
            return None
        scope = AUTHORITIES if said.only_authorities else said.distribution_point or COMPLETE
        return _CrlInFile(scope, said.number or 0)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the folder against other daemons."""
        with contextlib.ExitStack() as stack:
            try:
                with contextlib.suppress(FileExistsError):
                    self._folder.mkdir(parents=True)
                    self._folder.chmod(0o755)
                lock = open_beside(self._folder / _LOCK, os.O_CREAT | os.O_RDWR)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            except OSError as error:
                raise FolderError(
                    f"can't write to [crl] directory {self._folder}: {error.strerror}",
                    hint="Free some space or give permission: the daemon retries every few seconds until it"
                    " succeeds.",
                ) from error
