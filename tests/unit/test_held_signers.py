"""No certificate is signed before it is known that the ledger continues what signers signed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from otahsm.authority.held_signers import HeldSigners
from otahsm.errors import OtahsmError, TokenUnavailableError


class Pool:
    """Signers that are ready, or say why not."""

    def __init__(self, failure: OtahsmError | None = None) -> None:
        self.failure = failure
        self.asked = 0

    async def wait_until_ready(self) -> None:
        if self.failure is not None:
            await asyncio.Event().wait()

    async def sign_certificates(self, profile: str, items: Sequence[Any]) -> list[bytes]:
        self.asked += 1
        return [profile.encode() for _ in items]


def held(pool: Pool, looked: asyncio.Event, seconds: float) -> HeldSigners:
    return HeldSigners(pool, looked, wait_seconds=seconds)  # type: ignore[arg-type]


async def test_a_certificate_is_signed_when_the_ledger_was_looked_at() -> None:
    pool, looked = Pool(), asyncio.Event()
    signing = asyncio.create_task(held(pool, looked, 600).sign_certificates("p", ["item"]))  # type: ignore[list-item]
    await asyncio.sleep(0)
    assert pool.asked == 0
    looked.set()
    assert await signing == [b"p"]


@pytest.mark.parametrize(
    ("failure", "said"),
    [(None, "it is not known yet whether the ledger"), (TokenUnavailableError("it is away"), "it is away")],
)
async def test_a_request_waits_no_longer_than_for_a_signer(failure: OtahsmError | None, said: str) -> None:
    pool = Pool(failure)
    with pytest.raises(TokenUnavailableError, match=said):
        await held(pool, asyncio.Event(), 0.001).sign_certificates("p", [])
    assert pool.asked == 0
