"""`otahsm ledger backup` and `restore`: the SQLite ledger, copied."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.commands.ledger.accept import accept_as_it_is
from otahsm.cli.commands.ledger.evidence import trusted_keys
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, NewFileOption
from otahsm.cli.output.failures import warn
from otahsm.cli.output.fields import print_outcome
from otahsm.cli.output.files import new_path
from otahsm.cli.output.times import show_time
from otahsm.cli.settings import load_config
from otahsm.config import section
from otahsm.ledger import Copy, copy_ledger, path_of, vacant
from otahsm.system.clock import from_microseconds
from otahsm.templates import counted
from otahsm.token.configured import mandate_of
from otahsm.token.desk.beginning import check_reason, check_user


def backup(
    out: NewFileOption,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Copy the SQLite ledger that [ledger] names, as it is at this moment, even while a daemon issues.

    The file gets its name when it is complete, checked (every page, every index, every row) and on the disk.
    It has every certificate that was released before the command began. The ledger's -wal file grows
    meanwhile: leave room for what is issued while the copy is made.

    \b
    Example:
      otahsm ledger backup --output /backup/ledger-2026-11-23.sqlite3
    """  # noqa: D301 - click reads the character, not the escape
    source = path_of(section(load_config(config).ledger, "ledger"))
    with new_path(out) as temporary:
        copy = copy_ledger(source, temporary)
    print_outcome(f"{out}: {_told(copy)}", as_json=as_json, file=str(out), **copy._asdict())


def restore(
    source: Annotated[Path, typer.Option("--from", help="A file from `otahsm ledger backup`.")],
    reason: Annotated[
        str | None,
        typer.Option(
            help="Why: then the signers of this machine go on from it, as with `otahsm ledger accept`."
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Restore a backup to the file that [ledger] names. Never overwrites; refuses while a daemon uses it.

    The daemon won't know what was issued since the backup. Before you start it, follow the security team's
    guide, section Backup.

    \b
    Example:
      otahsm ledger restore --from /backup/ledger-2026-11-23.sqlite3
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_config(config)
    target = path_of(section(settings.ledger, "ledger"))
    if reason is not None:  # before anything is changed
        check_reason(reason)
        check_user(mandate_of(settings).folder)
    with vacant(target), new_path(target) as temporary:
        copy = copy_ledger(source, temporary)
    print_outcome(f"{target}: {_told(copy)}", as_json=as_json, file=str(target), **copy._asdict())
    newest = (
        "is none"
        if copy.newest_at is None
        else f"was recorded at {show_time(from_microseconds(copy.newest_at))}"
    )
    warn(
        f"the newest certificate in it {newest}. The daemon will issue a second certificate to"
        " devices that got theirs since. See the security team's guide, Backup, before you start it."
    )
    if reason is None:
        warn(
            "signers sign no CRL and no checkpoint that lacks what they signed since. When you have decided"
            " to go on from this copy, run on each machine with signers, as root or their user: otahsm ledger"
            f' accept --config {shlex.quote(str(config.absolute()))} --reason "..."'
        )
        return
    found, _ = accept_as_it_is(settings, trusted_keys(None, settings.checkpoint), reason)
    typer.echo(f"The signers of this machine go on from {found.title}.", err=True)


def _told(copy: Copy) -> str:
    return (
        f"{counted(copy.certificates, 'certificate')}, {copy.void} void, {copy.open} open;"
        f" {copy.octets / 2**20:.1f} MiB, complete and checked"
    )
