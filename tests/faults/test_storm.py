"""A short storm; `make soak` makes a long one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from harness import Fleet
from storm import Storm


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_whatever_is_killed_every_device_has_exactly_one_certificate(
    make_fleet: Callable[[], Fleet], request: pytest.FixtureRequest, engine: str
) -> None:
    server = request.getfixturevalue("postgres_server_of_my_own") if engine == "postgresql" else None
    storm = Storm(make_fleet(), server, 300, random.Random())
    storm.check(storm.rage(10))
    assert sum(storm.killed.values()) == 10
