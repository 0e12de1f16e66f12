"""What a bench finds is summed up, drawn and written rightly."""

from __future__ import annotations

from pathlib import Path

import pytest

from otahsm.bench import IssueResult, Latency, TokenRate
from otahsm.bench.issuing import _apart, write_toml
from otahsm.bench.plot import plot
from otahsm.cli.commands.bench.measure import _doubling
from otahsm.cli.commands.bench.tables import best_setting
from otahsm.config import (
    CaConfig,
    Config,
    LedgerConfig,
    ProfileConfig,
    TokenConfig,
    load_config,
    parse_config,
)
from otahsm.pkcs11_names import Pkcs11Uri


def result(size: int, signers: int, rate: float) -> IssueResult:
    latency = Latency.of([0.001, 0.002, 0.003])
    return IssueResult("ec-p256", signers, 1, 1, size, 100, rate, latency, 9000.0, 11000.0)


def test_the_share_is_of_the_mean_of_the_floors_before_and_after() -> None:
    assert result(64, 2, 8000.0).floor == 10_000
    assert result(64, 2, 8000.0).share_of_floor == 0.8
    assert result(64, 2, 8000.0)._replace(floor_after=None).share_of_floor is None


def test_latencies_are_in_milliseconds() -> None:
    latency = Latency.of([number / 1000 for number in range(1, 102)])
    assert latency == pytest.approx((51, 96, 100))


def test_of_settings_that_are_equally_fast_the_smallest_is_best() -> None:
    seen = [(1, 1, 50), (2, 1, 99), (2, 2, 100), (4, 4, 98)]
    rates = [TokenRate("ec-p256", processes, sessions, rate) for processes, sessions, rate in seen]
    assert best_setting(rates)[1:3] == (2, 1)


@pytest.mark.parametrize(("limit", "settings"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_settings_double_up_to_the_limit(limit: int, settings: list[int]) -> None:
    assert _doubling(limit) == settings


def test_one_message_has_one_latency() -> None:
    assert Latency.of([0.5]) == Latency(500, 500, 500)


@pytest.mark.parametrize(("ending", "beginning"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_plot_is_a_picture(tmp_path: Path, ending: str, beginning: bytes) -> None:
    path = tmp_path / f"plot.{ending}"
    by_message = [result(size, 2, 100.0 * size) for size in (1, 64, 256)]
    plot(by_message, [result(64, signers, 4000.0 * signers) for signers in (1, 2)], path)
    assert path.read_bytes().startswith(beginning)


def test_a_configuration_survives_being_written_as_toml(tmp_path: Path) -> None:
    token = TokenConfig(
        uri=Pkcs11Uri(token='a "token" — é\t', module_path="/usr/lib/a module.so", pin_source="file:/pin"),
        guard_dir=Path("/guard"),
        environment={"A.B": "C:\\D", "E": ""},
    )
    profiles = {"ota-connect": ProfileConfig(), "an other": ProfileConfig(device_id=r"\w+'\d")}
    config = Config(token=token, profiles=profiles)
    assert load_config(write_toml(config, tmp_path / "otahsm.toml")) == config


def test_a_bench_has_nothing_of_the_fleets_that_it_could_sign_or_overwrite() -> None:
    table = {
        "token": {"uri": "pkcs11:token=t?module-path=/m.so&pin-source=file:/pin", "guard_dir": "/login"},
        "ca": {"key": "pkcs11:object=root;id=%01", "certificate": "/root.pem"},
        "authorities": {
            "next": {
                "key": "pkcs11:object=next;id=%02",
                "certificate": "/next.pem",
                "crl": {"url": "http://crl.example.com/next.crl", "directory": "/next-crl"},
            }
        },
        "profiles": {"ota-connect": {"ca": "next"}},
        "crl": {"url": "http://crl.example.com/fleet.crl", "directory": "/crl"},
        "checkpoint": {"key": "pkcs11:object=log;id=%03", "origin": "log", "verifier_key": "/log.vkey"},
    }
    config = parse_config(table, base=Path("/"), source="test")
    ca = CaConfig.model_validate({"key": "pkcs11:object=bench;id=%09", "certificate": "/bench.pem"})
    ledger = LedgerConfig.model_validate({"path": "/bench.sqlite3"})
    apart = _apart(config, ca, ledger, Path("/bench"), Path("/login/bench"))
    assert list(apart.token_keys) == ["pkcs11:object=bench;id=%09"]
    assert {profile.ca for profile in apart.profiles.values()} == {""}
    text = apart.model_dump_json()
    assert not any(word in text for word in ("next", "root", "log.vkey", '"/crl'))
    assert apart.crl is not None
    assert apart.crl.directory == Path("/bench/crl")
