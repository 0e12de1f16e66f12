"""Benchmarks of a token and of a daemon on it, for `otahsm bench`.

They don't touch the fleet's CA or its ledger: they create their own keys and ledger, and destroy them. Only a
daemon that is named with `--target` issues real certificates.
"""

from otahsm.bench.issuing import LoadPlan, bench_issue, bench_target, count_calls
from otahsm.bench.results import IssueResult, Latency, TokenRate
from otahsm.bench.signing import bench_token

__all__ = [
    "IssueResult",
    "Latency",
    "LoadPlan",
    "TokenRate",
    "bench_issue",
    "bench_target",
    "bench_token",
    "count_calls",
]
