"""A bar on a terminal. Loading this takes as long as a command's whole connection: pipes do without."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """A bar at the foot of standard error. What is said meanwhile appears above it.

    Args:
        what: what is counted, in the plural.
        total: how many there will be.
    """

    def __init__(self, what: str, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f}/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True, soft_wrap=True, highlight=False, emoji=False),
        )
        self._task = self._progress.add_task(what, total=total, rate=0.0)
        self.start, self.stop = self._progress.start, self._progress.stop

    def show(self, done: int, rate: float) -> None:
        """Show how many there are, and the rate in a second."""
        self._progress.update(self._task, completed=done, rate=rate)

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self._progress.console.print(text, markup=False)
