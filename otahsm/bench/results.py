"""The results of benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class TokenRate(NamedTuple):
    """Signatures per second for a key type, with a number of processes and of sessions in each."""

    key_type: str
    processes: int
    sessions: int
    signatures_per_second: float


class Latency(NamedTuple):
    """The latency of messages, in milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Return the quantiles of latencies, at least one."""
        if len(seconds) == 1:
            seconds = [*seconds, *seconds]  # `quantiles` requires two
        percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
        return cls(*(1000 * percentiles[percent - 1] for percent in (50, 95, 99)))


class ProcessUse(NamedTuple):
    """The resource use of one kind of process: processor time per certificate, and peak memory."""

    processes: int
    microseconds_per_certificate: float
    peak_mebibytes: float


class IssueResult(NamedTuple):
    """The results of one load on one daemon.

    Attributes:
        key_type: the type of the CA's key; empty if unknown.
        requests_per_message: the number of CSRs per message.
        floor_before, floor_after: the crypto floor in the same run, in certificates per second.
        use: by kind: "daemon", "signers", "preparers", "client".
    """

    key_type: str
    signers: int
    sessions: int
    streams: int
    requests_per_message: int
    certificates: int
    certificates_per_second: float
    latency: Latency
    floor_before: float | None = None
    floor_after: float | None = None
    use: dict[str, ProcessUse] = {}  # noqa: RUF012 - a default that is never changed
    calls_per_certificate: float | None = None

    @property
    def floor(self) -> float | None:
        """The mean of the floors before and after."""
        if self.floor_before is None or self.floor_after is None:
            return None
        return (self.floor_before + self.floor_after) / 2

    @property
    def share_of_floor(self) -> float | None:
        """The throughput as a fraction of the crypto floor."""
        return self.certificates_per_second / self.floor if self.floor else None
