"""The files for a device, read from its folder and checked before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from otahsm.errors import ConfigError, RequestRefusedError
from otahsm.line.keys import load_key
from otahsm.line.layouts import LAYOUTS, File, Layout
from otahsm.pki.anchor import is_valid
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.names import check_device_id
from otahsm.system.owners import check_owner

_NAMES: Final = {
    File.KEY: "pkey.pem",
    File.CERTIFICATE: "client.pem",
    File.SERVER_CA: "root.crt",
    File.GATEWAY_URL: "gateway.url",
}
_PLACES: Final = (LAYOUTS["seed"], LAYOUTS["aktualizr"])


@dataclass(frozen=True, slots=True)
class DeviceFiles:
    """The files for a device.

    Attributes:
        device_id: its id.
        contents: the content of each file, by name; without `pkey.pem`, the key is already in the device.
    """

    device_id: str
    contents: dict[str, bytes]

    @classmethod
    def load(cls, devices: Path, device_id: str, now: datetime) -> DeviceFiles:
        """Read a device's files.

        Args:
            devices: the folder of all devices, in the layout `seed` or `aktualizr`.
            device_id: the device.
            now: the time at which the certificate must be valid.

        Raises:
            ConfigError: a file is missing, the files don't belong together, or this is root and they are
                another user's.
        """
        check_owner(devices)
        try:
            check_device_id(device_id)  # it becomes a path
        except RequestRefusedError as error:
            raise ConfigError(error.message, hint="Name a device that was issued.") from None
        complete = (
            layout for layout in _PLACES if _path(devices, layout, File.CERTIFICATE, device_id).exists()
        )
        layout = next(complete, None)
        if layout is None:
            raise ConfigError(
                f"{device_id} is not complete in {devices}",
                hint="Finish it with `otahsm device issue`, in the layout seed or aktualizr.",
            )
        contents = {}
        for file, name in _NAMES.items():
            path = _path(devices, layout, file, device_id)
            try:
                contents[name] = path.read_bytes()
            except FileNotFoundError:
                if file is not File.KEY:
                    raise ConfigError(
                        f"{path} is missing: a device without it can't connect",
                        hint="Copy it there; for new devices, set gateway_url and server_ca in [client].",
                    ) from None
            except OSError as error:
                raise ConfigError(f"can't read {path}: {error.strerror}") from None
        _check(device_id, contents, _path(devices, layout, File.KEY, device_id), now)
        return cls(device_id, contents)


def identity_in(certificate: bytes) -> str | None:
    """Return the common name of a certificate in PEM; None if it has none or is invalid."""
    try:
        subject = x509.load_pem_x509_certificate(certificate).subject
    except ValueError:
        return None
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else None


def _path(devices: Path, layout: Layout, file: File, device_id: str) -> Path:
    path = layout.path_of(file, device_id)
    assert path is not None  # noqa: S101 - these layouts have all four
    return devices / path


def _check(device_id: str, contents: dict[str, bytes], key_path: Path, now: datetime) -> None:
    """Check that key, certificate and device id belong together, and the validity. Raises ConfigError."""
    try:
        certificate = x509.load_pem_x509_certificate(contents["client.pem"])
    except ValueError:
        raise ConfigError(f"client.pem of {device_id} is not a certificate") from None
    if (named := identity_in(contents["client.pem"])) != device_id:
        raise ConfigError(
            f"client.pem of {device_id} is the certificate of {named}",
            hint="Check whether a folder was copied or renamed.",
        )
    if not is_valid(certificate, now):
        raise ConfigError(
            f"the certificate of {device_id} is valid from {certificate.not_valid_before_utc:%Y-%m-%d}"
            f" to {certificate.not_valid_after_utc:%Y-%m-%d}",
            hint="Issue a new one, or check this machine's clock.",
        )
    if "pkey.pem" in contents:
        public = load_key(key_path).public_key()
        if encode_spki(public) != encode_spki(certificate.public_key()):
            raise ConfigError(
                f"pkey.pem and client.pem of {device_id} don't belong together",
                hint="Check whether a file was replaced.",
            )
