"""Queues devices for registration that are not in the outbox, with the certificates in their folders.

They were issued without a [registration] section, or their records were lost in a power cut.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asn1crypto import pem, x509

from otahsm.errors import RequestRefusedError
from otahsm.line.layouts import LAYOUTS, File, LayoutName
from otahsm.line.run_state import RunState, enter_registration
from otahsm.pki.serial import SerialNumber

_PAGE: Final = 512
_TAR: Final[LayoutName] = "tar"


@dataclass(frozen=True, slots=True)
class Collected:
    """The number of queued devices, and of those whose certificates are missing."""

    entered: int
    missing: int


def collect(book: RunState) -> Collected:
    """Queue every device whose certificate has no registration.

    Args:
        book: the state file of a devices folder.

    Raises:
        FolderError: the state file can't be read or written.
    """
    folder = book.path.parent
    entered = missing = 0
    last = (0, "")
    while rows := book.read(
        "SELECT d.order_id, d.name, d.device_id, d.attributes, o.asked FROM devices d"
        " JOIN orders o ON o.id = d.order_id"
        " WHERE (d.order_id, d.name) > (?, ?) AND d.state = 'issued' AND NOT EXISTS"
        " (SELECT 1 FROM registrations r"
        " WHERE r.device_id = d.device_id AND r.serial = coalesce(d.serial, r.serial))"
        " ORDER BY d.order_id, d.name LIMIT ?",
        *last,
        _PAGE,
    ):
        last = (rows[-1]["order_id"], rows[-1]["name"])
        with book.transaction(durable=True) as connection:
            for row in rows:
                certificate = certificate_of(folder, row["device_id"])
                if certificate is None:
                    missing += 1
                    continue
                entered += enter_registration(
                    connection,
                    row["device_id"],
                    SerialNumber(certificate.serial_number),
                    _profile(json.loads(row["asked"])),
                    row["attributes"],
                    certificate.dump(),
                    due_at=0,
                )
    return Collected(entered, missing)


def certificate_of(folder: Path, device_id: str) -> x509.Certificate | None:
    """Return a device's certificate, in any layout; None if it is missing or broken."""
    for name, layout in LAYOUTS.items():
        path = folder / layout.complete.format(device_id)
        try:
            content = _from_archive(path, device_id) if name == _TAR else path.read_bytes()
            certificate = x509.Certificate.load(pem.unarmor(content)[2], strict=True)
            SerialNumber(certificate.serial_number)
        except (OSError, KeyError, ValueError, TypeError, tarfile.TarError, RequestRefusedError):
            continue
        return certificate
    return None


def _from_archive(path: Path, device_id: str) -> bytes:
    """Read the certificate in a device's archive. Raises OSError, KeyError, tarfile.TarError."""
    with tarfile.open(path, "r:") as archive:
        member = archive.extractfile(f"{device_id}/{LAYOUTS[_TAR].paths[File.CERTIFICATE]}")
        return b"" if member is None else member.read()


def _profile(asked: list[str]) -> str:
    """Return the profile in a run's request; empty for the daemon's default."""
    return asked[asked.index("--profile") + 1] if "--profile" in asked else ""
