"""The files that a web server and a gateway read CRLs from: each is replaced as a whole, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from asn1crypto import pem

from otahsm.errors import FolderError, RequestRefusedError
from otahsm.ledger import AUTHORITIES, COMPLETE
from otahsm.pki import CrlLocation, Issuer, check_crl_signature, describe_crl
from otahsm.system.durable import TEMPORARY, replace_file

_LOCK: Final = ".lock"
_FIXED: Final = {
    # What nginx takes: PEM, and for the whole chain.
    "complete.pem": COMPLETE,
    "complete.crl": COMPLETE,
    "authorities.pem": AUTHORITIES,
    "authorities.crl": AUTHORITIES,
}


class CrlFiles(NamedTuple):
    """Which CRL is in which file, and the URLs that get none because another CRL has their file's name."""

    scopes: dict[str, str]
    without: tuple[str, ...]


def name_files(location: CrlLocation, urls: Mapping[str, bool]) -> CrlFiles:
    """Say which files there are: one for each URL, named like its end, and some with names of their own.

    Args:
        location: where CRLs are today; its URLs come first.
        urls: every URL that certificates may state, and whether the complete CRL is there.
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
    """[crl] directory. Several daemons may write to one: a CRL is never replaced by an older one.

    Args:
        folder: it is made if it is missing.
        issuer: whose CRLs they are.
    """

    def __init__(self, folder: Path, issuer: Issuer) -> None:
        self._folder = folder
        self._issuer = issuer

    def highest_number(self) -> int:
        """Return the highest number of the issuer's CRLs here; 0 if there are none.

        A ledger that was restored from a copy has forgotten some: their numbers are not used again.

        Raises:
            FolderError: the folder can't be made, read or written; so do the other methods.
        """
        with self._locked():
            numbers = [self._number_in(path) for path in self._folder.iterdir() if path.name != _LOCK]
            for left in self._folder.glob(f"{TEMPORARY}*"):  # by a daemon that was killed
                left.unlink()
        return max(numbers, default=0)

    def missing(self, names: Iterator[str]) -> set[str]:
        """Return the names of files that are not there."""
        return {name for name in names if not (self._folder / name).exists()}

    def write(self, name: str, number: int, crl: bytes) -> None:
        """Write a CRL; what is there stays if it is a newer one of the same issuer.

        Args:
            name: of the file; one that ends with .pem is written in PEM.
            number: the CRL's.
            crl: it, in DER.
        """
        content = pem.armor("X509 CRL", crl) if name.endswith(".pem") else crl
        path = self._folder / name
        with self._locked():
            if self._number_in(path) <= number:
                replace_file(path, content, 0o644)  # who serves it may be another user

    def _number_in(self, path: Path) -> int:
        """Return the number of a CRL; 0 if the file is missing, no CRL, or another issuer's."""
        try:
            content = path.read_bytes()
            check_crl_signature(content, self._issuer)
            return describe_crl(content).number or 0
        except (FileNotFoundError, IsADirectoryError, RequestRefusedError):
            return 0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other daemons out."""
        with contextlib.ExitStack() as stack:
            try:
                with contextlib.suppress(FileExistsError):
                    self._folder.mkdir(parents=True)
                    self._folder.chmod(0o755)
                lock = os.open(self._folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            except OSError as error:
                raise FolderError(
                    f"can't write to [crl] directory {self._folder}: {error.strerror}",
                    hint="Free some space or give permission: the daemon retries every few seconds until it"
                    " succeeds.",
                ) from error
