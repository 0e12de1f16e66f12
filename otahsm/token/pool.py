"""The signers of one token, as the daemon sees them. This module never loads PKCS#11 (I8)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from otahsm.config import KeyConfig, TokenConfig
from otahsm.errors import OtahsmError, TokenUnavailableError, WorkerLostError, WorkersBusyError
from otahsm.pki import PublicKey, encode_spki
from otahsm.token.pin import typed_pin
from otahsm.workers import Report, WorkerPool

# Signed when a session is new, and when it was idle for a while. It is no certificate and can't be one.
PROBE: Final = b"otahsm probe: a signature over this line shows that the key can sign, and nothing else"
_DEPTH: Final = 2  # one batch in the sessions, and one that they go on with
_PROBE_SECONDS: Final = 5.0
_LONGEST_PAUSE: Final = 15.0  # a token that is away is not hammered


class TokenKey(NamedTuple):
    """A key in the token: which one it is, and what its signatures must verify with."""

    config: KeyConfig
    public_key: PublicKey


def signer_setup(token: TokenConfig, keys: Sequence[TokenKey]) -> list[bytes]:
    """Say what a signer needs to know: the first message to it.

    Returns:
        [token] as JSON, then for each key its section as JSON, and its SubjectPublicKeyInfo in DER.
    """
    setup = [token.model_dump_json().encode()]
    for config, public_key in keys:
        section = config.model_dump_json(include=set(KeyConfig.model_fields))
        setup += [section.encode(), encode_spki(public_key)]
    return setup


def batch_for(key: int, messages: Sequence[bytes]) -> list[bytes]:
    """Say what a signer is to sign: the number of the key among those of its setup, then the messages."""
    return [b"%d" % key, *messages]


class SignerPool:
    """Keeps `[token] signers` processes signing, each with every key: one login does for all of them (I7).

    Args:
        token: where the keys are, and how to log in.
        keys: at least one. Signers count as ready when they have made a signature with each.
        wait_seconds: how long a batch waits for a free signer.
        report: called with (event, pid, error) when a signer is ready or lost.
    """

    def __init__(
        self, token: TokenConfig, keys: Sequence[TokenKey], *, wait_seconds: float, report: Report
    ) -> None:
        self._pool = WorkerPool(
            "signer",
            "otahsm.token.signer",
            signer_setup(token, keys),
            size=token.signers,
            depth=_DEPTH,
            environment=os.environ,
            call_seconds=token.sign_timeout_seconds,
            wait_seconds=wait_seconds,
            probe=batch_for(0, [PROBE]),
            probe_seconds=_PROBE_SECONDS,
            longest_pause=_LONGEST_PAUSE,
            report=report,
            inherit=typed_pin(),
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

    async def sign(self, messages: Sequence[bytes], *, key: int = 0) -> list[bytes]:
        """Sign a batch; return a verified signature for each message, in order.

        Args:
            messages: what to sign, not hashed.
            key: which of the keys, by its number.

        Raises:
            TokenUnavailableError: two signers failed at it, or none was free in time.
            TokenRefusedError: the token refuses, and an operator must act.
        """
        try:
            signatures = await self._pool.call(batch_for(key, messages))
        except (WorkerLostError, WorkersBusyError) as error:
            raise TokenUnavailableError(f"no signer could sign: {error.message}") from error
        if len(signatures) != len(messages):
            raise TokenUnavailableError("a signer answered a batch with the wrong number of signatures")
        return signatures
