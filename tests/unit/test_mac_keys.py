"""The file of the MAC keys, and what they vouch for."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError
from otahsm.ledger import MacKeys, create_mac_key, read_mac_keys, replace_mac_key

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))


@pytest.fixture
def config(tmp_path: Path) -> LedgerConfig:
    return LedgerConfig(path=tmp_path / "ledger", key_file=tmp_path / "ledger.key")


def path_of(config: LedgerConfig) -> Path:
    assert config.key_file is not None
    return config.key_file


def test_a_key_is_made_once_and_only_its_owner_can_read_it(config: LedgerConfig) -> None:
    path = create_mac_key(config)
    assert path.stat().st_mode & 0o777 == 0o600
    keys = read_mac_keys(config)
    assert (len(keys.used), keys.accepted) == (32, None)
    with pytest.raises(ConfigError, match="exists; nothing was changed"):
        create_mac_key(config)
    assert read_mac_keys(config) == keys


def test_a_key_is_replaced_in_two_steps_and_no_daemon_meets_one_that_it_does_not_know(
    config: LedgerConfig,
) -> None:
    create_mac_key(config)
    first = read_mac_keys(config)
    assert replace_mac_key(config) is False
    second = read_mac_keys(config)
    assert second.used == first.used
    assert second.accepted not in (None, first.used)
    assert replace_mac_key(config) is True
    third = read_mac_keys(config)
    assert third == MacKeys(second.accepted or b"", first.used)
    assert replace_mac_key(config) is False
    assert read_mac_keys(config).used == third.used
    assert path_of(config).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        "",
        "used",
        "\xff",
        f"used {'00' * 31}",
        f"used {'00' * 33}",
        f"used {'0g' * 32}",
        f"next {'00' * 32}",
        f"used {'00' * 32}\nused {'11' * 32}",
        f"used {'00' * 32}\nother {'11' * 32}",
        f"used {'00' * 32}\nnext {'11' * 32}\nformer {'22' * 32}",
    ],
)
def test_a_damaged_file_is_refused_and_never_shown(config: LedgerConfig, content: str) -> None:
    path_of(config).write_bytes(content.encode("latin-1"))
    path_of(config).chmod(0o600)
    with pytest.raises(ConfigError, match="is damaged") as caught:
        read_mac_keys(config)
    assert "00" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_is_missing_or_that_others_can_read_is_refused(config: LedgerConfig) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        read_mac_keys(config)
    create_mac_key(config)
    path_of(config).chmod(0o640)
    with pytest.raises(ConfigError, match="other users can read"):
        read_mac_keys(config)
    with pytest.raises(ConfigError, match="has no key_file"):
        read_mac_keys(config.model_copy(update={"key_file": None}))


def row(keys: MacKeys, **changed: Any) -> Any:
    values: dict[str, Any] = {"kind": 5, "intent_id": 7, "hash": os.urandom(32)}
    values["mac"] = keys.mac(values["kind"], values["intent_id"], values["hash"])
    return SimpleNamespace(**values | changed)


def test_a_row_is_vouched_for_with_the_key_that_is_used_and_one_more() -> None:
    made = row(MacKeys(ONE))
    assert MacKeys(ONE).vouch(made)
    assert MacKeys(TWO, ONE).vouch(made)
    assert not MacKeys(TWO, THREE).vouch(made)
    assert not MacKeys(TWO).vouch(made)


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": 6},
        {"kind": "5"},
        {"kind": None},
        {"kind": True},
        {"intent_id": 8},
        {"intent_id": 7.0},
        {"intent_id": 1 << 63},
        {"hash": bytes(32)},
        {"hash": bytes(31)},
        {"hash": "x"},
        {"mac": bytes(32)},
        {"mac": b""},
        {"mac": None},
    ],
)
def test_nothing_else_is_vouched_for(changed: dict[str, Any]) -> None:
    keys = MacKeys(ONE, TWO)
    assert not keys.vouch(row(keys, **changed))


def test_a_row_of_another_ledger_is_not_vouched_for() -> None:
    ours, theirs = MacKeys(ONE).of_ledger([b"ca"]), MacKeys(ONE).of_ledger([b"another ca"])
    assert ours.vouch(row(ours))
    assert not ours.vouch(row(theirs))
    assert not ours.vouch(row(MacKeys(ONE)))
    # A CA that was added, or has taken the first place, makes no other ledger of it.
    assert ours.of_ledger([b"new ca", b"ca"]).vouch(row(ours))
    assert MacKeys(TWO, ONE).of_ledger([b"ca"]).vouch(row(ours))
