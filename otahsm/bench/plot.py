"""Plots the results of benchmarks, with matplotlib (`pip install 'otahsm[plot]'`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from otahsm.bench.results import IssueResult


def plot(by_message: Sequence[IssueResult], by_signers: Sequence[IssueResult], path: Path) -> None:
    """Plot throughput against requests per message, and against signers, with the crypto floor of each.

    Args:
        by_message: results that differ in `requests_per_message`.
        by_signers: results that differ in `signers`.
        path: the file; its extension determines the format: .png or .svg.

    Raises:
        OSError: it can't be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - large, and few need it

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, results, name in (
        (left, by_message, "requests_per_message"),
        (right, by_signers, "signers"),
    ):
        values = [getattr(result, name) for result in results]
        axes.plot(values, [result.certificates_per_second for result in results], "o-", label="otahsm")
        axes.plot(values, [result.floor or 0 for result in results], "s--", label="crypto floor")
        axes.set_xlabel(name.replace("_", " "))
        axes.set_xticks(values, [str(value) for value in values])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_xscale("log", base=2)
    left.set_xticks([result.requests_per_message for result in by_message])
    left.set_xticklabels([str(result.requests_per_message) for result in by_message])
    left.set_ylabel("certificates a second")
    figure.suptitle(f"CA key {by_message[0].key_type}, {by_message[0].sessions} session(s) a signer")
    figure.savefig(path)
