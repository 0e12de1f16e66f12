"""Prints the results of `otahsm bench` as text or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from otahsm.bench import IssueResult, TokenRate
from otahsm.cli.output.fields import print_fields, print_json
from otahsm.cli.output.tables import Column, Table

_ENOUGH = 0.97  # a setting with fewer processes and sessions that reaches so much of the fastest is better


def best_setting(rates: Sequence[TokenRate]) -> TokenRate:
    """Return the smallest setting that is as fast as any, but for noise."""
    fastest = max(rate.signatures_per_second for rate in rates)
    enough = [rate for rate in rates if rate.signatures_per_second >= _ENOUGH * fastest]
    return min(enough, key=lambda rate: (rate.processes * rate.sessions, rate.processes))


def print_token_rates(rates: Sequence[TokenRate], *, as_json: bool) -> None:
    """Print signatures a second by key type and setting, and the best setting of each."""
    groups = {kind: list(group) for kind, group in groupby(rates, attrgetter("key_type"))}
    if as_json:
        best = {kind: best_setting(group)._asdict() for kind, group in groups.items()}
        print_json({"rates": [rate._asdict() for rate in rates], "best": best})
        return
    table = Table(
        Column("key type", 10),
        Column("processes", 9, right=True),
        Column("sessions", 8, right=True),
        Column("signatures/s", 12, right=True),
        Column(""),
    )
    table.print_heading()
    for kind, group in groups.items():
        best_one = best_setting(group)
        for rate in group:
            mark = "<- signers and sessions to set" if rate is best_one else ""
            speed = f"{rate.signatures_per_second:.0f}"
            table.print(kind, f"{rate.processes}", f"{rate.sessions}", speed, mark)


def print_issue_result(result: IssueResult, *, as_json: bool) -> None:
    """Print one result."""
    if as_json:
        fields = result._asdict()
        fields["latency"] = result.latency._asdict()
        fields["use"] = {kind: use._asdict() for kind, use in result.use.items()}
        print_json({**fields, "floor": result.floor, "share_of_floor": result.share_of_floor})
        return
    unit = "call" if not result.streams else f"message of {result.requests_per_message}"
    shown = {
        "certificates": f"{result.certificates}, over {result.streams or 'no'} stream(s)",
        "certificates per second": f"{result.certificates_per_second:.0f}",
    }
    if result.floor is not None:
        shown |= {
            "crypto floor": f"{result.floor:.0f} per second ({result.floor_before:.0f} before,"
            f" {result.floor_after:.0f} after)",
            "share of the floor": f"{result.share_of_floor:.2f}",
            "CA key, signers": f"{result.key_type}, {result.signers} with {result.sessions} session(s) each",
        }
    shown[f"latency of a {unit}"] = (
        f"p50 {result.latency.p50:.1f} ms, p95 {result.latency.p95:.1f} ms, p99 {result.latency.p99:.1f} ms"
    )
    for kind, use in result.use.items():
        label = f"{kind} ({use.processes})" if use.processes > 1 else kind
        shown[label] = (
            f"{use.microseconds_per_certificate:.0f} us of processor time per certificate,"
            f" at most {use.peak_mebibytes:.0f} MiB" + (" each" if use.processes > 1 else "")
        )
    if result.floor is not None:
        calls = result.calls_per_certificate
        missing = "not counted: pkcs11-spy is not installed (Debian: apt install opensc-pkcs11)"
        shown["PKCS#11 calls per certificate"] = missing if calls is None else f"{calls:.2f}"
    print_fields("Issuing", shown)
