"""The record of a ceremony, to be printed and signed."""

from __future__ import annotations

import getpass
import hashlib
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from otahsm import __version__
from otahsm.cli.output.times import show_time
from otahsm.config import CaConfig, TokenConfig
from otahsm.system.spool import CEREMONY, write_if_possible
from otahsm.token.facts import KeyFacts
from otahsm.token.files import write_new, write_numbered


def write_record(
    command: str,
    token: TokenConfig,
    ca: CaConfig,
    facts: KeyFacts,
    made: Mapping[str, str],
    path: Path | None,
    operators: Sequence[str] | None,
) -> Path:
    """Write the record of a ceremony: who did what, when and with which key, and lines for signatures.

    An event is left for the daemon, so that the ledger's log has it too.

    Args:
        command: what was done, as it was typed.
        token: with which token.
        ca: with which CA.
        facts: the key, read back from the token.
        made: the outcome, by label.
        path: where to; None is a new file in `ceremonies/` beside the CA's certificate.
        operators: who took part; None is the user.

    Raises:
        ConfigError: the file exists, or can't be written.
    """
    now = datetime.now(UTC)
    people = operators or [getpass.getuser()]
    fields: dict[str, Any] = {
        "ceremony": command,
        "time": show_time(now),
        "host": platform.node(),
        "otahsm": __version__,
        "token": facts.token,
        "key": facts.key,
        "public key, SHA-256": facts.spki_sha256,
        **facts.attributes,
        **{f"WARNING: {flaw}": why for flaw, why in facts.flaws.items()},
        **made,
    }
    width = max(map(len, fields))
    lines = [f"{label:<{width}}  {value}" for label, value in fields.items()]
    lines += ["", "We saw this done, and nothing else:", ""]
    lines += [f"{person:<{width}}  ______________________________" for person in people]
    name = f"{now:%Y%m%dT%H%M%SZ}-{command.replace(' ', '-')}.txt"
    content, what = ("\n".join(lines) + "\n").encode(), "the record of the ceremony"
    if path is None:
        path = write_numbered(ca.certificate.parent / "ceremonies" / name, content, what)
    else:
        write_new(path, content, what)
    write_if_possible(token.guard_dir, CEREMONY, {"ceremony": command, "record": path.name, **made})
    typer.echo(f"Record: {path}. Print it, have it signed, and keep it.")
    return path


def certificate_fields(subject: str, der: bytes) -> dict[str, str]:
    """Return what a record says of a certificate."""
    return {"certificate": subject, "certificate, SHA-256": fingerprint(der)}


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 of a certificate as people compare it."""
    return hashlib.sha256(der).digest().hex(":")
