"""Reads and checks `otahsm.toml` and `policy.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from otahsm.access import EVERY_PROFILE, Policy
from otahsm.config.fields import Section
from otahsm.config.policy import PolicyConfig
from otahsm.config.problems import describe_problems
from otahsm.config.sections import Config
from otahsm.errors import ConfigError
from otahsm.system.files import PLAIN, Files, read_text

_Any = TypeVar("_Any", bound=Section)


def section(value: _Any | None, name: str) -> _Any:
    """Return `value`, a section of the file.

    Raises:
        ConfigError: the section is missing.
    """
    if value is None:
        raise ConfigError(
            f"the configuration has no [{name}] section",
            hint="Copy it from the complete otahsm.toml that `otahsm quickstart DIR` writes.",
        )
    return value


def load_config(path: Path, files: Files = PLAIN) -> Config:
    """Read and check `otahsm.toml`.

    Raises:
        ConfigError: the file can't be read, isn't TOML, or has a key or value that is not allowed.
    """
    hint = "Name the file with --config, or create one with `otahsm quickstart DIR`."
    return parse_config(read_toml(path, hint, files), base=path.absolute().parent, source=str(path))


def load_policy(path: Path, profiles: Collection[str], files: Files = PLAIN) -> Policy:
    """Read and check `policy.toml`.

    Args:
        path: the file.
        profiles: the names of all profiles.
        files: what reads it.

    Raises:
        ConfigError: the file can't be read, isn't TOML, or has a key or value that is not allowed.
    """
    hint = "Name it in [access] policy. `otahsm quickstart DIR` writes one to start from."
    table = read_toml(path, hint, files)
    policy = _checked(PolicyConfig, table, base=path.absolute().parent, source=str(path)).build()
    for grant in policy:
        if unknown := sorted(grant.profiles - {EVERY_PROFILE} - set(profiles)):
            raise ConfigError(
                f"{path} is invalid: clients.{grant.name}.profiles: there is no profile {unknown[0]!a}"
            )
    return policy


def read_toml(path: Path, hint: str, files: Files = PLAIN) -> dict[str, Any]:
    """Read a TOML file; `hint` is for one that can't be read. Raises ConfigError."""
    try:
        return tomllib.loads(read_text(path, hint=hint, files=files))
    except RecursionError:
        raise ConfigError(f"can't read {path}: its values are nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"can't read {path}: {error}") from None
    except ValueError:
        raise ConfigError(f"can't read {path}: a number has too many digits") from None


def parse_config(table: dict[str, Any], *, base: Path, source: str) -> Config:
    """Check a parsed TOML table; `source` names it in errors, `base` is where relative paths start.

    Raises:
        ConfigError: naming every key that is wrong.
    """
    return _checked(Config, table, base=base, source=source)


def _checked(model: type[_Any], table: dict[str, Any], *, base: Path, source: str) -> _Any:
    try:
        return model.model_validate(table, context={"base": base})
    except ValidationError as error:
        raise ConfigError(f"{source} is invalid: {'; '.join(describe_problems(error, model))}") from None
