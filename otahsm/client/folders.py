"""Device folders as the seed guide makes them, but never half made.

A folder is written in two acts. Before the request, key and CSR: under a temporary name, made durable,
then renamed, so that a key whose certificate was asked for is never lost. After it, the certificates:
`client.pem` last, so that its presence means that the folder is complete. Both acts take whole batches
and make them durable together.

    devices/<id>/pkey.ec.pem    private key, traditional EC form   (0600; EC keys only)
                 pkey.pem       private key, PKCS#8                (0600)
                 <id>.csr       certificate signing request
                 client.pem     the device's certificate
                 <id>.chain.pem client.pem, intermediates, fleet root
                 ca.pem         -> the gateway's (server) CA       (if it is known)
                 root.crt       the same CA, as a file             (if it is known)
                 gateway.url    the gateway's address              (if it is known)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from asn1crypto import pem

from otahsm.client.keys import DeviceKey
from otahsm.errors import ConfigError, FolderError, RequestRefusedError

COMPLETE: Final = "client.pem"
_TEMPORARY: Final = ".new-"  # no device id starts with a dot
_FLUSHERS: Final = 16


class DeviceFolders:
    """The folder of all device folders.

    Args:
        root: where it is; made when it is missing.
        trust_anchor: the fleet root in DER, the last certificate of every chain file.
        server_ca: the PEM file with the gateway's CA, if it is known.
        gateway_url: the gateway's address, if it is known.

    Raises:
        FolderError: the folder can't be used, another command is using it, or the server CA can't be read.
    """

    def __init__(
        self, root: Path, trust_anchor: bytes, server_ca: Path | None = None, gateway_url: str | None = None
    ) -> None:
        self.root = root
        self._trust_anchor = _pem("CERTIFICATE", trust_anchor)
        self._server_ca = server_ca
        self._common: dict[str, bytes] = {}
        try:
            if server_ca is not None:
                self._common["root.crt"] = server_ca.read_bytes()
            root.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(root / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in root.glob(_TEMPORARY + "*"):
                shutil.rmtree(leftover)
        except BlockingIOError:
            raise FolderError(
                f"another otahsm command is writing to {root}",
                hint="Wait for it, or give this one its own folder with --out.",
            ) from None
        except OSError as error:
            raise FolderError(f"{error.filename} can't be used: {error.strerror}") from None
        if gateway_url is not None:
            self._common["gateway.url"] = gateway_url.encode()

    def close(self) -> None:
        """Let another command write here."""
        os.close(self._lock)

    def path(self, device_id: str) -> Path:
        """Return a device's folder, which need not exist."""
        return self.root / device_id

    def is_complete(self, device_id: str) -> bool:
        """Tell whether a device has its certificate."""
        return (self.path(device_id) / COMPLETE).exists()

    def saved_csr(self, device_id: str) -> bytes | None:
        """Return the CSR in DER of a device that was begun earlier; None if there is none.

        Raises:
            RequestRefusedError: the folder exists, but its CSR can't be read.
        """
        folder = self.path(device_id)
        if not folder.exists():
            return None
        try:
            return load_csr(folder / f"{device_id}.csr")
        except ConfigError as error:
            raise RequestRefusedError(
                "folder", error.message, hint=f"Move {folder} away; the device gets a new key."
            ) from None

    def begin(self, keys: Mapping[str, DeviceKey]) -> None:
        """Write key and CSR of new devices durably; all or, if this fails, none that counts.

        Raises:
            FolderError: the disk is full, say.
        """
        with _explained():
            self._begin(keys)

    def _begin(self, keys: Mapping[str, DeviceKey]) -> None:
        written: list[Path] = []
        for device_id, key in keys.items():
            folder = self.root / f"{_TEMPORARY}{device_id}"
            folder.mkdir()
            if key.sec1 is not None:
                written.append(write(folder / "pkey.ec.pem", key.sec1, 0o600))
            written.append(write(folder / "pkey.pem", key.pkcs8, 0o600))
            written.append(write(folder / f"{device_id}.csr", _pem("CERTIFICATE REQUEST", key.csr)))
            written.append(folder)
        make_durable(written)
        for device_id in keys:
            (self.root / f"{_TEMPORARY}{device_id}").rename(self.path(device_id))
        make_durable([self.root])

    def finish(
        self,
        chains: Mapping[str, Sequence[bytes]],
        csrs: Mapping[str, bytes] | None = None,
        anchors: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write the certificates of devices durably, `client.pem` last.

        Args:
            chains: DER certificates by device id, the device's first, without the trust anchor.
            csrs: CSRs in DER by device id, for devices that hold their keys themselves.
            anchors: trust anchors in DER by device id, for devices of another CA than most.

        Raises:
            FolderError: the disk is full, say.
        """
        with _explained():
            self._finish(chains, csrs or {}, anchors or {})

    def _finish(
        self,
        chains: Mapping[str, Sequence[bytes]],
        csrs: Mapping[str, bytes],
        anchors: Mapping[str, bytes],
    ) -> None:
        renames: list[tuple[Path, Path]] = []
        for device_id, chain in chains.items():
            folder = self.path(device_id)
            folder.mkdir(exist_ok=True)
            certificates = [_pem("CERTIFICATE", certificate) for certificate in chain]
            anchor = _pem("CERTIFICATE", anchors[device_id]) if device_id in anchors else self._trust_anchor
            files = {**self._common, f"{device_id}.chain.pem": b"".join((*certificates, anchor))}
            if device_id in csrs:
                files[f"{device_id}.csr"] = _pem("CERTIFICATE REQUEST", csrs[device_id])
            files[COMPLETE] = certificates[0]
            for name, content in files.items():
                renames.append((write(folder / f"{_TEMPORARY}{name}", content), folder / name))
        make_durable([written for written, _ in renames])
        for written, final in renames:
            if final.name == COMPLETE:  # the last of its folder
                self._link_server_ca(final.parent)
            written.rename(final)
        make_durable([*(self.path(device_id) for device_id in chains), self.root])

    def _link_server_ca(self, folder: Path) -> None:
        if self._server_ca is not None:
            temporary = folder / f"{_TEMPORARY}ca.pem"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(os.path.relpath(self._server_ca, folder))
            temporary.rename(folder / "ca.pem")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderError(f"{error.filename} can't be written: {error.strerror}") from error


def load_csr(path: Path) -> bytes:
    """Read a CSR file, PEM or DER, and return what is in it as DER, unchecked.

    Raises:
        ConfigError: it can't be read, or is PEM but no CSR.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}", hint="Is the path right?") from None
    if not pem.detect(content):
        return content
    try:
        kind, _, der = pem.unarmor(content)
    except ValueError as error:
        raise ConfigError(f"{path} is no PEM file: {error}") from None
    if kind not in ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"):
        raise ConfigError(f"{path} holds a {kind}, not a CERTIFICATE REQUEST")
    return bytes(der)


def _pem(label: str, der: bytes) -> bytes:
    armored: bytes = pem.armor(label, der)
    return armored


def write(path: Path, content: bytes, mode: int = 0o644) -> Path:
    """Write a file, not yet durably; return its path. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return path


def make_durable(paths: Sequence[Path]) -> None:
    """Wait until files, and folders' lists of names, are on the disk; many at once share a disk flush."""
    if paths:
        with ThreadPoolExecutor(max_workers=min(_FLUSHERS, len(paths))) as flushers:
            for _ in flushers.map(_flush, paths):
                pass


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
