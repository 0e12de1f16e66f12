"""What Hypothesis asks the cycle for, when, and what fails meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from hypothesis import strategies as st

from otahsm.ledger import Renewal
from otahsm.pki.profile import Profile

from support.authority import CA_LIFE
from support.cycle.cycle_model import Asked

PROFILES = {
    "plain": Profile(),
    "renewing": Profile(renewal=timedelta(days=30), rekey=timedelta(days=10)),
}
RENEWALS = {"renewing": Renewal(30 * 86400, 10 * 86400)}
DEVICES, KEYS, NAMES = ("a", "b", "c"), range(4), ("", "", "", "n", "m")
START = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)


class Fault(NamedTuple):
    """What goes wrong in one run of the cycle.

    Attributes:
        at: "journal", "token", "record", or "void": then the token has failed, too.
        after: whether the commit is made, and only its answer lost.
        kills: whether the daemon ends there.
    """

    at: str
    after: bool
    kills: bool

    @property
    def commit(self) -> int:
        """Which of the cycle's commits fails, from 1; 0 for none."""
        return {"journal": 1, "token": 0, "record": 2, "void": 2}[self.at]

    @property
    def token_fails(self) -> bool:
        return self.at in {"token", "void"}


FAULTS = st.builds(
    Fault,
    at=st.sampled_from(["journal", "token", "record", "void"]),
    after=st.booleans(),
    kills=st.booleans(),
)
MOMENTS: st.SearchStrategy[datetime | timedelta] = st.sampled_from(
    [timedelta(seconds=1)] * 8
    + [timedelta(days=days) for days in (1, 340, 366, -1, -300)]
    + [end + timedelta(seconds=seconds) for end in CA_LIFE for seconds in (-1, 0, 1)]
)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """Mostly a device asks for its own key."""
    device = draw(st.sampled_from(DEVICES))
    key = draw(st.sampled_from([DEVICES.index(device)] * 3 + list(KEYS)))
    sound = draw(st.sampled_from([True] * 9 + [False]))
    return Asked(device, key, draw(st.sampled_from(tuple(PROFILES))), draw(st.sampled_from(NAMES)), sound)


BATCHES = st.lists(asked(), min_size=1, max_size=5)
