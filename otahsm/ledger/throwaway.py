"""A ledger for a bench: empty, on the same disk or server, and deleted at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from otahsm.config import LedgerConfig
from otahsm.ledger.db.postgres import throwaway_schema
from otahsm.ledger.mac_key_file import create_mac_key


@contextmanager
def throwaway(config: LedgerConfig) -> Iterator[LedgerConfig]:
    """Create an empty ledger with a key of its own on the same disk or server, and delete it at the end.

    Raises:
        ConfigError: the configuration is invalid.
        LedgerUnavailableError: it can't be created.
    """
    if config.url is not None:
        with (
            throwaway_schema(config.url, config.password_file) as url,
            tempfile.TemporaryDirectory(prefix="otahsm-bench-") as name,
        ):
            yield _with_key(config.model_copy(update={"url": url}), Path(name))
        return
    assert config.path is not None  # noqa: S101 - the configuration was validated
    config.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=config.path.parent) as name:
        yield _with_key(config.model_copy(update={"path": Path(name, "ledger.sqlite3")}), Path(name))


def _with_key(config: LedgerConfig, folder: Path) -> LedgerConfig:
    own = config.model_copy(update={"key_file": folder / "ledger.key"})
    create_mac_key(own)
    return own
