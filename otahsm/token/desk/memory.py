"""What the signers of this machine signed last: the CRL of each scope, and the checkpoint.

All of them share it, and each looks under the lock before it signs. It is on the disk before a signature
leaves the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from otahsm.errors import SigningRefusedError, TokenUnavailableError
from otahsm.system.durable import make_folder, replace_files
from otahsm.token.desk.codec import CrlToSign, LastCheckpoint

FOLDER: Final = "last"

_LOCK: Final = "last.lock"
_ROOT_BYTES: Final = 32
_UNREADABLE: Final = (OSError, ValueError, TypeError, RecursionError)


class Memory:
    """What was signed last.

    Args:
        folder: of the signers; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the other signers of this machine waiting. Raises TokenUnavailableError."""
        with explained_write(self._folder):
            make_folder(self._folder.parent, 0o700)
            lock = os.open(self._folder.parent / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def crl(self, issuer_key_id: bytes, scope: str) -> CrlToSign | None:
        """Return the last CRL of a scope; None if none was signed here. Raises SigningRefusedError."""
        path = self._crl(issuer_key_id, scope)
        try:
            facts, _, entries = path.read_bytes().partition(b"\n")
            name, number, this_update, next_update = json.loads(facts)
            if name != scope or type(number) is not int:
                raise ValueError("it is another scope's")
            return CrlToSign(name, number, this_update, next_update, entries)
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            raise _unreadable(path, error) from None

    def keep_crls(self, issuer_key_id: bytes, crls: Iterable[CrlToSign]) -> None:
        """Remember CRLs, each as the last one of its scope. Raises TokenUnavailableError."""
        self._keep(
            {
                self._crl(issuer_key_id, scope): json.dumps([scope, *numbers]).encode() + b"\n" + entries
                for scope, *numbers, entries in crls
            }
        )

    def checkpoint(self, vkey: str) -> LastCheckpoint | None:
        """Return the last checkpoint of a log; None if none was signed here. Raises SigningRefusedError."""
        path = self._checkpoint(vkey)
        try:
            size, root = json.loads(path.read_bytes())
            last = LastCheckpoint(size, bytes.fromhex(root))
            if type(size) is not int or len(last.root) != _ROOT_BYTES:
                raise ValueError("it is no checkpoint")
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            raise _unreadable(path, error) from None
        return last

    def keep_checkpoint(self, vkey: str, last: LastCheckpoint) -> None:
        """Remember a checkpoint as the last one of its log. Raises TokenUnavailableError."""
        self._keep({self._checkpoint(vkey): json.dumps([last.size, last.root.hex()]).encode()})

    def _keep(self, contents: Mapping[Path, bytes]) -> None:
        with explained_write(self._folder):
            make_folder(self._folder, 0o700)
            replace_files(contents, 0o600)

    def _crl(self, issuer_key_id: bytes, scope: str) -> Path:
        return self._folder / f"crl-{_digest(issuer_key_id + b'/' + scope.encode())}"

    def _checkpoint(self, vkey: str) -> Path:
        return self._folder / f"checkpoint-{_digest(vkey.encode())}"


@contextlib.contextmanager
def explained_write(folder: Path) -> Iterator[None]:
    """Turn an OSError into a TokenUnavailableError: nothing is signed that can't be written down."""
    try:
        yield
    except OSError as error:
        raise TokenUnavailableError(
            f"the signers can't write to {folder}: {error.strerror}; they sign nothing without it",
            hint="It is in [token] guard_dir. Check its disk's space, and that the signers' user owns it.",
        ) from None


def _digest(name: bytes) -> str:
    return sha256(name).hexdigest()[:32]


def _unreadable(path: Path, error: Exception) -> SigningRefusedError:
    why = error.strerror if isinstance(error, OSError) else "it is damaged"
    return SigningRefusedError(
        f"can't read {path}, which says what was signed last: {why}",
        hint="Restore it, or see `otahsm ledger accept`.",
    )
