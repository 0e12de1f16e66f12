"""`otahsm ledger backup` and `restore`: the SQLite ledger, copied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, NewFileOption
from otahsm.cli.output.failures import warn
from otahsm.cli.output.fields import tell
from otahsm.cli.output.files import new_path
from otahsm.cli.output.times import from_microseconds, show_time
from otahsm.config import load_config, section
from otahsm.ledger import Copy, copy_ledger, path_of, vacant


def backup(
    out: NewFileOption,
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
    target = path_of(section(load_config(config).ledger, "ledger"))
    with vacant(target), new_path(target) as temporary:
        copy = copy_ledger(source, temporary)
    tell(f"{target}: {_told(copy)}", as_json=as_json, file=str(target), **copy._asdict())
    newest = (
        "is none"
        if copy.newest_at is None
        else f"was recorded at {show_time(from_microseconds(copy.newest_at))}"
    )
    warn(
        f"the newest certificate in it {newest}. The daemon will issue a second certificate for"
        " devices that got theirs since. See the security team's guide, Backup, before you start it."
    )


def _told(copy: Copy) -> str:
    return (
        f"{copy.certificates} certificates, {copy.void} void, {copy.open} open;"
        f" {copy.octets / 2**20:.1f} MiB, whole and checked"
    )
