"""The signers' journals, for `otahsm ledger verify`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from otahsm.cli.output.times import show_time
from otahsm.ledger import Comparison, Period, Signatures, SignedList, Verdict
from otahsm.system.clock import from_microseconds, microseconds, rfc3339, utc_now
from otahsm.templates import counted
from otahsm.token.desk.journal_reading import (
    Acceptance,
    MachineJournal,
    SignedCertificate,
    SignedCheckpoint,
    SignedCrl,
)

_SHOWN: Final = 5


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

    @property
    def is_complete(self) -> bool:
        """Whether everything in the ledger could be compared."""
        return not (self.result.not_covered or self.result.in_gaps)

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
            "crls_replaced": self.result.older_crls,
            "not_covered": self.result.not_covered,
            "in_gaps": self.result.in_gaps,
            "void": self.result.void_count,
            "first_void": self.result.void,
            "lost": self.result.lost_count,
            "first_lost": self.result.lost,
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
        result = self.result
        if result.not_covered:
            yield f"NOT COMPARED: {counted(result.not_covered, 'row')} of the ledger's of other times"
        if result.in_gaps:
            yield f"NOT COMPARED: {counted(result.in_gaps, 'row')} of times of which entries may be missing"
        if result.void_count:
            yield (
                "signed and then voided, so that nobody should have them:"
                f" {_some(result.void, result.void_count)}"
            )
        if result.lost_count:
            yield (f"accepted as lost with `otahsm ledger accept`: {_some(result.lost, result.lost_count)}")
        for machine in machines:
            yield from _of_machine(machine)


def _of_machine(machine: MachineJournal) -> Iterator[str]:
    for gap in machine.gaps:
        since, until = map(show_time, gap)
        yield (
            f"{machine.folder}: the machine went down, or its clock was set: entries may be missing, {since}"
            f" to {until}"
        )
    for number, how in enumerate(machine.begun):
        if number or not how.startswith("begun "):  # every journal begins so
            yield f"{machine.folder}: {how}"
    for reason in machine.accepted:
        yield f"{machine.folder}: accepted {reason}"
    if machine.refused:
        times = counted(machine.refused, "request")
        yield f"{machine.folder}: SIGNERS REFUSED {times}; the last: {machine.last_refusal}"


def _some(names: Sequence[str], count: int) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if count <= _SHOWN else f"{shown} and {count - _SHOWN} more (--json lists {len(names)})"


def read_journals(folders: Sequence[Path], signed: Signatures, verdict: Verdict) -> Journals:
    """Read journals; what is wrong with their files is added to the verdict.

    Raises:
        ConfigError: there is no journal in a folder, or it can't be read.
    """
    now = utc_now()
    machines = [MachineJournal(folder) for folder in folders]
    for number, machine in enumerate(machines):
        others: list[SignedList | tuple[int, bytes]] = []
        for entry in machine.entries():
            match entry:
                case SignedCertificate():
                    signed.add_certificate(*entry, machine=number)
                case SignedCrl():
                    others.append(SignedList(*entry))
                case SignedCheckpoint():
                    others.append((entry.size, entry.root))
                case Acceptance():
                    signed.accept(number, others)
        signed.crls += [other for other in others if isinstance(other, SignedList)]
        signed.checkpoints.update(other for other in others if not isinstance(other, SignedList))
        verdict.add(machine.findings, machine.found)
    return Journals(machines, _covered(machines, now), _gaps(machines))


def _covered(machines: Sequence[MachineJournal], now: datetime) -> Period:
    """Return from when to when every signature is in a journal.

    From the time when the first journal was begun: a machine without one must not sign. A journal whose first
    files were moved away is known from its own beginning.
    """
    whole = [machine.begins for machine in machines if machine.is_whole and machine.begins]
    others = [machine.begins or now for machine in machines if not machine.is_whole]
    begin = max([*([min(whole)] if whole else []), *others], default=now)
    end = min([now, *(machine.ends for machine in machines if machine.ends is not None)])
    return Period(microseconds(begin), microseconds(end))


def _gaps(machines: Sequence[MachineJournal]) -> list[Period]:
    return [Period(*map(microseconds, gap)) for machine in machines for gap in machine.gaps]
