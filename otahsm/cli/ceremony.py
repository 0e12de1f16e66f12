"""What all ceremonies have: operators, answers from a file, and a record that can be printed and signed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otahsm.errors import ConfigError

if TYPE_CHECKING:
    from datetime import datetime

    from otahsm.config import CaConfig, Config, TokenConfig
    from otahsm.token.facts import KeyFacts


def _take_answers(context: typer.Context, path: Path | None) -> Path | None:
    """Take the options that the command line does not give from a file; each command has a table there."""
    if path is None:
        return None
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the answers {path} can't be read: {error}") from None
    answers = tables.get(context.command.name or "", {})
    known = {
        option.removeprefix("--"): parameter.name
        for parameter in context.command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    if unknown := sorted(answers.keys() - known.keys()):
        raise ConfigError(
            f"{path}: [{context.command.name}] has no {', '.join(unknown)}",
            hint=f"It may have: {', '.join(sorted(known))}.",
        )
    context.default_map = {known[name]: value for name, value in answers.items()}
    return path


CaOption = Annotated[
    str, typer.Option("--ca", help="Which CA: NAME of a section [authorities.NAME]. Default: that of [ca].")
]
AnswersOption = Annotated[
    Path | None,
    typer.Option(
        "--answers",
        is_eager=True,
        callback=_take_answers,
        help="A TOML file with a table for each command that gives its options: for rehearsals and scripts.",
    ),
]
OperatorsOption = Annotated[
    list[str] | None,
    typer.Option("--operator", help="Who takes part; may be repeated. Default: the user who runs this."),
]
RecordOption = Annotated[
    Path | None,
    typer.Option(
        "--record", help="The record of the ceremony. Default: in ceremonies/, beside the certificate."
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask whether it is meant.")]


def authority_section(settings: Config, name: str) -> CaConfig:
    """Return the section of a CA: [ca], or [authorities.NAME]. Raises ConfigError."""
    from otahsm.config import ca_section, section

    return section(settings.authorities.get(name) if name else settings.ca, ca_section(name))


def token_and_authority(settings: Config, name: str) -> tuple[TokenConfig, CaConfig]:
    """Return [token], and the section of a CA. Raises ConfigError."""
    from otahsm.config import section

    return section(settings.token, "token"), authority_section(settings, name)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless it was answered; end the command if it is not meant."""
    if not yes and not typer.confirm(question):
        raise typer.Exit(1)


def write_record(
    command: str,
    path: Path | None,
    beside: Path,
    operators: Sequence[str] | None,
    facts: KeyFacts,
    now: datetime,
    made: Mapping[str, str],
    guard_dir: Path,
) -> Path:
    """Write the record of a ceremony: who did what when with which key, and lines for signatures.

    An event is left for the daemon, so that the ledger's log tells of it too.

    Args:
        command: what was done, as it was typed.
        path: where to; None is a new file in `ceremonies/` beside `beside`.
        beside: the CA certificate.
        operators: who took part; None is the user.
        facts: the key, read back from the token.
        now: when.
        made: what came of it, by label.
        guard_dir: the token's.

    Raises:
        ConfigError: the file that was named exists, or it can't be written.
    """
    import getpass
    import platform

    from otahsm import __version__
    from otahsm.system.spool import CEREMONY, write_if_possible
    from otahsm.token.files import write_new, write_numbered

    people = operators or [getpass.getuser()]
    fields: dict[str, Any] = {
        "ceremony": command,
        "time": f"{now:%Y-%m-%d %H:%M:%S} UTC",
        "host": platform.node(),
        "otahsm": __version__,
        "token": facts.token,
        "key": facts.key,
        "public key, SHA-256": facts.spki_sha256,
        **facts.attributes,
        **{f"WARNING, {flaw}": why for flaw, why in facts.flaws.items()},
        **made,
    }
    width = max(map(len, fields))
    lines = [f"{label:<{width}}  {value}" for label, value in fields.items()]
    lines += ["", "We have seen this done, and nothing else:", ""]
    lines += [f"{person:<{width}}  ______________________________" for person in people]
    name = f"{now:%Y%m%dT%H%M%SZ}-{command.replace(' ', '-')}.txt"
    content, what = ("\n".join(lines) + "\n").encode(), "the record of the ceremony"
    if path is None:
        path = write_numbered(beside.parent / "ceremonies" / name, content, what)
    else:
        write_new(path, content, what)
    write_if_possible(guard_dir, CEREMONY, {"ceremony": command, "record": path.name, **made})
    typer.echo(f"Record: {path}. Print it, have it signed, and keep it.")
    return path


def certificate_fields(subject: str, der: bytes) -> dict[str, str]:
    """Return what a record says of a certificate."""
    return {"certificate": subject, "certificate, SHA-256": fingerprint(der)}


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 of a certificate as people compare it."""
    import hashlib

    return hashlib.sha256(der).digest().hex(":")
