"""Measures the token's signatures and the crypto floor, with gauges: processes like signers."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from otahsm.bench.results import TokenRate
from otahsm.config import CaConfig, TokenConfig
from otahsm.errors import OtahsmError
from otahsm.pki.keytypes import KeyType
from otahsm.token.ceremony import key_types, throwaway_ca
from otahsm.token.files import read_chain
from otahsm.token.probe import FLOOR, SIGN
from otahsm.token.setup import TokenKey, encode_key, encode_token
from otahsm.workers.pool import WorkerPool

_SLACK: Final = 60.0  # seconds that a gauge may overrun, for the last signature of a slow token


class Gauges:
    """Processes that measure concurrently.

    Args:
        pool: the processes, all ready.
        size: their number.
    """

    def __init__(self, pool: WorkerPool, size: int) -> None:
        self._pool = pool
        self._size = size

    async def signatures(self, seconds: float) -> float:
        """Return their total throughput, in signatures per second."""
        return await self._measure([SIGN, b"%f" % seconds])

    async def floor(self, seconds: float, csrs: Sequence[bytes]) -> float:
        """Return the crypto floor, in certificates per second."""
        return await self._measure([FLOOR, b"%f" % seconds, *csrs])

    async def _measure(self, batch: Sequence[bytes]) -> float:
        answers = await asyncio.gather(*(self._pool.call(batch) for _ in range(self._size)))
        return sum(float(rate) for (rate,) in answers)


@asynccontextmanager
async def gauges(token: TokenConfig, ca: CaConfig, size: int, seconds: float) -> AsyncIterator[Gauges]:
    """Run gauges on a CA's key. Raises OtahsmError if one does not become ready."""
    issuer = read_chain(ca).issuer
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def report(event: str, pid: int, error: OtahsmError | None) -> None:
        del event, pid
        if error is not None and not failed.done():
            failed.set_exception(error)

    pool = WorkerPool(
        "gauge",
        "otahsm.token.probe",
        [encode_token(token), *encode_key(TokenKey(ca, issuer.public_key))],
        size=size,
        environment=os.environ,
        call_seconds=seconds + _SLACK,
        wait_seconds=seconds + _SLACK,
        longest_pause=1.0,
        report=report,
    )
    await pool.start()
    try:
        ready = asyncio.ensure_future(pool.wait_until_ready(size))
        await asyncio.wait({ready, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            ready.cancel()
            failed.result()
        yield Gauges(pool, size)
    finally:
        await pool.close()
        failed.cancel()


async def bench_token(
    token: TokenConfig,
    *,
    only: Sequence[KeyType],
    processes: Iterable[int],
    sessions: Iterable[int],
    seconds: float,
) -> AsyncIterator[TokenRate]:
    """Measure raw signatures per second, for each key type and each setting; yield each result.

    Args:
        token: the token; its own `signers` and `sessions` are ignored.
        only: the key types; empty for all that the token has a mechanism for.
        processes: the numbers of processes to measure.
        sessions: the numbers of sessions per process to measure.
        seconds: the duration of each measurement.

    Raises:
        OtahsmError: the token failed, or doesn't have enough sessions.
    """
    sizes, counts = list(processes), list(sessions)
    for kind in only or await asyncio.to_thread(key_types, token):
        with (
            tempfile.TemporaryDirectory(prefix="otahsm-bench-") as folder,
            throwaway_ca(token, Path(folder), kind, datetime.now(UTC)) as ca,
        ):
            for size, count in itertools.product(sizes, counts):
                settings = token.model_copy(update={"sessions": count})
                async with gauges(settings, ca, size, seconds) as measuring:
                    yield TokenRate(kind, size, count, await measuring.signatures(seconds))
