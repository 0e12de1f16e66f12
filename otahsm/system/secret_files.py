"""Reads secrets from private files, or from the output of commands.

No error contains what was read.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Final

from otahsm.errors import ConfigError
from otahsm.system.trusted_files import files_of_anyone

MAX_SECRET_BYTES: Final = 1024
_COMMAND_SECONDS: Final = 30.0


def read_secret_file(path: Path, what: str) -> bytes:
    """Read a secret, up to one octet more than the limit for secrets.

    Args:
        path: the file, as `otahsm.system.trusted_files` says: nobody else may read or change it.
        what: its description, for errors.

    Raises:
        ConfigError: it can't be read, or others could read or change it.
    """
    return files_of_anyone().read(path, what, secret=True, limit=MAX_SECRET_BYTES + 1)


def read_secret_line(path: Path, what: str) -> str:
    """Read a one-line secret from a file, as `read_secret_file`.

    Args:
        path: the file.
        what: the description of the secret, for errors.

    Raises:
        ConfigError: it can't be read, others could read it too, or it is not a line of text.
    """
    named = f"{what} in {path}"
    return one_line(read_secret_file(path, named), named)


def run_for_secret(command: str, what: str) -> bytes:
    """Return the output of a command. It is not run by a shell.

    Args:
        command: a program and its arguments, quoted as for a shell.
        what: the description of the secret, for errors.

    Raises:
        ConfigError: it can't be run, fails, or takes more than 30 seconds.
    """
    try:
        program = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"can't parse the command for {what}: {error}") from None
    try:
        ran = subprocess.run(
            program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_COMMAND_SECONDS, check=False
        )
    except OSError as error:
        raise ConfigError(f"can't run the command for {what}, {program[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"the command for {what}, {program[0]}, took more than {_COMMAND_SECONDS:g} s"
        ) from None
    if ran.returncode:
        raise ConfigError(f"the command for {what}, {program[0]}, exited with status {ran.returncode}")
    return ran.stdout


def one_line(octets: bytes, what: str) -> str:
    """Return a secret without its line end.

    Raises:
        ConfigError: it is empty, too long, or not text.
    """
    try:
        secret = octets.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:  # its message would contain the secret
        raise ConfigError(f"{what} is not UTF-8 text") from None
    if not secret or len(octets) > MAX_SECRET_BYTES:
        raise ConfigError(f"{what} is {'too long' if secret else 'empty'}")
    return secret


def passphrase_from(file: Path | None, command: str) -> bytes | None:
    """Read the passphrase of private keys; None if neither is given.

    Raises:
        ConfigError: it can't be read, or both are given.
    """
    if file is not None and command:
        raise ConfigError("the passphrase has two sources", hint="Give either a file or a command.")
    if file is not None:
        return read_secret_line(file, "the passphrase").encode()
    if command:
        return one_line(run_for_secret(command, "the passphrase"), "the passphrase").encode()
    return None
