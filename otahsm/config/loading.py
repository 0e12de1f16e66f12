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


def load_config(path: Path) -> Config:
    """Read and check `otahsm.toml`.

    Raises:
        ConfigError: the file can't be read, isn't TOML, or has a key or value that is not allowed.
    """
    hint = "Name the file with --config, or create one with `otahsm quickstart DIR`."
    return parse_config(_read(path, hint), base=path.absolute().parent, source=str(path))


def load_policy(path: Path, profiles: Collection[str]) -> Policy:
    """Read and check `policy.toml`.

    Args:
        path: the file.
        profiles: the names of all profiles.

    Raises:
        ConfigError: the file can't be read, isn't TOML, or has a key or value that is not allowed.
    """
    table = _read(path, "Name it in [access] policy. `otahsm quickstart DIR` writes one to start from.")
    policy = _checked(PolicyConfig, table, base=path.absolute().parent, source=str(path)).build()
    for grant in policy:
        if unknown := sorted(grant.profiles - {EVERY_PROFILE} - set(profiles)):
            raise ConfigError(
                f"{path} is invalid: clients.{grant.name}.profiles: there is no profile {unknown[0]!a}"
            )
    return policy


def _read(path: Path, hint: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", hint=hint) from None
    except RecursionError:
        raise ConfigError(f"can't read {path}: its values are nested too deeply") from None
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:  # a number with thousands of digits is no TOMLDecodeError
        raise ConfigError(f"can't read {path}: {error}") from error


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
