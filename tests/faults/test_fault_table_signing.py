"""Every code that C_Sign may return: the daemon recovers alone, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.tokens.fault_table import SIGNING, Serving, check_recovery


@pytest.mark.parametrize("name", SIGNING)
async def test_it_recovers_alone_and_nothing_is_lost(
    impatient: Serving, name: str, record_property: Callable[[str, object], None]
) -> None:
    await check_recovery(SIGNING[name], impatient, record_property)
