"""How many inputs a test draws that is about all of them."""

from __future__ import annotations

import os
from typing import Final

FULL: Final = "OTAHSM_TEST_EXAMPLES"


def examples(number: int, least: int = 20) -> int:
    """Return the number, or a fifth of it without the variable above, which `make soak` sets."""
    return number if FULL in os.environ else max(least, number // 5)
