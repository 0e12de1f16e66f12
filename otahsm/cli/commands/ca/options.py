"""Options and questions that ceremonies share: operators, answers from a file, the record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otahsm.config import CaConfig, Config, TokenConfig, ca_section, read_toml, section
from otahsm.errors import ConfigError
from otahsm.pki.keytypes import KeyType


def _take_answers(context: typer.Context, path: Path | None) -> Path | None:
    """Take options that the command line does not give from a file with a table for each command."""
    if path is None:
        return None
    tables = read_toml(path, "Name a file with a table for each command, such as [init].")
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
    str, typer.Option("--ca", help="The CA: NAME of a section [authorities.NAME]. Default: the one in [ca].")
]
KeyTypeOption = Annotated[KeyType, typer.Option(help="The type of the CA key.")]
PathLengthOption = Annotated[
    int | None,
    typer.Option(
        "--path-len",
        min=0,
        max=255,
        help="How many CAs may be below the root: its pathLenConstraint. Default: 0, so that nobody can make"
        " a CA with a signature of its key.",
    ),
]
AnswersOption = Annotated[
    Path | None,
    typer.Option(
        "--answers",
        is_eager=True,
        callback=_take_answers,
        help="A TOML file with each command's options in a table: for rehearsals and scripts.",
    ),
]
OperatorsOption = Annotated[
    list[str] | None,
    typer.Option("--operator", help="Who takes part. Repeatable. Default: the user who runs this."),
]
RecordOption = Annotated[
    Path | None,
    typer.Option(
        "--record",
        help="The file for the record of the ceremony. Default: in ceremonies/, beside the certificate.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")]


def authority_section(settings: Config, name: str) -> CaConfig:
    """Return the section of a CA: [ca], or [authorities.NAME]. Raises ConfigError."""
    return section(settings.authorities.get(name) if name else settings.ca, ca_section(name))


def token_and_authority(settings: Config, name: str) -> tuple[TokenConfig, CaConfig]:
    """Return [token], and the section of a CA. Raises ConfigError."""
    return section(settings.token, "token"), authority_section(settings, name)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless `yes`; end the command if the answer is no."""
    if not yes and not typer.confirm(question):
        raise typer.Exit(1)
