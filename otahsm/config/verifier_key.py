"""Reads the public key that checkpoints of the ledger are verified with: one line."""

from __future__ import annotations

from pathlib import Path

from otahsm.config.token import CheckpointConfig
from otahsm.errors import ConfigError, EvidenceError
from otahsm.system.files import PLAIN, Files
from otahsm.tlog import VerifierKey


def read_verifier_key(
    path: Path, what: str, *, hint: str = "Check the path.", files: Files = PLAIN
) -> VerifierKey:
    """Read a key; `what` names it in errors. Raises ConfigError: the file can't be read, or has none."""
    line = files.read(path, f"{what} {path}", hint=hint).decode(errors="replace").removesuffix("\n")
    try:
        return VerifierKey.parse(line)
    except EvidenceError as error:
        raise ConfigError(f"{what} {path}: {error.message}") from None


def load_verifier_key(config: CheckpointConfig, files: Files = PLAIN) -> VerifierKey:
    """Read the key of this log. Raises ConfigError: as `read_verifier_key`, or it is another log's."""
    what, hint = "[checkpoint] verifier_key", "Create the key with `otahsm ledger init-key`."
    key = read_verifier_key(config.verifier_key, what, hint=hint, files=files)
    if key.name != config.origin:
        raise ConfigError(f"{what} {config.verifier_key} is for the log {key.name}, not {config.origin}")
    return key
