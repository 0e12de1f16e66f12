"""What the signers of this machine signed last: the CRL of each scope, and the checkpoint.

All of them share it, and each looks under the lock before it signs. It is on the disk before a signature
leaves the process.

It has to be begun, for each CA and each log, by an operator: with nothing for a new ledger, or with what the
ledger has. Until then nothing is signed that would have to continue it: nothing known is not the same as
nothing signed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from otahsm.errors import SigningRefusedError, TokenUnavailableError
from otahsm.system.durable import make_folder, open_beside, replace_files
from otahsm.token.desk.codec import CrlToSign, LastCheckpoint, LastCrl

FOLDER: Final = "last"

_LOCK: Final = "last.lock"
_BEGUN: Final = "begun-"
_CRL: Final = "crl-"
_CHECKPOINT: Final = "checkpoint-"
_ROOT_BYTES: Final = 32
_UNREADABLE: Final = (OSError, ValueError, TypeError, RecursionError)


class Known(NamedTuple):
    """What was signed last, as far as it is known: nothing is said of a CA or a log that is not in it.

    Attributes:
        checkpoints: the last checkpoint of each log, by its verifier key.
        crls: the last CRLs of each CA, one for each scope, by the key identifier of the CA.
    """

    checkpoints: Mapping[str, LastCheckpoint]
    crls: Mapping[bytes, Sequence[CrlToSign]]


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
            lock = open_beside(self._folder.parent / _LOCK, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def begin(self, known: Known, how: str) -> None:
        """Begin with what is known, for each CA and each log in it; replace what was known of them.

        Args:
            known: what was signed last.
            how: where that is from, in a line.

        Raises:
            TokenUnavailableError: the folder can't be written.
        """
        for vkey, last in known.checkpoints.items():
            self.keep_checkpoint(vkey, last)
        for issuer, crls in known.crls.items():
            self.keep_crls(issuer, crls)
        names = [*map(_log, known.checkpoints), *map(_authority, known.crls)]
        self._keep({self._begun(name): json.dumps([name, how]).encode() for name in names})  # last

    def how_begun(self, of: bytes | str) -> str:
        """Return how it was begun, for the key identifier of a CA, or the verifier key of a log.

        Raises:
            SigningRefusedError: it was not.
        """
        name, what = (_log(of), "checkpoint") if isinstance(of, str) else (_authority(of), "CRLs")
        path = self._begun(name)
        try:
            marked, how = json.loads(path.read_bytes())
            if marked != name:
                raise ValueError("it is another's")
        except FileNotFoundError:
            raise SigningRefusedError(
                f"the signers of this machine don't know which {what} of the {name} they must continue",
                hint="Run `otahsm ledger join` on this machine, or, if the ledger is new, `otahsm ledger"
                " init-key`.",
            ) from None
        except _UNREADABLE as error:
            raise _unreadable(path, error) from None
        return str(how)

    def known(self, vkeys: Iterable[str], issuer_key_ids: Iterable[bytes]) -> Known:
        """Return what is known of those of the logs and CAs that were begun.

        Raises:
            SigningRefusedError: it can't be read.
        """
        headers = list(self._headers())
        return Known(
            {vkey: self.checkpoint(vkey) for vkey in vkeys if self._begun(_log(vkey)).exists()},
            {
                issuer: [
                    crl
                    for of, scope, _ in headers
                    if of == issuer and (crl := self.crl(issuer, scope)) is not None
                ]
                for issuer in issuer_key_ids
                if self._begun(_authority(issuer)).exists()
            },
        )

    def crl(self, issuer_key_id: bytes, scope: str) -> CrlToSign | None:
        """Return the last CRL of a scope; None if none was signed.

        Raises:
            SigningRefusedError: it can't be read, or nothing is known of the CA.
        """
        self.how_begun(issuer_key_id)
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

    def last_crls(self, issuer_key_id: bytes) -> dict[str, LastCrl]:
        """Return the last CRL of each scope of a CA, without its entries. Raises as `crl`."""
        self.how_begun(issuer_key_id)
        return {scope: last for issuer, scope, last in self._headers() if issuer == issuer_key_id}

    def replace(self, known: Known, how: str, kept: Path) -> tuple[int, int]:
        """Begin anew with what is known, though it may be older; numbers of CRLs never go back.

        Args:
            known: what was signed last, from now on.
            how: where that is from, in a line.
            kept: a folder that is not there, to which all that was known is moved.

        Returns:
            How many CRLs and checkpoints were known.

        Raises:
            TokenUnavailableError: the folder can't be written.
        """
        with explained_write(self._folder):
            files = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
            crls = [path for path in files if path.name.startswith(_CRL)]
            headers = {path: header for path in crls if (header := _number_alone(path))}
            if files:
                self._folder.rename(kept)
            self._keep({path: _header(*header, 0, 0) for path, header in headers.items()})
        numbers = {(issuer, scope): number for issuer, scope, number in headers.values()}
        as_high = {
            issuer: [at_least(crl, numbers.get((issuer, crl.scope), 0)) for crl in each]
            for issuer, each in known.crls.items()
        }
        self.begin(Known(known.checkpoints, as_high), how)
        return len(crls), sum(path.name.startswith(_CHECKPOINT) for path in files)

    def _headers(self) -> Iterator[tuple[bytes, str, LastCrl]]:
        """Yield the CA, the scope and the number of each CRL. Raises SigningRefusedError."""
        for path in sorted(self._folder.glob(f"{_CRL}*")):
            try:
                with path.open("rb") as file:
                    issuer, scope, number, this_update, *_ = json.loads(file.readline())
                yield bytes.fromhex(issuer), str(scope), LastCrl(int(number), is_forgotten=not this_update)
            except _UNREADABLE as error:
                raise _unreadable(path, error) from None

    def checkpoint(self, vkey: str) -> LastCheckpoint:
        """Return the last checkpoint of a log; that of no leaves if none was signed.

        Raises:
            SigningRefusedError: it can't be read, or nothing is known of the log.
        """
        self.how_begun(vkey)
        path = self._checkpoint(vkey)
        try:
            size, root = json.loads(path.read_bytes())
            last = LastCheckpoint(size, bytes.fromhex(root))
            if type(size) is not int or len(last.root) != _ROOT_BYTES:
                raise ValueError("it is no checkpoint")
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

    def _begun(self, name: str) -> Path:
        return self._folder / f"{_BEGUN}{_digest(name.encode())}"

    def _checkpoint(self, vkey: str) -> Path:
        return self._folder / f"{_CHECKPOINT}{_digest(vkey.encode())}"


def at_least(crl: CrlToSign, number: int) -> CrlToSign:
    """Return a CRL as the last one, with a number that is not lower: then it can't be had again."""
    return crl if number <= crl.number else crl._replace(number=number, this_update=0, next_update=0)


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


def _log(vkey: str) -> str:
    return f"log {vkey}"


def _authority(issuer_key_id: bytes) -> str:
    return f"CA {issuer_key_id.hex()}"


def _header(issuer_key_id: bytes, *facts: str | int) -> bytes:
    return json.dumps([issuer_key_id.hex(), *facts]).encode() + b"\n"


def _number_alone(path: Path) -> tuple[bytes, str, int] | None:
    """Return the CA, the scope and the number of a CRL; None, if it can't be read."""
    try:
        issuer, scope, number, *_ = json.loads(path.read_bytes().partition(b"\n")[0])
        return bytes.fromhex(issuer), str(scope), int(number)
    except _UNREADABLE:
        return None


def _digest(name: bytes) -> str:
    return sha256(name).hexdigest()[:32]


def _unreadable(path: Path, error: Exception) -> SigningRefusedError:
    why = error.strerror if isinstance(error, OSError) else "it is damaged"
    return SigningRefusedError(
        f"can't read {path}, which says what was signed last: {why}",
        hint="Restore it, or see `otahsm ledger accept`.",
    )
