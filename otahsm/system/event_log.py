"""The daemon's log, for those who only write to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

EventLogger: TypeAlias = Callable[[str, Mapping[str, int | str]], None]
"""Logs an event with its fields."""
