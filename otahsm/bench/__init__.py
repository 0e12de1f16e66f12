"""Measures a token, and a daemon on it: what `otahsm bench` does.

Nothing here touches the fleet's CA or its ledger: keys are made for the purpose and destroyed, and so is a
ledger. Only a daemon that is named with `--target` issues what it always issues.
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
