"""Registration as the command does it: with devices that a book knows, and a backend."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.client import IssuedCertificate
from otahsm.client.values import CertificateRequest
from otahsm.config import RegistrationConfig, parse_config, section
from otahsm.line import Device, DeviceFolders, Run
from otahsm.line.run_state import RunState
from otahsm.pki.serial import SerialNumber
from otahsm.registration.backends import Backend
from otahsm.registration.outbox import Outbox, Registered
from otahsm.registration.registering import register

from support.authority import leaf
from support.backend import Reply, Script
from support.harness import OTAHSM

SECRET = "s3cr3t-of-the-registry"
SERIAL = 0x17
WHEN = datetime(2030, 1, 1, tzinfo=UTC)
DER = leaf("any", "ec-p256", serial=SERIAL)
PEM = x509.load_der_x509_certificate(DER).public_bytes(Encoding.PEM).decode()
ASKED = ["device issue", "--profile", "gold"]


def issued(device_id: str, serial: int = SERIAL, certificate: bytes = DER) -> IssuedCertificate:
    request = CertificateRequest(b"csr", device_id)
    return IssuedCertificate(
        request, device_id, SerialNumber(serial), (certificate,), WHEN, WHEN, replayed=False
    )


def fill(folder: Path, *devices: str | Device, announce: bool = True, profile: str = "gold") -> None:
    """Have devices issued, as far as the book knows; enter them for registration."""
    opened = DeviceFolders(folder, b"")
    known = [device if isinstance(device, Device) else Device(device) for device in devices]
    order = Run.open(opened, ASKED, known, resume=False)
    if announce:
        order.announce(profile)
    order.record(
        [issued(device.device_id) for device in known],
        {device.device_id: device for device in known},
    )
    opened.close()


def nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {"a": "b"}
    for _ in range(depth):
        table = {"a": table}
    return table


def settings(folder: Path, url: str, **more: Any) -> RegistrationConfig:
    table = {"kind": "webhook", "url": url, "timeout_seconds": 10, **more}
    config = parse_config({"registration": table}, base=folder, source="otahsm.toml")
    return section(config.registration, "registration")


def run(
    folder: Path,
    url: str,
    *,
    patience: float = 20.0,
    tell: Callable[[Registered], None] | None = None,
    **more: Any,
) -> list[Registered]:
    """Register what waits; return what was told."""
    told: list[Registered] = []
    config = settings(folder, url, **more)

    def hear(one: Registered) -> None:
        told.append(one)
        if tell is not None:
            tell(one)

    with contextlib.closing(Outbox(folder, config.timeout_seconds)) as outbox, outbox:
        register(
            outbox,
            Backend(config),
            hear,
            parallel=config.parallel,
            patience=patience,
        )
    return told


def known(folder: Path) -> dict[str, Registered]:
    with contextlib.closing(Outbox(folder)) as outbox:
        return {one.device_id: one for one in outbox.all()}


def rows(folder: Path) -> list[sqlite3.Row]:
    with contextlib.closing(RunState(folder)) as book:
        return book.read("SELECT * FROM registrations ORDER BY id")


def script(*replies: Reply) -> Script:
    """Answer with each in turn, the last one for ever."""
    return lambda _seen, number: replies[min(number, len(replies)) - 1]


def start_command(folder: Path, url: str, *options: str, more: str = "") -> subprocess.Popen[str]:
    config = folder.parent / "otahsm.toml"
    names = "\n".join(f'{name} = "none"' for name in ("ca", "certificate", "key"))
    config.write_text(
        f'[client]\ntarget = "127.0.0.1:1"\n{names}\ndevices = "{folder}"\npatience_seconds = 10\n'
        f'[registration]\nkind = "webhook"\nurl = "{url}"\n{more}\n'
    )
    return subprocess.Popen(
        [*OTAHSM, "device", "register", "--config", str(config), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
