"""The report on a batch, as a self-contained HTML page and as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Final

from otahsm.client.batches import Batch
from otahsm.client.ledger import LedgerEntry
from otahsm.client.values import Refusal
from otahsm.line.throughput import throughput_svg
from otahsm.system.clock import rfc3339

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; }
td, th { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top; }
code, pre { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
svg line { stroke: currentColor; } svg .bars { fill: #2f6fab; }
"""


@dataclass(slots=True)
class Tally:
    """Statistics of the certificates in a batch.

    Attributes:
        issued: the number of certificates.
        seconds: the number of certificates per second of the Unix epoch.
        clients: the number of certificates per client.
        first, last: the first and the last certificate.
    """

    issued: int = 0
    seconds: Counter[int] = field(default_factory=Counter)
    clients: Counter[str] = field(default_factory=Counter)
    first: LedgerEntry | None = None
    last: LedgerEntry | None = None

    def add(self, entry: LedgerEntry) -> None:
        """Count a certificate, if it was issued."""
        if entry.issued_at is None:
            return
        self.issued += 1
        self.seconds[int(entry.issued_at.timestamp())] += 1
        self.clients[entry.client] += 1
        if self.first is None or entry.serial < self.first.serial:
            self.first = entry
        if self.last is None or entry.serial > self.last.serial:
            self.last = entry


def report_html(
    batch: Batch, tally: Tally, failures: Sequence[tuple[str, Refusal]], checkpoint: str, now: datetime
) -> str:
    """Return the report as HTML.

    Args:
        batch: the batch.
        tally: its statistics.
        failures: device ids or CSRs of this folder, and why they were refused.
        checkpoint: the ledger's latest signed checkpoint; empty if it has none.
        now: the time of the report.
    """
    title = f"Batch {batch.name}"
    missing = batch.device_count - tally.issued
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>",
        f"<body><h1>{escape(title)}</h1>",
        f"<p>{tally.issued:,} of {batch.device_count:,} certificates, {missing:,} missing.</p>",
        f"<p>{len(failures):,} failures in this folder. Made on {_time(now)}.</p>",
        _table(_ordered(batch)),
        "<h2>Issued</h2>",
        _table(_issued(tally)),
        "<h2>Certificates a second</h2>",
        throughput_svg(tally.seconds) or "<p>None yet.</p>",
        "<h2>Failures</h2>",
        _failures(failures),
        "<h2>Checkpoint</h2>",
        "<p>The ledger's signed tree when this report was made.</p>",
        f"<pre>{escape(checkpoint)}</pre>" if checkpoint else "<p>The ledger has none.</p>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _ordered(batch: Batch) -> Mapping[str, str]:
    return {
        "profile": batch.profile,
        "devices": f"{batch.device_count:,}",
        "device ids": f"{batch.scheme.kind} {batch.scheme.value}".strip(),
        "deadline": _time(batch.deadline),
        "clients": ", ".join(batch.clients) or "any",
        "ordered": f"{_time(batch.created_at)} by {batch.created_by}",
        "closed": _time(batch.closed_at),
    }


def _issued(tally: Tally) -> Mapping[str, str]:
    fields = {}
    for name, entry in (("first", tally.first), ("last", tally.last)):
        if entry is not None:
            fields[f"{name} serial number"] = entry.serial.hex()
            fields[f"{name} issued"] = f"{_time(entry.issued_at)} for {entry.device_id}"
    fields |= {f"by {client}": f"{count:,}" for client, count in tally.clients.most_common()}
    return fields or {"certificates": "none"}


def _failures(failures: Sequence[tuple[str, Refusal]]) -> str:
    if not failures:
        return "<p>None.</p>"
    reasons = Counter(refusal.reason for _, refusal in failures)
    summary = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.most_common())
    rows = (
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(refusal.reason)}</td>"
        f"<td>{escape(refusal.message)}</td></tr>"
        for name, refusal in failures
    )
    head = "<tr><th>device</th><th>reason</th><th>message</th></tr>"
    return f"<p>{escape(summary)}</p><table>{head}{''.join(rows)}</table>"


def _table(fields: Mapping[str, str]) -> str:
    rows = (
        f"<tr><th>{escape(name)}</th><td><code>{escape(value)}</code></td></tr>"
        for name, value in fields.items()
        if value
    )
    return f"<table>{''.join(rows)}</table>"


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def report_row(entry: LedgerEntry) -> Sequence[str]:
    """Return a row of the CSV: device, serial number, status, time of issuance, expiry, client."""
    return (
        entry.device_id,
        entry.serial.hex(),
        entry.status,
        "" if entry.issued_at is None else rfc3339(entry.issued_at),
        rfc3339(entry.not_after),
        entry.client,
    )
