"""Reads lock files: what they pin, for which systems, and the hashes that are accepted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name

_HASH: Final = re.compile(r"\s+--hash=(sha256:[0-9a-f]{64})")


class LockError(Exception):
    """A lock file has a line that doesn't pin a package with hashes."""


@dataclass(frozen=True)
class Pin:
    """A package that a lock file pins.

    Attributes:
        name: normalized, as PEP 503 says.
        version: the exact version.
        marker: where it is installed; everywhere, if there is none.
        hashes: of the files that are accepted, `sha256:` and 64 hexadecimal digits.
    """

    name: NormalizedName
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]

    @property
    def here(self) -> bool:
        """Whether this system is one where it is installed."""
        return self.marker is None or self.marker.evaluate()

    def line(self) -> str:
        """Write it as a line of a requirements file, for whichever system."""
        return f"{self.name}=={self.version} " + " ".join(f"--hash={one}" for one in self.hashes)


def read_lock(path: Path) -> Sequence[Pin]:
    """Read a lock file.

    Raises:
        LockError: a line has no exact version, no hash, or something else.
    """
    joined = path.read_text().replace("\\\n", " ")
    return [_pin(line, path) for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def _pin(line: str, path: Path) -> Pin:
    hashes = tuple(_HASH.findall(line))
    try:
        requirement = Requirement(_HASH.sub("", line))
    except InvalidRequirement as error:
        raise LockError(f"{path}: {error}") from error
    exact = re.fullmatch(r"==([^*,]+)", str(requirement.specifier))
    if exact is None or requirement.url or not hashes:
        raise LockError(f"{path}: {requirement} is not an exact version with hashes")
    return Pin(canonicalize_name(requirement.name), exact[1], requirement.marker, hashes)
