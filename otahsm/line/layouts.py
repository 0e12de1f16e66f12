"""Layouts: the paths of a device's files, relative to the folder of all devices.

`seed` is the folder of the seed guide and the Community Edition:

    <id>/pkey.ec.pem    private key, traditional EC format (0600; unencrypted EC keys only)
         pkey.pem       private key, PKCS#8                (0600)
         <id>.csr       certificate signing request
         client.pem     the device's certificate
         <id>.chain.pem client.pem, intermediates, fleet root
         ca.pem         -> the gateway's (server) CA       (if known)
         root.crt       the same CA, as a file             (if known)
         gateway.url    the gateway's address              (if known)

`aktualizr` can be copied directly into a device's image:

    <id>/var/sota/import/pkey.pem, client.pem, root.crt, gateway.url
    <id>/var/sota/sota.toml

`flat` is one folder for all devices, with one root.crt and gateway.url:

    <id>.pkey.pem, <id>.csr, <id>.client.pem, <id>.chain.pem

`tar` is one archive per device, <id>.tar (0600), with a `seed` folder in it whose ca.pem links to root.crt.
Until it is complete, its key and CSR are in a hidden folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final, Literal

_IMPORT: Final = "var/sota/import"


LayoutName = Literal["seed", "aktualizr", "flat", "tar"]


class File(StrEnum):
    """The files of a device."""

    SEC1 = "sec1"
    KEY = "key"
    CSR = "csr"
    CHAIN = "chain"
    SERVER_CA_LINK = "ca"
    SERVER_CA = "root"
    GATEWAY_URL = "url"
    SOTA_TOML = "toml"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of files; `{}` stands for the device id.

    Attributes:
        folder: the device's own folder, which is created atomically; empty if there is none.
        paths: the paths of the layout's files within `folder`.
        complete: the path that exists when the device is complete.
        common: the names of files that all devices share.
    """

    folder: str
    paths: dict[File, str]
    complete: str
    common: dict[File, str]

    def folder_of(self, device_id: str) -> PurePosixPath:
        """Return the device's own folder; "." if it has none."""
        return PurePosixPath(self.folder.format(device_id))

    def path_of(self, file: File, device_id: str) -> PurePosixPath | None:
        """Return the path of a file in the folder of all devices; None if the layout doesn't have it."""
        if file not in self.paths:
            return None
        return self.folder_of(device_id) / self.paths[file].format(device_id)


_SEED: Final = {
    File.SEC1: "pkey.ec.pem",
    File.KEY: "pkey.pem",
    File.CSR: "{}.csr",
    File.CHAIN: "{}.chain.pem",
    File.SERVER_CA: "root.crt",
    File.GATEWAY_URL: "gateway.url",
    File.SERVER_CA_LINK: "ca.pem",
    File.CERTIFICATE: "client.pem",
}
LAYOUTS: Final[dict[LayoutName, Layout]] = {
    "seed": Layout("{}", _SEED, "{}/client.pem", {}),
    "aktualizr": Layout(
        "{}",
        {
            File.KEY: f"{_IMPORT}/pkey.pem",
            File.SERVER_CA: f"{_IMPORT}/root.crt",
            File.GATEWAY_URL: f"{_IMPORT}/gateway.url",
            File.SOTA_TOML: "var/sota/sota.toml",
            File.CERTIFICATE: f"{_IMPORT}/client.pem",
        },
        f"{{}}/{_IMPORT}/client.pem",
        {},
    ),
    "flat": Layout(
        "",
        {
            File.KEY: "{}.pkey.pem",
            File.CSR: "{}.csr",
            File.CHAIN: "{}.chain.pem",
            File.CERTIFICATE: "{}.client.pem",
        },
        "{}.client.pem",
        {File.SERVER_CA: "root.crt", File.GATEWAY_URL: "gateway.url"},
    ),
    "tar": Layout(".begun-{}", _SEED, "{}.tar", {}),
}
