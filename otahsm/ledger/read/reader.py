"""Queries on the ledger: certificates, counts, batches and events."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from otahsm.access import Denied, Use
from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError, LedgerDamagedError, LedgerUnavailableError
from otahsm.ledger.act_values import Act
from otahsm.ledger.db.failures import cause_of, reading
from otahsm.ledger.db.read_only import read_only_engine
from otahsm.ledger.migrations import NEWEST, is_usable
from otahsm.ledger.query_values import (
    START,
    CertificateRecord,
    EventFilter,
    EventPage,
    Filter,
    Page,
    Tally,
)
from otahsm.ledger.read import act_page, batch_page, certificate_page, clients, event_page
from otahsm.ledger.records import BatchState
from otahsm.ledger.shape.check import refuse_tampered
from otahsm.pki.serial import SerialNumber


class LedgerReader:
    """Reads a ledger over its own read-only connection.

    For one thread at a time. Every method raises LedgerUnavailableError if the ledger can't be read.

    Args:
        config: the ledger.

    Raises:
        ConfigError: the configuration is invalid.
    """

    def __init__(self, config: LedgerConfig) -> None:
        self._engine = read_only_engine(config)
        self._name = str(config.path) if config.url is None else "[ledger] url"

    def check(self) -> None:
        """Check that this version can read the ledger.

        Raises:
            ConfigError: it does not exist, or has the schema of another version.
        """
        try:
            with self._reading() as connection:
                version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
                usable = is_usable(connection, version)
        except LedgerDamagedError:
            raise
        except LedgerUnavailableError as error:
            raise ConfigError(
                f"{self._name} is not a readable ledger: {cause_of(error.__cause__)}",
                hint="Run this on the ledger's machine. `otahsm serve` creates the ledger.",
            ) from error
        if not usable:
            raise ConfigError(
                f"the ledger {self._name} has the schema {version}, but this otahsm needs {NEWEST}",
                hint="Start `otahsm serve` once to update it, or use the version of otahsm that created it.",
            )

    def check_shape(self) -> None:
        """Check that nobody changed the tables. Raises LedgerTamperedError."""
        with self._reading() as connection:
            refuse_tampered(connection, self._name)

    def by_serial(self, serial: SerialNumber) -> CertificateRecord | None:
        """Return the record with a serial number."""
        with self._reading() as connection:
            return certificate_page.by_serial(connection, serial)

    def by_device(self, device_id: str, profile: str) -> CertificateRecord | None:
        """Return a device's current record under a profile: neither voided nor superseded."""
        with self._reading() as connection:
            return certificate_page.by_device(connection, device_id, profile)

    def page(self, criteria: Filter, after: bytes = START, *, size: int, full: bool = False) -> Page:
        """Return the records that follow a key: see `certificate_page.page`."""
        with self._reading() as connection:
            return certificate_page.page(connection, criteria, after, size, full=full)

    def batch(self, name: str) -> BatchState | None:
        """Return a batch and its progress; None if it does not exist."""
        with self._reading() as connection:
            return batch_page.state(connection, name)

    def batches(self, after: int, size: int, *, newest_first: bool = False) -> list[BatchState]:
        """Return batches and their progress: see `batch_page.page`."""
        with self._reading() as connection:
            return batch_page.page(connection, after, size, newest_first=newest_first)

    def events(self, criteria: EventFilter, after: int, size: int) -> EventPage:
        """Return the events that follow an id: see `event_page.page`."""
        with self._reading() as connection:
            return event_page.page(connection, criteria, after, size)

    def acts(self, after: int, size: int, *, open_at: int | None = None) -> list[Act]:
        """Return held acts that follow an id: see `act_page.page`."""
        with self._reading() as connection:
            return act_page.page(connection, after, size, open_at=open_at)

    def acts_among(self, act_ids: Collection[int]) -> list[Act]:
        """Return those of some held acts that exist, in order of their ids."""
        with self._reading() as connection:
            return act_page.among(connection, act_ids)

    def quota_uses(self) -> dict[str, Use]:
        """Return what every client that has quotas has used, by its name in the policy then."""
        with self._reading() as connection:
            return clients.all_uses(connection)

    def denied(self) -> list[Denied]:
        """Return all denials."""
        with self._reading() as connection:
            return clients.all_denied(connection)

    def count(self, criteria: Filter, after: bytes = START) -> Tally:
        """Count the next records after a key: see `certificate_page.count`."""
        with self._reading() as connection:
            return certificate_page.count(connection, criteria, after)

    def everything(
        self, criteria: Filter, *, size: int = 1000, full: bool = False
    ) -> Iterator[CertificateRecord]:
        """Yield all matching records, page by page."""
        after: bytes | None = START
        while after is not None:
            records, after = self.page(criteria, after, size=size, full=full)
            yield from records

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with reading(self._name), self._engine.begin() as connection:
            yield connection
