"""Quotas: what a client may have now, whatever it had before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otahsm.access import Quotas, Use, come_back, corrected, given_back, share_of

SECOND = 1_000_000
DAY = 86_400 * SECOND
NOW = 20_000 * DAY + 12 * 3600 * SECOND

LIMIT = st.none() | st.integers(1, 50)
QUOTAS = st.builds(Quotas, LIMIT, LIMIT, LIMIT)
STEPS = st.lists(
    st.tuples(st.integers(0, 3 * SECOND) | st.integers(0, 2 * DAY), st.integers(1, 60)), max_size=30
)


@given(QUOTAS, STEPS)
def test_no_quota_is_ever_exceeded(quotas: Quotas, steps: list[tuple[int, int]]) -> None:
    use, now = Use(), NOW
    had: list[tuple[int, int]] = []
    for pause, requested in steps:
        now += pause
        share = share_of(quotas, use, requested, now)
        assert 0 <= share.granted <= requested
        assert (share.granted == requested) == (share.why == "")
        use = share.use
        had.append((now, share.granted))
    assert use.taken == sum(count for _, count in had)
    if quotas.total is not None:
        assert use.taken <= quotas.total
    if quotas.per_day is not None:
        for day in {moment // DAY for moment, _ in had}:
            assert sum(count for moment, count in had if moment // DAY == day) <= quotas.per_day
    if quotas.per_second is not None:
        for start, _ in had:
            for end, _ in had:
                if start <= end:  # a burst of one second's worth, and the rate
                    took = sum(count for moment, count in had if start <= moment <= end)
                    assert took <= quotas.per_second * (1 + (end - start) / SECOND) + 1e-6


@given(QUOTAS, STEPS)
def test_who_comes_back_when_told_gets_something(quotas: Quotas, steps: list[tuple[int, int]]) -> None:
    use, now = Use(), NOW
    for pause, requested in steps:
        now += pause
        share = share_of(quotas, use, requested, now)
        use = share.use
        if share.again_at is None:
            continue
        assert share.again_at > now or share.granted < requested
        later = share_of(quotas._replace(total=None), use, 1, max(share.again_at, now))
        again = later.again_at
        assert later.granted == 1 or (again is not None and again > share.again_at)  # another quota's turn


def test_a_rate_is_kept_up_by_who_asks_for_more() -> None:
    quotas, use, now, had = Quotas(per_second=100), Use(), NOW, 0
    while now < NOW + 10 * SECOND:
        share = share_of(quotas, use, 1000, now)
        use, had = share.use, had + share.granted
        assert share.again_at is not None
        now = share.again_at
    assert 1000 <= had <= 1100


def test_a_day_begins_at_midnight_utc() -> None:
    quotas = Quotas(per_day=10)
    use = share_of(quotas, Use(), 10, NOW).use
    refused = share_of(quotas, use, 1, NOW)
    assert refused.granted == 0
    assert refused.again_at == 20_001 * DAY
    assert share_of(quotas, use, 1, 20_001 * DAY - 1).granted == 0
    assert share_of(quotas, use, 11, 20_001 * DAY).granted == 10


def test_a_clock_that_is_behind_does_not_begin_the_day_anew() -> None:
    quotas = Quotas(per_day=10)
    use = share_of(quotas, Use(), 10, 20_001 * DAY).use
    assert share_of(quotas, use, 1, 20_001 * DAY - SECOND).granted == 0


def test_a_clock_that_was_ahead_closes_no_quota_and_gives_nobody_more() -> None:
    quotas = Quotas(per_second=10, per_day=10)
    use = share_of(quotas, Use(), 6, NOW + 3650 * DAY).use
    share = share_of(quotas, corrected(use, NOW), 10, NOW)
    assert share.granted == 4
    assert share.again_at == 20_001 * DAY
    tomorrow = NOW + DAY
    assert share_of(quotas, corrected(share.use, tomorrow), 10, tomorrow).granted == 10


def test_clocks_that_differ_a_little_change_no_quota() -> None:
    use = share_of(Quotas(per_second=1, per_day=10), Use(), 1, 20_001 * DAY).use
    assert corrected(use, 20_001 * DAY - SECOND) == use


def test_what_came_to_nothing_is_given_back_to_its_own_day() -> None:
    quotas = Quotas(per_day=10, total=15)
    use = share_of(quotas, Use(), 10, NOW).use
    today = NOW // DAY
    assert share_of(quotas, given_back(use, 4, today), 10, NOW).granted == 4
    yesterdays = given_back(use, 4, today - 1)
    assert share_of(quotas, yesterdays, 10, NOW).granted == 0
    assert yesterdays.taken == 6


def test_a_refusal_says_when_to_come_back() -> None:
    assert come_back("quota of 5 certificates a second", NOW + 200_000, NOW) == (
        "quota of 5 certificates a second; more will be available in 0.20 s",
        0.2,
    )
    text, seconds = come_back("quota of 10 certificates a day", 20_001 * DAY, NOW)
    assert text == "quota of 10 certificates a day; more will be available at 2024-10-05 00:00:00 UTC"
    assert seconds == 12 * 3600
    assert come_back("quota of 3", None, NOW) == ("quota of 3, and can't get more", None)
