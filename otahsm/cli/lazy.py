"""Commands that are known by name, and imported when they are needed: `otahsm --help` is instant."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from otahsm.system.hardening import harden

_COMMANDS: Final = "otahsm.cli.commands"


class Command(NamedTuple):
    """One command.

    Attributes:
        name: as it is typed.
        place: its module below `otahsm.cli.commands`; `module:function` if the function has another name.
        summary: what it does, in the list of commands.
        learns_pin: whether it learns a PIN or another secret; its process is protected before it begins.
        grpc_log: whether gRPC's core may write lines of its own to standard error.
    """

    name: str
    place: str
    summary: str
    learns_pin: bool = False
    grpc_log: bool = False

    def load(self) -> Callable[..., None]:
        """Import the function that is the command."""
        module, _, function = self.place.partition(":")
        loaded: Callable[..., None] = getattr(
            import_module(f"{_COMMANDS}.{module}"), function or self.name.replace("-", "_")
        )
        return loaded


class Group(NamedTuple):
    """Commands with a word in common.

    Attributes:
        name: the word.
        summary: what they are about.
        commands: in the order of its `--help`.
    """

    name: str
    summary: str
    commands: Sequence[Command]


def every_command(tree: Sequence[Command | Group]) -> Iterator[tuple[str, Command]]:
    """Yield each command, and the words that it is called by, in order."""
    for entry in tree:
        if isinstance(entry, Group):
            yield from ((f"{entry.name} {command.name}", command) for command in entry.commands)
        else:
            yield entry.name, entry


def build(tree: Sequence[Command | Group]) -> dict[str, TyperCommand | TyperGroup]:
    """Return what Typer runs for each entry."""
    return {entry.name: _group(entry) if isinstance(entry, Group) else _LazyCommand(entry) for entry in tree}


def _group(group: Group) -> TyperGroup:
    return TyperGroup(
        name=group.name,
        help=group.summary,
        commands={command.name: _LazyCommand(command) for command in group.commands},
        no_args_is_help=True,
        rich_markup_mode=None,
    )


class _LazyCommand(TyperCommand):
    """Stands in for a command until it is run or asked for its help; then it hands over to the real one."""

    def __init__(self, command: Command) -> None:
        super().__init__(name=command.name, short_help=command.summary, callback=None)
        self._command = command

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """Import the command, and hand over to it."""
        if self._command.learns_pin:
            harden()
        if not self._command.grpc_log:
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when gRPC is loaded
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(self._command.name, cls=_StrictCommand)(self._command.load())
        return typer.main.get_command(app).make_context(info_name, args, *more, **extra)


class _StrictCommand(TyperCommand):
    """Refuses empty values: to the command, they would look like options that were not given.

    What is wrong with others is said in the words that the configuration has for it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. Raises BadParameter: a value is empty or wrong."""
        given, _, _ = self.make_parser(ctx).parse_args(args.copy())
        for param in self.get_params(ctx):
            value = given.get(param.name or "")
            if "" in (value if isinstance(value, list | tuple) else (value,)):
                raise typer.BadParameter("it must not be empty", ctx, param)  # type: ignore[arg-type]
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            from pydantic import ValidationError  # noqa: PLC0415 - it would delay every --help

            from otahsm.config import describe_problems  # noqa: PLC0415 - the same

            if isinstance(error.__cause__, ValidationError):
                error.message = "; ".join(describe_problems(error.__cause__))
            raise
