"""Asks before a command does what can't be undone: shows the number and a sample, and wants the number typed.

A question that is answered with "yes" is answered with "yes" before it is read. A number has to be read.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import typer

from otahsm.cli.output.fields import printable
from otahsm.errors import NotConfirmedError

ExpectOption = Annotated[
    int | None,
    typer.Option(
        "--expect",
        metavar="N",
        min=0,
        max=10**12,
        help="The number that it would ask for: don't ask, but refuse if it is another.",
    ),
]

_FIRST: Final = 3
_MAX_TYPED: Final = 64


def confirm_number(
    what: str, number: int, sample: Sequence[str], expect: int | None, *, whole: bool = False
) -> None:
    """Print what will be done to standard error, and return if the number is confirmed.

    It is confirmed by typing exactly it on a terminal, or by `expect`.

    Args:
        what: what will be done, with the number, as in "revoke 3 certificates of the device a".
        number: how many are affected.
        sample: which they are, all of them or some; the first three and the last are shown.
        whole: whether to show all of the sample instead.
        expect: the value of --expect; None if it was not given.

    Raises:
        NotConfirmedError: another number was expected or typed, or there is no terminal to ask on.
    """
    typer.echo(printable(f"This will {what}."), err=True)
    for line in sample if whole else sampled(sample, number):
        typer.echo(f"  {printable(line)}", err=True)
    if expect is not None:
        if expect != number:
            raise NotConfirmedError(f"--expect says {expect}, but the number is {number}")
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotConfirmedError(
            f"this needs confirmation, and there is no terminal to ask on; the number is {number}",
            hint=f"Nothing was done. Check what is listed above, then add --expect {number}.",
        )
    typed = _typed(f"Type the number {number} to go on: ")
    if not typed:
        raise NotConfirmedError(f"no number was typed; it is {number}")
    if typed != str(number):
        raise NotConfirmedError(f"{typed[:_MAX_TYPED]!a} was typed, but the number is {number}")


def amount(number: int, noun: str) -> str:
    """Return a number as it is to be typed, with its noun: "1 device", "5000 devices"."""
    return f"{number} {noun if number == 1 else noun + 's'}"


def sampled(sample: Sequence[str], number: int) -> Iterator[str]:
    """Yield the first three lines of a sample and the last; `number` is how many things it is of."""
    yield from sample[:_FIRST]
    if len(sample) > _FIRST:
        if number > _FIRST + 1:
            yield "..."
        yield sample[-1]


def _typed(question: str) -> str:
    """Ask, and return the line that is typed, without blanks around it; empty at the end of input."""
    # asyncio's handler would only note Ctrl-C, and the line would be waited for all the same.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        typer.echo(question, err=True, nl=False)
        line: bytes = sys.stdin.buffer.readline()
    finally:
        signal.signal(signal.SIGINT, before)
    if not line.endswith(b"\n"):
        typer.echo(err=True)  # the end of input leaves the cursor in the line of the question
    return line.decode(errors="replace").strip()
