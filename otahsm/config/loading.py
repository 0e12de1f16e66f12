"""Reads and checks `otahsm.toml` and `policy.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from otahsm.access import EVERY_PROFILE, Policy
from otahsm.config.fields import Section
from otahsm.config.policy import PolicyConfig
from otahsm.config.sections import Config
from otahsm.errors import ConfigError

_MESSAGES: Final = {"extra_forbidden": "there is no such key", "missing": "it is missing"}

_Any = TypeVar("_Any", bound=Section)


def section(value: _Any | None, name: str) -> _Any:
    """Return `value`, a section of the file, or say that it is missing.

    Raises:
        ConfigError: it is missing.
    """
    if value is None:
        raise ConfigError(
            f"the configuration has no [{name}] section",
            hint="`otahsm quickstart DIR` writes a complete otahsm.toml to copy it from.",
        )
    return value


def load_config(path: Path) -> Config:
    """Read and check `otahsm.toml`.

    Raises:
        ConfigError: the file can't be read, isn't TOML, or holds something it must not.
    """
    hint = "Name it with --config, or make one with `otahsm quickstart DIR`."
    return parse_config(_read(path, hint), base=path.absolute().parent, source=str(path))


def load_policy(path: Path, profiles: Collection[str]) -> Policy:
    """Read and check `policy.toml`.

    Args:
        path: where it is.
        profiles: those that there are.

    Raises:
        ConfigError: the file can't be read, isn't TOML, or holds something it must not.
    """
    table = _read(path, "Name it in [access] policy; `otahsm quickstart DIR` writes one to copy from.")
    policy = _checked(PolicyConfig, table, base=path.absolute().parent, source=str(path)).build()
    for grant in policy:
        if unknown := sorted(grant.profiles - {EVERY_PROFILE} - set(profiles)):
            raise ConfigError(
                f"{path} is wrong: clients.{grant.name}.profiles: there is no profile {unknown[0]!a}"
            )
    return policy


def _read(path: Path, hint: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", hint=hint) from None
    except RecursionError:
        raise ConfigError(f"{path} can't be read: its values are nested too deeply") from None
    except (OSError, ValueError) as error:  # a number of thousands of digits is no TOMLDecodeError
        raise ConfigError(f"{path} can't be read: {error}") from error


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
        # Values are left out on purpose: a misplaced PIN must not end up in a log.
        lines = [
            f"{'.'.join(str(part) for part in problem['loc']) or source}:"
            f" {_MESSAGES.get(problem['type'], problem['msg'])}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigError(f"{source} is wrong: " + "; ".join(lines)) from None
