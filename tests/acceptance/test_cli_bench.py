"""`otahsm bench`: figures that make sense, and a token and a ledger that are as they were."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from otahsm.bench.calls import find_spy

from support.harness import Fleet, running

FEW = ("--certificates", "600")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def token_before(fleet: Fleet) -> list[str]:
    return files(fleet.folder / "token")


def test_bench_issue_tells_rate_floor_latency_cost_memory_and_calls(
    fleet: Fleet, token_before: list[str]
) -> None:
    fleet.set_signers(2)
    done = fleet.run("bench", "issue", *FEW, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["certificates"] == 600
    assert result["certificates_per_second"] > 0
    assert 0 < result["share_of_floor"] < 1.5
    assert 0 < result["latency"]["p50"] <= result["latency"]["p95"] <= result["latency"]["p99"]
    assert {kind: use["processes"] for kind, use in result["use"].items()} == {
        "daemon": 1,
        "client": 1,
        "signers": 2,
        "preparers": 1,
    }
    assert all(use["peak_mebibytes"] > 10 for use in result["use"].values())
    assert find_spy() is not None
    assert result["calls_per_certificate"] == 3.0
    assert files(fleet.folder / "token") == token_before  # its key is gone
    ledger = {path.name for path in (fleet.folder / "ledger").iterdir()}
    assert ledger == {"ledger.sqlite3", "ledger.sqlite3.lock"}  # and so is its ledger


@pytest.mark.parametrize("streams", ["0", "4"])
def test_bench_issue_takes_single_requests_too(fleet: Fleet, streams: str) -> None:
    done = fleet.run("bench", "issue", "--certificates", "100", "--streams", streams, "--message-size", "1")
    assert done.returncode == 0, done.stderr
    assert "share of the floor" in done.stdout
    assert ("latency of a call" if streams == "0" else "latency of a message of 1") in done.stdout


def test_bench_issue_draws_throughput_by_message_size_and_by_signers(fleet: Fleet) -> None:
    done = fleet.run("bench", "issue", "--certificates", "50", "--plot", "throughput.svg")
    assert done.returncode == 0, done.stderr
    assert "share of the floor" in done.stdout
    picture = (fleet.folder / "throughput.svg").read_text()
    assert all(label in picture for label in ("requests per message", "signers", "crypto floor"))


def test_bench_issue_leaves_the_fleets_crls_and_journal_alone(fleet: Fleet) -> None:
    with fleet.toml.open("a") as toml:
        toml.write('\n[crl]\nurl = "http://crl.example.com/fleet.crl"\ndirectory = "crl"\n')
    signed = fleet.folder / "state/login/signed"
    before = {path: path.read_bytes() for path in signed.rglob("*") if path.is_file()}
    done = fleet.run("bench", "issue", "--certificates", "50", "--json")
    assert done.returncode == 0, done.stderr
    assert not (fleet.folder / "crl").exists()
    left = [path.name for path in (fleet.folder / "state/login").iterdir()]
    assert sorted(left) == ["events", "login.lock", "signed"]
    assert {path: path.read_bytes() for path in signed.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--plot", "throughput.txt"), "can't plot to"),
        (("--plot", "nowhere/throughput.svg"), "can't plot to"),
        (("--plot", "throughput.svg", "--target", "localhost:1"), "--target"),
    ],
)
def test_bench_says_what_it_can_not_draw_before_it_measures(
    fleet: Fleet, options: tuple[str, ...], problem: str
) -> None:
    done = fleet.run("bench", "issue", *options)
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stdout == ""


def test_bench_issue_loads_a_daemon_that_runs(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        target = f"localhost:{daemon.address.rpartition(':')[2]}"
        done = fleet.run("bench", "issue", *FEW, "--target", target, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["floor"] is None


def test_bench_token_measures_every_setting_and_names_the_best(fleet: Fleet, token_before: list[str]) -> None:
    options = (
        "--key-type",
        "ec-p256",
        "--key-type",
        "ed25519",
        "--seconds",
        "0.1",
        "--sessions",
        "2",
        "--json",
    )
    done = fleet.run("bench", "token", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    settings = [(rate["key_type"], rate["processes"], rate["sessions"]) for rate in found["rates"]]
    assert settings == [(kind, p, s) for kind in ("ec-p256", "ed25519") for p in (1, 2) for s in (1, 2)]
    assert all(rate["signatures_per_second"] > 0 for rate in found["rates"])
    assert set(found["best"]) == {"ec-p256", "ed25519"}
    assert files(fleet.folder / "token") == token_before


def test_bench_says_what_is_wrong_when_the_pin_is(fleet: Fleet) -> None:
    pin = fleet.folder / "secrets/pin"
    pin.write_text("00000000\n" if pin.read_text().strip() != "00000000" else "11111111\n")
    for command in ("issue", "token"):
        done = fleet.run("bench", command)
        assert done.returncode == 4
        assert "PIN" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_benches_of_large_ledgers_run(fleet: Fleet, tmp_path: Path) -> None:
    bench = Path(__file__).parents[2] / "bench"
    for script, *arguments in (
        ("crl.py", "--issued", "300", "--revoked", "150"),
        ("ledger_size.py", str(fleet.folder / "otahsm.toml"), "1500"),
    ):
        command = [sys.executable, str(bench / script), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "to the signed CRL of 150" in done.stdout or "a page of 1,000" in done.stdout
