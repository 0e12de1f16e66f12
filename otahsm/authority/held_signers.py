"""Has no certificate signed before it is known that the ledger continues what signers signed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from otahsm.errors import OtahsmError, SigningRefusedError, TokenRefusedError, TokenUnavailableError
from otahsm.token.desk.codec import CertificateToSign
from otahsm.token.pool import SignerPool

NOT_YET: Final = "it is not known yet whether the ledger continues what signers signed last"


class HeldSigners:
    """The signers of certificates.

    An older copy of the ledger would have a second certificate made for each device that it has lost.

    Args:
        signers: sign.
        looked: set when the ledger was compared with what they signed last.
        wait_seconds: how long a request waits for that.
    """

    def __init__(self, signers: SignerPool, looked: asyncio.Event, *, wait_seconds: float) -> None:
        self._signers = signers
        self._looked = looked
        self._wait_seconds = wait_seconds

    async def sign_certificates(
        self, profile: str, items: Sequence[CertificateToSign]
    ) -> list[bytes | SigningRefusedError]:
        """Have certificates signed: see `SignerPool.sign_certificates`."""
        if not self._looked.is_set():
            await self._wait()
        return await self._signers.sign_certificates(profile, items)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._signers.wait_until_ready()
                await self._looked.wait()
        except TimeoutError:
            failure = self._signers.failure
            why = f"no signer could sign: {failure.message}" if failure else NOT_YET
            raise TokenUnavailableError(why) from None
        except (TokenRefusedError, TokenUnavailableError):
            raise
        except OtahsmError as error:
            raise TokenUnavailableError(f"no signer could sign: {error.message}") from error
