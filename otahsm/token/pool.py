"""The signers of one token, as the daemon sees them. This module never loads PKCS#11 (I8)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from otahsm.config import CaConfig, TokenConfig
from otahsm.errors import OtahsmError, TokenUnavailableError, WorkerLostError, WorkersBusyError
from otahsm.pki import Issuer
from otahsm.workers import Report, WorkerPool

# Signed when a session is new, and when it was idle for a while. It is no certificate and can't be one.
PROBE: Final = b"otahsm probe: a signature over this line shows that the key can sign, and nothing else"
_DEPTH: Final = 2  # one batch in the sessions, and one that they go on with
_PROBE_SECONDS: Final = 5.0
_LONGEST_PAUSE: Final = 15.0  # a token that is away is not hammered


def signer_setup(token: TokenConfig, ca: CaConfig, certificate: bytes) -> list[bytes]:
    """Say what a signer needs to know: the first message to it."""
    return [token.model_dump_json().encode(), ca.model_dump_json().encode(), certificate]


class SignerPool:
    """Keeps `[token] signers` processes signing for one CA.

    Args:
        token: where the key is, and how to log in.
        ca: which key it is.
        issuer: the CA certificate; what the token signs must verify with it.
        wait_seconds: how long a batch waits for a free signer.
        report: called with (event, pid, error) when a signer is ready or lost.
    """

    def __init__(
        self, token: TokenConfig, ca: CaConfig, issuer: Issuer, *, wait_seconds: float, report: Report
    ) -> None:
        self._pool = WorkerPool(
            "signer",
            "otahsm.token.signer",
            signer_setup(token, ca, issuer.certificate),
            size=token.signers,
            depth=_DEPTH,
            environment=os.environ,
            call_seconds=token.sign_timeout_seconds,
            wait_seconds=wait_seconds,
            probe=[PROBE],
            probe_seconds=_PROBE_SECONDS,
            longest_pause=_LONGEST_PAUSE,
            report=report,
        )

    @property
    def ready(self) -> int:
        """How many signers hold a session and have made a signature that verified."""
        return self._pool.ready

    @property
    def refusal(self) -> OtahsmError | None:
        """What an operator must mend before a signer is started again; None if nothing."""
        return self._pool.refusal

    async def start(self) -> None:
        """Start the signers, and return while they log in, one after another."""
        await self._pool.start()

    async def wait_until_ready(self) -> None:
        """Return when a signer can sign.

        Raises:
            OtahsmError: none can, and none will without an operator.
        """
        await self._pool.wait_until_ready()

    async def close(self) -> None:
        """End the signers."""
        await self._pool.close()

    async def sign(self, messages: Sequence[bytes]) -> list[bytes]:
        """Sign a batch; return a verified signature for each message, in order.

        Raises:
            TokenUnavailableError: two signers failed at it, or none was free in time.
            TokenRefusedError: the token refuses, and an operator must act.
        """
        try:
            signatures = await self._pool.call(messages)
        except (WorkerLostError, WorkersBusyError) as error:
            raise TokenUnavailableError(f"no signer could sign: {error.message}") from error
        if len(signatures) != len(messages):
            raise TokenUnavailableError("a signer answered a batch with the wrong number of signatures")
        return signatures
