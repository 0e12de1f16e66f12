"""What all services have."""

from __future__ import annotations

from otahsm.authority import CertificateAuthority


class Service:
    """A service that asks a certification authority."""

    def __init__(self, authority: CertificateAuthority) -> None:
        self._authority = authority
