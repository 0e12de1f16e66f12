"""What a new signer meets, while the old ones are gone: the daemon recovers alone, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.tokens.fault_table import STARTING, Serving, check_recovery


@pytest.mark.parametrize("name", STARTING)
async def test_it_recovers_alone_and_nothing_is_lost(
    impatient: Serving, name: str, record_property: Callable[[str, object], None]
) -> None:
    await check_recovery(STARTING[name], impatient, record_property)
