"""Gives memory that was freed back to the system, which the C library would keep."""

from __future__ import annotations

import ctypes


def give_back() -> bool:
    """Return whether freed memory was given back: malloc_trim(3), which only glibc has.

    After a burst, glibc keeps what was freed for the next one: gigabytes, for ever.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
