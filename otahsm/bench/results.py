"""What a bench finds out, as values."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class TokenRate(NamedTuple):
    """Signatures a second of one kind of key, in so many processes with so many sessions each."""

    key_type: str
    processes: int
    sessions: int
    signatures_per_second: float


class Latency(NamedTuple):
    """How long messages took to be answered, in milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Sum up what was seen; at least one."""
        if len(seconds) == 1:
            seconds = [*seconds, *seconds]  # `quantiles` wants two
        percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
        return cls(*(1000 * percentiles[percent - 1] for percent in (50, 95, 99)))


class ProcessUse(NamedTuple):
    """What the processes of one kind used: processor time for each certificate, and their highest memory."""

    processes: int
    microseconds_per_certificate: float
    peak_mebibytes: float


class IssueResult(NamedTuple):
    """One load on one daemon.

    Attributes:
        key_type: the CA's; empty if it is not known.
        requests_per_message: CSRs in a message.
        floor_before, floor_after: certificates a second of the crypto floor, of the same run.
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
        """How much of the crypto floor was reached."""
        return self.certificates_per_second / self.floor if self.floor else None
