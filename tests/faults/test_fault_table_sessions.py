"""Lost sessions, wrong signatures, crashes, hangs: the daemon recovers alone, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.tokens.fault_table import OTHERS, Serving, check_recovery


@pytest.mark.parametrize("name", OTHERS)
async def test_it_recovers_alone_and_nothing_is_lost(
    impatient: Serving, name: str, record_property: Callable[[str, object], None]
) -> None:
    await check_recovery(OTHERS[name], impatient, record_property)
