"""`otahsm ledger` where the ledger is: what works on the database itself, with or without a daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from otahsm.cli.ledger import AfterOption, moment_of
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption

if TYPE_CHECKING:
    from otahsm.client import LedgerEntry
    from otahsm.config import Config
    from otahsm.ledger import Copy, Entry, Filter, LedgerReader

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SIGNING_SECONDS: Final = 90.0  # where there is no [token] that says how long


class ReportFormat(StrEnum):
    """Formats of a report, as choices on the command line."""

    TEXT = "text"
    CSV = "csv"
    JSONL = "jsonl"


def reconcile(
    form: Annotated[ReportFormat, typer.Option("--format", help="How to write them.")] = ReportFormat.TEXT,
    after: AfterOption = "",
    open_seconds: Annotated[
        float | None,
        typer.Option(min=0, help="How long one may be open. Default: what a signature may take, twice."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show every serial number that was intended and never released: what is open, then what was voided.

    Reads the database that [ledger] names, with or without a daemon, and changes nothing. Exits with 1 if
    something is open for longer than a signature may take: no daemon runs, or it is stuck.

    \b
    Examples:
      otahsm ledger reconcile
      otahsm ledger reconcile --format csv > never-released.csv
    """  # noqa: D301 - click reads the character, not the escape
    from otahsm.cli.files import standard_output
    from otahsm.cli.ledger_text import FORMS
    from otahsm.config import load_config, section
    from otahsm.ledger import Filter, LedgerReader, Status

    settings = load_config(config)
    milliseconds = int(moment_of(after, "--after").timestamp() * 1000) if after else None
    limit = _signing_seconds(settings) if open_seconds is None else open_seconds
    head, write = FORMS[form.value]
    reader = LedgerReader(section(settings.ledger, "ledger"))
    reader.check()
    counts = {Status.OPEN: 0, Status.VOID: 0}
    oldest = 0.0
    with standard_output() as out:
        out.write(head)
        for entry in _never_released(reader, Filter(after=milliseconds)):
            out.write(write(_as_client_sees_it(entry)))
            counts[entry.status] += 1
            if entry.status is Status.OPEN:
                oldest = max(oldest, time.time() - entry.intended_at / 1e6)
    reader.close()
    said = f"{counts[Status.OPEN]} open, {counts[Status.VOID]} void"
    if oldest > limit:
        typer.echo(f"{said}; one is open for {oldest:.0f} s, and a signature takes {limit:.0f} s", err=True)
        raise typer.Exit(1)
    typer.echo(said, err=True)


def backup(
    out: Annotated[Path, typer.Option("--output", help="A new file.")],
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Copy the SQLite ledger that [ledger] names, as it is at this moment, also while a daemon issues.

    The file gets its name when it is complete, checked (every page, every index, every row) and on the disk.
    It holds every certificate that was released before the command began. Meanwhile the ledger's -wal file
    grows: leave room for as much as is issued while the copy is made.

    \b
    Example:
      otahsm ledger backup --output /backup/ledger-2026-11-23.sqlite3
    """  # noqa: D301 - click reads the character, not the escape
    from otahsm.cli.files import new_path
    from otahsm.cli.tables import tell
    from otahsm.config import load_config, section
    from otahsm.ledger import copy_ledger, path_of

    source = path_of(section(load_config(config).ledger, "ledger"))
    with new_path(out) as temporary:
        copy = copy_ledger(source, temporary)
    tell(f"{out}: {_told(copy)}", as_json=as_json, file=str(out), **copy._asdict())


def restore(
    source: Annotated[Path, typer.Option("--from", help="A file that `otahsm ledger backup` made.")],
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Put a backup where [ledger] has its file. Never overwrites, and refuses while a daemon runs there.

    The daemon will not know what was issued since the backup was made: the security team's guide says what
    to do before it is started.

    \b
    Example:
      otahsm ledger restore --from /backup/ledger-2026-11-23.sqlite3
    """  # noqa: D301 - click reads the character, not the escape
    from otahsm.cli.files import new_path
    from otahsm.cli.tables import tell
    from otahsm.config import load_config, section
    from otahsm.ledger import copy_ledger, path_of, vacant

    target = path_of(section(load_config(config).ledger, "ledger"))
    with vacant(target), new_path(target) as temporary:
        copy = copy_ledger(source, temporary)
    tell(f"{target}: {_told(copy)}", as_json=as_json, file=str(target), **copy._asdict())
    newest = (
        "is none"
        if copy.newest_at is None
        else f"was recorded at {_moment(copy.newest_at):%Y-%m-%d %H:%M:%S} UTC"
    )
    typer.secho(
        f"WARNING: the newest certificate in it {newest}. The daemon will issue a second certificate for"
        " devices that got theirs since. See the security team's guide, Backup, before you start it.",
        fg=typer.colors.RED,
        err=True,
    )


def _never_released(reader: LedgerReader, wanted: Filter) -> Iterator[Entry]:
    from otahsm.ledger import Status

    shown = set()  # what is open may be voided before the voided ones are read
    for entry in reader.everything(wanted._replace(status=Status.OPEN)):
        shown.add(entry.serial)
        yield entry
    for entry in reader.everything(wanted._replace(status=Status.VOID)):
        if entry.serial not in shown:
            yield entry


def _signing_seconds(settings: Config) -> float:
    """Return how long an intent may be open: a batch is tried twice, and each time waits for a signer."""
    if settings.token is None:
        return _SIGNING_SECONDS
    return 2 * (settings.token.sign_timeout_seconds + settings.issuance.wait_for_signer_seconds)


def _as_client_sees_it(entry: Entry) -> LedgerEntry:
    from otahsm.client import LedgerEntry

    return LedgerEntry(
        entry.serial,
        entry.status.value,
        entry.device_id,
        entry.profile,
        entry.client,
        entry.client_certificate_sha256,
        entry.request_id,
        entry.spki_sha256,
        entry.tbs_sha256,
        _moment(1_000_000 * entry.not_before),
        _moment(1_000_000 * entry.not_after),
        _moment(entry.intended_at),
        None if entry.recorded_at is None else _moment(entry.recorded_at),
        None if entry.voided_at is None else _moment(entry.voided_at),
        entry.void_reason or "",
        entry.certificate or b"",
    )


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _told(copy: Copy) -> str:
    return (
        f"{copy.certificates} certificates, {copy.void} void, {copy.open} open;"
        f" {copy.octets / 2**20:.1f} MiB, whole and checked"
    )
