"""credentials.zip: whatever it is, it takes little memory, and nothing secret comes out of it."""

from __future__ import annotations

import io
import resource
import zipfile
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from cryptography import x509

from otahsm.errors import ConfigError
from otahsm.gateway.credentials import read_credentials
from otahsm.gateway.url import parse_gateway_url

from fuzz.places import written

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET: Final = b"s3cr3t-of-the-build-server"
_SEEDS: Final = Path(__file__).with_name("corpus") / "credentials"
_ENTRIES: Final = ("autoprov.url", "server_ca.pem", "autoprov_credentials.p12", "autoprov")
_MOST_KIB: Final = 96 << 10  # twice what the entries may unpack to at once, and room for Python


def credentials(data: bytes) -> None:
    """Read an archive."""
    path = written("credentials.zip", data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read = read_credentials(path, NOW)
    except ConfigError as error:
        assert SECRET.decode() not in error.message or _is_a_name(path)
        assert "\n" not in error.message
        return
    finally:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MOST_KIB
    assert SECRET.decode() not in repr(read)
    assert parse_gateway_url(str(read.url), "itself") == read.url
    assert not {"autoprov.url", "autoprov", "server_ca.pem"} & set(read.stays_here)
    if read.ca is not None:
        (certificate,) = x509.load_pem_x509_certificates(read.ca.pem)
        assert read.ca.pem.count(b"-----BEGIN") == 1
        assert certificate.not_valid_before_utc <= NOW <= certificate.not_valid_after_utc
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def _is_a_name(path: Path) -> bool:
    """Return whether an archive names a file so: names are no secrets."""
    with zipfile.ZipFile(path) as archive:
        return any(SECRET.decode() in name for name in archive.namelist())


def credentials_entry(data: bytes) -> None:
    """Read an archive with these octets as one of its entries; the first says which."""
    kind, content = (data[0] if data else 0), data[1:]
    name = _ENTRIES[kind % len(_ENTRIES)]
    entries: dict[str, bytes] = {"autoprov.url": b"https://gateway.example:30443", **_good(), name: content}
    if name == "autoprov_credentials.p12":  # which counts where there is nothing else
        del entries["server_ca.pem"]
    if name == "autoprov":
        del entries["autoprov.url"]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for each, octets in entries.items():
            archive.writestr(zipfile.ZipInfo(each), octets)
    credentials(file.getvalue())


@cache
def _good() -> dict[str, bytes]:
    with zipfile.ZipFile(_SEEDS / "community-edition.zip") as archive:
        return {"server_ca.pem": archive.read("server_ca.pem"), "targets.sec": SECRET}
