"""The `otahsm` command: finds the command that is asked for, and turns errors into exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from otahsm.cli.commands import COMMANDS, HELP
from otahsm.cli.lazy import build
from otahsm.errors import ConfigError, FolderError, OtahsmError

# What a command needs beyond a bare client, by the extra that brings it.
_EXTRAS: Final = {
    "server": {"alembic", "grpc_reflection", "pkcs11", "re2", "sqlalchemy", "structlog"},
    "ssh": {"asyncssh"},
}


class _Root(TyperGroup):
    """The group of all commands, as their table has them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands.update(build(COMMANDS))


app = typer.Typer(
    name="otahsm", cls=_Root, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)


@app.callback(help=HELP)
def _otahsm() -> None:
    """Give Typer a group to build, though it has no command itself."""


class _StandardOutput(io.BufferedWriter):
    """Standard output, whose failures are ours, but for a reader that is gone: Typer handles that.

    Not a raw file: if Ctrl-C came after the write of one, what was written would be kept, and written again.
    """

    def write(self, octets: Any, /) -> int:
        with self._failures():
            return super().write(octets)

    def flush(self) -> None:
        with self._failures():
            super().flush()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # takes what is buffered
            raise FolderError(
                f"can't write to standard output: {error.strerror}",
                hint="If it is a file, check the space on its disk; then run the command again.",
            ) from error


def main() -> None:
    """Run a command; turn our errors into one clear message and the exit code that documents it."""
    out = _StandardOutput(io.FileIO(sys.stdout.fileno(), "w", closefd=False))
    sys.stdout = io.TextIOWrapper(out, sys.stdout.encoding, sys.stdout.errors, None, sys.stdout.isatty())
    try:
        app(color=False if os.environ.get("NO_COLOR") else None)  # no-color.org; rich sees to it by itself
    except OtahsmError as error:
        _fail(error)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(FolderError(f"can't use {os.fsdecode(error.filename)}: {error.strerror}"))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = next((extra for extra, modules in _EXTRAS.items() if missing in modules), None)
        if extra is None:
            raise
        _fail(
            ConfigError(
                f"this command needs {missing}, which a bare client does not have",
                hint=f"Install it: pip install 'otahsm[{extra}]'",
            )
        )


def _fail(error: OtahsmError) -> NoReturn:
    from otahsm.cli.output.fields import printable  # noqa: PLC0415 - only here

    sys.stderr.write(f"otahsm: {printable(error.message)}\n        {printable(error.hint)}\n")
    sys.exit(error.exit_code)
