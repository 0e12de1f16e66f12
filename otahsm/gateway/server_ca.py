"""The CA of the gateway's certificate, which devices get as root.crt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.errors import ConfigError
from otahsm.pki.anchor import Anchor, choose_anchor, fingerprint_text, load_certificates, name_of

_MAX_CA_FILE_BYTES: Final = 1 << 20
_PRIVATE: Final = b"PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class ServerCa:
    """A root certificate, and its source.

    Attributes:
        certificate: the root.
        source: its source, for messages.
        left_out: the other certificates, which devices don't get, each with the reason.
    """

    certificate: x509.Certificate
    source: str
    left_out: tuple[str, ...] = ()

    @classmethod
    def choose(cls, certificates: Sequence[x509.Certificate], now: datetime, source: str) -> ServerCa:
        """Choose the root among certificates. Raises ConfigError."""
        anchor: Anchor = choose_anchor(certificates, now, source)
        return cls(anchor.certificate, source, anchor.left_out)

    @classmethod
    def read(cls, pem: bytes, now: datetime, source: str) -> ServerCa:
        """Choose the root among PEM certificates. Raises ConfigError."""
        return cls.choose(load_certificates(pem, source), now, source)

    @property
    def pem(self) -> bytes:
        """The content of root.crt: this certificate alone, in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def subject(self) -> str:
        """Its subject."""
        return name_of(self.certificate)

    @property
    def fingerprint(self) -> str:
        """Its SHA-256, as `sha256:` and hexadecimal digits."""
        return fingerprint_text(self.certificate)


def read_pem(path: Path) -> bytes:
    """Read a file of certificates. Raises ConfigError, also if it contains a private key."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CA_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", hint="Is the path right?") from None
    if len(content) > _MAX_CA_FILE_BYTES:
        raise ConfigError(f"{path} has more than {_MAX_CA_FILE_BYTES} bytes", hint="Is it the right file?")
    if _PRIVATE in content:
        raise ConfigError(
            f"{path} contains a private key, which devices must not get",
            hint="Remove everything except the certificates.",
        )
    return content
