"""The signers' journals, for `otahsm ledger verify`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from otahsm.cli.output.times import show_time
from otahsm.ledger import Comparison, Period, Signatures, Verdict
from otahsm.system.clock import from_microseconds, microseconds, rfc3339, utc_now
from otahsm.templates import counted
from otahsm.token.desk.journal_reading import MachineJournal, SignedCertificate, SignedCrl


class Journals(NamedTuple):
    """The journals of all machines, as far as they have been read.

    Attributes:
        machines: one for each.
        covered: the time of which they have every signature.
        gaps: times of which some may be missing.
    """

    machines: Sequence[MachineJournal]
    covered: Period
    gaps: Sequence[Period]


class Compared(NamedTuple):
    """What journals were compared with the ledger, and with what result."""

    journals: Journals
    result: Comparison
    signed: Signatures

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        begin, end = (rfc3339(from_microseconds(at)) for at in self.journals.covered)
        return {
            "machines": len(self.journals.machines),
            "begin": begin,
            "end": end,
            "certificates": self.signed.certificates,
            "crls": len(self.signed.crls),
            "checkpoints": len(self.signed.checkpoints),
            "certificates_in_gaps": self.result.in_gaps,
            "crls_replaced": self.result.older_crls,
            "refused": sum(machine.refused for machine in self.journals.machines),
        }

    def lines(self) -> Iterator[str]:
        """Yield it in words."""
        machines, (begin, end), _ = self.journals
        period = f"from {show_time(from_microseconds(begin))} to {show_time(from_microseconds(end))}"
        yield (
            f"{counted(len(machines), 'journal')} {period}:"
            f" {counted(self.signed.certificates, 'certificate')},"
            f" {counted(len(self.signed.crls), 'CRL')} and"
            f" {counted(len(self.signed.checkpoints), 'checkpoint')} signed"
        )
        if self.result.in_gaps:
            yield (
                f"{counted(self.result.in_gaps, 'certificate')} in no journal, of times of which entries may"
                " be missing"
            )
        for machine in machines:
            for gap in machine.gaps:
                since, until = map(show_time, gap)
                yield f"{machine.folder}: the machine was down: entries may be missing, {since} to {until}"
            for reason in machine.accepted:
                yield f"{machine.folder}: accepted {reason}"
            if machine.refused:
                times = counted(machine.refused, "request")
                yield f"{machine.folder}: SIGNERS REFUSED {times}; the last: {machine.last_refusal}"


def read_journals(folders: Sequence[Path], signed: Signatures, verdict: Verdict) -> Journals:
    """Read journals; what is wrong with their files is added to the verdict.

    Raises:
        ConfigError: there is no journal in a folder, or it can't be read.
    """
    now = utc_now()
    machines = [MachineJournal(folder) for folder in folders]
    for machine in machines:
        for entry in machine.entries():
            if isinstance(entry, SignedCertificate):
                signed.add_certificate(*entry)
            elif isinstance(entry, SignedCrl):
                signed.crls.append(entry)
            else:
                signed.checkpoints.add((entry.size, entry.root))
        for where, what in machine.findings:
            verdict.find(where, what)
    begins = [machine.begins for machine in machines if machine.begins is not None]
    ends = [machine.ends for machine in machines if machine.ends is not None]
    covered = Period(microseconds(min(begins, default=now)), microseconds(min([now, *ends])))
    gaps = [Period(*map(microseconds, gap)) for machine in machines for gap in machine.gaps]
    return Journals(machines, covered, gaps)
