"""A short storm, always the same one; `make soak` makes long ones, and draws what they do."""

from __future__ import annotations

import random

import pytest

from soak.storm import Storm
from support.tokens.faulty import FaultyToken


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_whatever_is_killed_all_that_was_received_or_signed_is_in_the_ledger(
    faulty: FaultyToken, request: pytest.FixtureRequest, engine: str
) -> None:
    server = request.getfixturevalue("postgres_server_of_my_own") if engine == "postgresql" else None
    storm = Storm(faulty, server, 300, random.Random(7))
    storm.rage(6)
    storm.check()
    assert storm.killed.total() == 6
