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
_CRL: Final = "crl-"
_CHECKPOINT: Final = "checkpoint-"
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
            issuer, name, number, this_update, next_update = json.loads(facts)
            if (issuer, name) != (issuer_key_id.hex(), scope) or type(number) is not int:
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
                self._crl(issuer_key_id, scope): _header(issuer_key_id, scope, *numbers) + entries
                for scope, *numbers, entries in crls
            }
        )

    def highest_number(self, issuer_key_id: bytes) -> int:
        """Return the highest number of a CA's CRLs; 0 if none was signed here. Raises SigningRefusedError."""
        return max((number for issuer, number in self._headers() if issuer == issuer_key_id), default=0)

    def forget(self, kept: Path) -> tuple[int, int]:
        """Forget entries and checkpoints, and keep the numbers of CRLs, which never go back.

        Args:
            kept: a folder that is not there, to which all that is known is moved.

        Returns:
            How many CRLs and checkpoints were known.

        Raises:
            TokenUnavailableError: the folder can't be written.
        """
        with explained_write(self._folder):
            files = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
            crls = [path for path in files if path.name.startswith(_CRL)]
            headers = {path: _number_alone(path) for path in crls}
            if files:
                self._folder.rename(kept)
                make_folder(self._folder, 0o700)
                replace_files({path: header for path, header in headers.items() if header}, 0o600)
        return len(crls), len(files) - len(crls)

    def _headers(self) -> Iterator[tuple[bytes, int]]:
        """Yield the CA and the number of each CRL. Raises SigningRefusedError."""
        for path in sorted(self._folder.glob(f"{_CRL}*")):
            try:
                with path.open("rb") as file:
                    issuer, _, number, *_ = json.loads(file.readline())
                yield bytes.fromhex(issuer), int(number)
            except _UNREADABLE as error:
                raise _unreadable(path, error) from None

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
        return self._folder / f"{_CRL}{_digest(issuer_key_id + b'/' + scope.encode())}"

    def _checkpoint(self, vkey: str) -> Path:
        return self._folder / f"{_CHECKPOINT}{_digest(vkey.encode())}"


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


def _header(issuer_key_id: bytes, *facts: str | int) -> bytes:
    return json.dumps([issuer_key_id.hex(), *facts]).encode() + b"\n"


def _number_alone(path: Path) -> bytes:
    """Return what is known of a CRL without its times and entries; nothing, if it can't be read."""
    try:
        issuer, scope, number, *_ = json.loads(path.read_bytes().partition(b"\n")[0])
        return _header(bytes.fromhex(issuer), scope, number, 0, 0)
    except _UNREADABLE:
        return b""


def _digest(name: bytes) -> str:
    return sha256(name).hexdigest()[:32]


def _unreadable(path: Path, error: Exception) -> SigningRefusedError:
    why = error.strerror if isinstance(error, OSError) else "it is damaged"
    return SigningRefusedError(
        f"can't read {path}, which says what was signed last: {why}",
        hint="Restore it, or see `otahsm ledger accept`.",
    )
