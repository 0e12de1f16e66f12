"""What the cycle needs of signers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from otahsm.errors import SigningRefusedError
from otahsm.token.desk.codec import CertificateToSign


class Signers(Protocol):
    """Sign certificates: see `SignerPool.sign_certificates`."""

    async def sign_certificates(
        self, profile: str, items: Sequence[CertificateToSign]
    ) -> list[bytes | SigningRefusedError]:
        """Have certificates of one profile signed."""
