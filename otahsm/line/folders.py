"""Device folders, as in the seed guide or in another layout, written atomically.

A device is written in two steps. Before the request, key and CSR: under a temporary name, flushed, then
renamed, so that a key whose certificate was requested is never lost. After it, the certificates: the file
that marks the device as complete comes last. Both steps handle many devices at once and flush them together.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from asn1crypto import pem

from otahsm.errors import ConfigError, FolderError, RequestRefusedError
from otahsm.line.archives import Member, tar_archive
from otahsm.line.csr_files import load_csr
from otahsm.line.keys import DeviceKey, load_key, make_csr
from otahsm.line.layouts import LAYOUTS, File, LayoutName
from otahsm.line.run_state import RunState
from otahsm.system.durable import (
    TEMPORARY,
    explained,
    make_durable,
    make_folder,
    open_beside,
    replace_file,
    write,
)
from otahsm.system.owners import check_owner

_PRIVATE: Final = frozenset({File.SEC1, File.KEY})

Files = dict[File, bytes]


class DeviceFolders:
    """The folder of all devices.

    Args:
        root: its path; it is created if it is missing.
        trust_anchor: the fleet root in DER, the last certificate of every chain file.
        server_ca: the gateway's CA: a PEM file, or its content; None if unknown.
        gateway_url: the gateway's address; None if unknown.
        layout: the layout of device files.
        passphrase: the passphrase of private keys, if they are encrypted.

    Raises:
        ConfigError: this is root, and the folder is another user's.
        FolderError: the folder can't be used, another command is using it, or the server CA can't be read.
    """

    def __init__(
        self,
        root: Path,
        trust_anchor: bytes,
        server_ca: Path | bytes | None = None,
        gateway_url: str | None = None,
        *,
        layout: LayoutName = "seed",
        passphrase: bytes | None = None,
    ) -> None:
        check_owner(root)
        self.root = root
        self._trust_anchor = _pem("CERTIFICATE", trust_anchor)
        self._server_ca = server_ca
        self._is_tar = layout == "tar"
        self._layout = LAYOUTS[layout]
        self._passphrase = passphrase
        self._book: RunState | None = None
        self._common: Files = {}
        try:
            if server_ca is not None:
                content = server_ca if isinstance(server_ca, bytes) else server_ca.read_bytes()
                self._common[File.SERVER_CA] = content
            make_folder(root)
            self._lock = open_beside(root / ".lock", os.O_CREAT | os.O_RDWR)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._clear()
        except BlockingIOError:
            raise FolderError(
                f"another otahsm command is writing to {root}",
                hint="Wait for it, or give this one its own folder with --out.",
            ) from None
        except OSError as error:
            raise FolderError(f"can't use {error.filename}: {error.strerror}") from None
        if gateway_url is not None:
            self._common[File.GATEWAY_URL] = gateway_url.encode()

    def close(self) -> None:
        """Release the folder for other commands."""
        if self._book is not None:
            self._book.close()
        os.close(self._lock)

    @property
    def book(self) -> RunState:
        """The state of the folder's runs. Raises FolderError."""
        if self._book is None:
            self._book = RunState(self.root)
        return self._book

    def path(self, device_id: str) -> Path:
        """Return the path of a complete device: its folder, its archive or its certificate."""
        if self._layout.folder and not self._is_tar:
            return self.root / self._layout.folder_of(device_id)
        return self.root / self._layout.complete.format(device_id)

    def is_complete(self, device_id: str) -> bool:
        """Return whether a device has its certificate."""
        return (self.root / self._layout.complete.format(device_id)).exists()

    def is_gone(self, device_id: str) -> bool:
        """Return whether no file of a device exists."""
        begun = (self._file(File.CSR, device_id), self._file(File.KEY, device_id))
        there = [self.path(device_id), *(path for path in begun if path is not None)]
        if self._layout.folder:
            there.append(self._own(device_id))
        return not any(path.exists() for path in there)

    def saved_csr(self, device_id: str) -> bytes | None:
        """Return the CSR in DER of a device that was started earlier; None if there is none.

        If there is no CSR file, because of the layout or an interruption, it is made from the key.

        Raises:
            RequestRefusedError: there are files of the device, but no readable CSR or key.
        """
        try:
            path = self._file(File.CSR, device_id)
            if path is not None and path.exists():
                return load_csr(path)
            key = self._file(File.KEY, device_id)
            if key is not None and key.exists():
                return make_csr(device_id, load_key(key, self._passphrase))
        except ConfigError as error:
            raise self._unreadable(device_id, error.message) from None
        if self._layout.folder and self._own(device_id).exists():
            raise self._unreadable(device_id, f"can't read {path or key}: it does not exist")
        return None

    def _unreadable(self, device_id: str, message: str) -> RequestRefusedError:
        hint = f"Move {self._own(device_id)} away; the device will get a new key."
        return RequestRefusedError("folder", message, hint=hint)

    def begin(self, keys: Mapping[str, DeviceKey]) -> None:
        """Write key and CSR of new devices durably; if it fails, temporary files are ignored.

        Raises:
            FolderError: a file can't be written.
        """
        with explained():
            written: list[Path] = []
            renames: list[tuple[Path, Path]] = []
            for device_id, key in keys.items():
                files: Files = {File.KEY: key.pkcs8, File.CSR: _pem("CERTIFICATE REQUEST", key.csr)}
                if key.sec1 is not None:
                    files[File.SEC1] = key.sec1
                if self._layout.folder:
                    written += self._write_folder(device_id, files)
                    renames.append((self.root / f"{TEMPORARY}{device_id}", self._own(device_id)))
                else:
                    new = self._write_beside(device_id, files)
                    written += [temporary for temporary, _ in new]
                    renames += new
            make_durable(written)
            for temporary, final in renames:
                temporary.rename(final)
            make_durable([self.root])

    def finish(
        self,
        chains: Mapping[str, Sequence[bytes]],
        csrs: Mapping[str, bytes] | None = None,
        anchors: Mapping[str, bytes] | None = None,
        configurations: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write the certificates of devices durably, the device's own last.

        Args:
            chains: DER certificates by device id, the device's first, without the trust anchor.
            csrs: CSRs in DER by device id, for devices that made their own keys.
            anchors: trust anchors in DER by device id, where they differ from the default.
            configurations: aktualizr's sota.toml by device id, for layouts that have one.

        Raises:
            FolderError: a file can't be written.
        """
        with explained():
            renames: list[tuple[Path, Path]] = []
            for device_id, chain in chains.items():
                files = self._certificates(chain, (anchors or {}).get(device_id))
                if csrs and device_id in csrs:
                    files[File.CSR] = _pem("CERTIFICATE REQUEST", csrs[device_id])
                if configurations and device_id in configurations:
                    files[File.SOTA_TOML] = configurations[device_id]
                files[File.CERTIFICATE] = files.pop(File.CERTIFICATE)  # the last
                if self._is_tar:
                    renames.append(self._write_archive(device_id, files))
                else:
                    renames += self._write_beside(device_id, files)
            make_durable([temporary for temporary, _ in renames])
            for temporary, final in renames:
                if final.name == self._layout.paths[File.CERTIFICATE]:  # the last of its folder
                    self._link_server_ca(final.parent)
                temporary.rename(final)
            make_durable(list(self._folders_of(final for _, final in renames)))
            if self._is_tar:
                for device_id in chains:
                    shutil.rmtree(self._own(device_id), ignore_errors=True)

    def discard(self, device_id: str) -> None:
        """Delete the files of a device that gets no certificate, unless it is complete."""
        if self.is_complete(device_id):
            return
        with explained():
            if self._layout.folder:
                shutil.rmtree(self._own(device_id), ignore_errors=True)
            for file in (File.KEY, File.CSR):
                path = self._file(file, device_id)
                if path is not None:
                    path.unlink(missing_ok=True)

    def share(self) -> None:
        """Write the files that all devices share, if the layout has any. Raises FolderError."""
        with explained():
            for file, name in self._layout.common.items():
                if file in self._common:
                    replace_file(self.root / name, self._common[file])

    def certificate(self, device_id: str) -> bytes | None:
        """Return a device's certificate in PEM; None if it doesn't exist, or is in an archive."""
        path = self._file(File.CERTIFICATE, device_id)
        try:
            return path.read_bytes() if path else None
        except OSError:
            return None

    def _certificates(self, chain: Sequence[bytes], anchor: bytes | None) -> Files:
        certificates = [_pem("CERTIFICATE", certificate) for certificate in chain]
        last = self._trust_anchor if anchor is None else _pem("CERTIFICATE", anchor)
        return {
            **self._common,
            File.CHAIN: b"".join((*certificates, last)),
            File.CERTIFICATE: certificates[0],
        }

    def _write_folder(self, device_id: str, files: Files) -> Iterator[Path]:
        """Write a device's folder under a temporary name."""
        folder = self.root / f"{TEMPORARY}{device_id}"
        made = {folder}
        folder.mkdir()
        for file, content in files.items():
            if file in self._layout.paths:
                path = folder / self._layout.paths[file].format(device_id)
                path.parent.mkdir(parents=True, exist_ok=True)
                made |= {parent for parent in path.parents if folder in parent.parents}
                yield write(path, content, _mode(file))
        yield from made

    def _write_beside(self, device_id: str, files: Files) -> list[tuple[Path, Path]]:
        """Write files under temporary names in their final folders."""
        renames = []
        for file, content in files.items():
            if (final := self._file(file, device_id)) is not None:
                final.parent.mkdir(parents=True, exist_ok=True)
                temporary = final.with_name(f"{TEMPORARY}{final.name}")
                renames.append((write(temporary, content, _mode(file)), final))
        return renames

    def _write_archive(self, device_id: str, files: Files) -> tuple[Path, Path]:
        for file in (File.SEC1, File.KEY, File.CSR):
            path = self._file(file, device_id)
            if path is not None and path.exists():
                files[file] = path.read_bytes()
        members = [
            Member(f"{device_id}/{name.format(device_id)}", files[file], _mode(file))
            for file, name in self._layout.paths.items()
            if file in files
        ]
        if File.SERVER_CA in files:
            link = self._layout.paths[File.SERVER_CA_LINK]
            members.append(Member(f"{device_id}/{link}", link=self._layout.paths[File.SERVER_CA]))
        final = self.root / self._layout.complete.format(device_id)
        return write(self.root / f"{TEMPORARY}{final.name}", tar_archive(members), 0o600), final

    def _link_server_ca(self, folder: Path) -> None:
        """Link ca.pem to the given file, or otherwise to the copy beside it."""
        if self._server_ca is None or File.SERVER_CA_LINK not in self._layout.paths:
            return
        target = self._layout.paths[File.SERVER_CA]
        if isinstance(self._server_ca, Path):
            target = os.path.relpath(self._server_ca, folder)
        name = self._layout.paths[File.SERVER_CA_LINK]
        temporary = folder / f"{TEMPORARY}{name}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.rename(folder / name)

    def _folders_of(self, paths: Iterator[Path]) -> set[Path]:
        """Return all folders from those of `paths` up to the root."""
        return {self.root} | {
            parent for path in paths for parent in path.parents if self.root in parent.parents
        }

    def _own(self, device_id: str) -> Path:
        return self.root / self._layout.folder_of(device_id)

    def _file(self, file: File, device_id: str) -> Path | None:
        path = self._layout.path_of(file, device_id)
        return None if path is None else self.root / path

    def _clear(self) -> None:
        """Delete temporary files of a crash. Raises OSError."""
        for leftover in self.root.glob(TEMPORARY + "*"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        if self._is_tar:
            for begun in self.root.glob(str(self._layout.folder_of("*"))):
                if self.is_complete(begun.name.removeprefix(str(self._layout.folder_of("")))):
                    shutil.rmtree(begun)


def _mode(file: File) -> int:
    return 0o600 if file in _PRIVATE else 0o644


def _pem(label: str, der: bytes) -> bytes:
    armored: bytes = pem.armor(label, der)
    return armored
