"""Configurations as tables, and the one that quickstart writes."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from otahsm.config import (
    Config,
    parse_config,
)
from otahsm.errors import ConfigError

BASE = Path("/etc/otahsm")
TOKEN_URI = "pkcs11:token=T?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:secrets/pin"
TEMPLATE = resources.files("otahsm.quickstart").joinpath("otahsm.toml.in").read_text()


def shipped() -> dict[str, Any]:
    """Parse the configuration that quickstart writes."""
    text = TEMPLATE
    for name, value in {
        "PORT": "7443",
        "TOKEN": TOKEN_URI,
        "SOFTHSM2_CONF": "/etc/otahsm/token/softhsm2.conf",
        "ORIGIN": "ota.example/ledger",
    }.items():
        assert f"@{name}@" in text
        text = text.replace(f"@{name}@", value)
    assert not re.search("@[A-Z]", text)
    return tomllib.loads(text)


def parse(table: dict[str, Any]) -> Config:
    return parse_config(table, base=BASE, source="otahsm.toml")


def refusal(table: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        parse(table)
    return raised.value
