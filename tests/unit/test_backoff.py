"""Pauses: short at first, longer while nothing works, and never the same for all."""

from __future__ import annotations

from otahsm.client.backoff import FIRST_PAUSE, LONGEST_PAUSE, Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff()
    longest = FIRST_PAUSE
    for _ in range(12):
        assert longest / 2 <= backoff.seconds() <= longest
        longest = min(2 * longest, LONGEST_PAUSE)
    assert longest == LONGEST_PAUSE


def test_lines_that_fail_together_do_not_come_back_together() -> None:
    assert len({Backoff().seconds() for _ in range(20)}) > 10


def test_after_progress_the_first_pause_is_short_again() -> None:
    backoff = Backoff()
    for _ in range(12):
        backoff.seconds()
    backoff.reset()
    assert backoff.seconds() <= FIRST_PAUSE
