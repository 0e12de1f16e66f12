"""`otahsm batch` as the line and its planner type it: ordered once, made anywhere, reported at the end."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import subprocess
import uuid
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from otahsm.cli.connect import connect, load_client, open_folders
from otahsm.line import (
    DeviceFolders,
    Done,
    IssueOptions,
    Run,
    issue_devices,
    numbered_devices,
    random_devices,
)
from otahsm.pki.serial import SerialNumber
from otahsm.templates import Template

from support.harness import OTAHSM, READY_SECONDS, Fleet


@pytest.fixture
def name() -> str:
    return f"batch-{uuid.uuid4()}"


def batch(line: Fleet, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return line.run("batch", *map(str, words))


def good(line: Fleet, *words: str | Path) -> Any:
    done = batch(line, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def made(out: Path) -> set[str]:
    return {path.parent.name for path in out.glob("[!.]*/client.pem")}


def test_a_batch_is_ordered_made_and_reported(line: Fleet, tmp_path: Path, name: str) -> None:
    assert batch(line, "create", name, "--count", "7", "--expect", "7").returncode == 0
    ran = batch(line, "run", name, "--out", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith(f"batch {name}: 7 of 7 issued, here and elsewhere\n")
    assert len(made(tmp_path / "out")) == 7
    state = good(line, "status", name)
    assert (state["issued"], state["remaining"], state["state"]) == (7, 0, "full")
    assert name in batch(line, "list").stdout
    listed = [json.loads(one)["name"] for one in batch(line, "list", "--json").stdout.splitlines()]
    newest = batch(line, "list", "--json", "--last", "2").stdout.splitlines()
    assert [json.loads(one)["name"] for one in newest] == listed[:-3:-1]
    listed = json.loads(line.run("ledger", "list", "--batch", name, "--json").stdout)["certificates"]
    assert [entry["batch"] for entry in listed] == [name] * 7
    html, table = tmp_path / "report.html", tmp_path / "report.csv"
    assert (
        batch(line, "report", name, "--html", html, "--csv", table, "--out", tmp_path / "out").returncode == 0
    )
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["device_id"] for row in rows} == made(tmp_path / "out")
    serials = sorted(
        SerialNumber(x509.load_pem_x509_certificate(path.read_bytes()).serial_number).hex()
        for path in (tmp_path / "out").glob("[!.]*/client.pem")
    )
    assert sorted(row["serial"] for row in rows) == serials
    page = html.read_text()
    for words in ("7 of 7 certificates", serials[0], serials[-1], "<svg", "Failures", "by cn:"):
        assert words in page, words
    assert not re.search(r'(src|href)="', page)  # nothing is loaded from elsewhere
    judge = WellFormed()
    judge.feed(page)
    judge.close()
    again = batch(line, "report", name, "--html", html)
    assert again.returncode == 2
    assert "exists" in again.stderr


class WellFormed(HTMLParser):
    """Fails on elements that are not closed, or in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag not in ("meta", "line", "rect"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("line", "rect"):
            return
        assert self.inside.pop() == tag

    def close(self) -> None:
        super().close()
        assert not self.inside


def test_another_machine_makes_what_is_missing_and_no_more(line: Fleet, tmp_path: Path, name: str) -> None:
    assert (
        batch(
            line, "create", name, "--count", "6", "--expect", "6", "--template", name + "-{seq:03d}"
        ).returncode
        == 0
    )
    first = tmp_path / "first"
    interrupted(line, first, name, 2)
    assert batch(line, "run", name, "--out", tmp_path / "second").returncode == 0
    assert made(first) == {f"{name}-001", f"{name}-002"}
    assert made(tmp_path / "second") == {f"{name}-{number:03}" for number in range(3, 7)}
    # The first one comes back: nothing is left to do.
    back = batch(line, "run", name, "--out", first)
    assert (back.returncode, back.stdout.count("0 issued")) == (0, 1), back.stderr
    assert len(made(first)) == 2


def interrupted(line: Fleet, out: Path, name: str, count: int) -> None:
    """Leave a batch as a machine that stopped leaves it: with its first devices made."""

    async def make() -> None:
        settings = load_client(line.toml)
        async with (
            connect(settings, None) as client,
            open_folders(client.issuance, settings, out) as folders,
        ):
            devices = numbered_devices(
                Template.parse(name + "-{seq:03d}", numbers=frozenset({"seq"})), count, {}
            )
            run, options = Run.open(folders, ["by another command"], devices), IssueOptions(batch=name)
            async for report in issue_devices(client.issuance, folders, devices, options, run=run):
                assert isinstance(report, Done)

    asyncio.run(make())


def test_a_machine_whose_drawn_ids_are_not_needed_any_more_throws_them_away(
    line: Fleet, tmp_path: Path, name: str
) -> None:
    assert batch(line, "create", name, "--count", "4", "--expect", "4").returncode == 0
    folders = DeviceFolders(tmp_path / "slow", b"")
    Run.open(folders, ["batch run", name], random_devices(4), drawn=True)
    folders.close()
    assert batch(line, "run", name, "--out", tmp_path / "fast").returncode == 0
    slow = batch(line, "run", name, "--out", tmp_path / "slow")
    assert slow.returncode == 0, slow.stderr
    assert "BATCH_FULL" in slow.stderr
    assert [path.name for path in (tmp_path / "slow").iterdir() if path.is_dir()] == []
    assert len(made(tmp_path / "fast")) == 4


def test_the_same_order_again_changes_nothing_and_another_is_refused(line: Fleet, name: str) -> None:
    first = good(line, "create", name, "--count", "3", "--expect", "3", "--deadline", "2099-01-31")
    assert first["deadline"] == "2099-01-31T00:00:00Z"
    assert good(line, "create", name, "--count", "3", "--expect", "3", "--deadline", "2099-01-31") == first
    other = batch(line, "create", name, "--count", "4", "--expect", "4")
    assert other.returncode == 1
    assert "already exists" in other.stderr


def test_a_batch_of_a_file_needs_that_file(line: Fleet, tmp_path: Path, name: str) -> None:
    table = tmp_path / "units.csv"
    table.write_text(f"serial,plant\n{name}-1,ulm\n{name}-2,ulm\n")
    ids = ("--ids", table)
    state = good(line, "create", name, *ids, "--uuid5", "dns", "--expect", "2")
    assert (state["device_count"], state["id_scheme"]["kind"]) == (2, "uuid5")
    without = batch(line, "run", name, "--out", tmp_path / "out")
    assert (without.returncode, "Name that file with --ids" in without.stderr) == (2, True)
    other = tmp_path / "other.csv"
    other.write_text(f"serial,plant\n{name}-1,ulm\n{name}-3,ulm\n")
    wrong = batch(line, "run", name, "--ids", other, "--out", tmp_path / "out")
    assert (wrong.returncode, "not the devices" in wrong.stderr) == (2, True)
    assert batch(line, "run", name, *ids, "--out", tmp_path / "out").returncode == 0
    assert made(tmp_path / "out") == {
        str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}-{number}")) for number in (1, 2)
    }


def test_a_closed_batch_and_another_clients_say_what_is_wrong(line: Fleet, tmp_path: Path, name: str) -> None:
    assert batch(line, "create", name, "--count", "1", "--expect", "1").returncode == 0
    ended = good(line, "close", name, "--expect", "1")
    assert good(line, "close", name) == ended, "what is closed is closed"
    assert (ended["state"], ended["remaining"]) == ("closed", 0)
    closed = batch(line, "run", name, "--out", tmp_path / "closed")
    assert closed.returncode == 1
    assert closed.stderr.startswith(f"otahsm: the batch {name} is closed\n        Create another batch")
    assert not list((tmp_path / "closed").glob("[!.]*"))
    other = f"{name}-x"
    assert (
        batch(line, "create", other, "--count", "2", "--expect", "2", "--client", "cn:line-9").returncode == 0
    )
    refused = batch(line, "run", other, "--out", tmp_path / "other")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"otahsm: quickstart may not issue in the batch {other}\n")
    report = good(line, "report", other, "--out", tmp_path / "other")
    assert {failure["reason"] for failure in report["failures"]} == {"BATCH_CLIENT"}
    unknown = batch(line, "status", "nothing")
    assert (unknown.returncode, "no batch 'nothing'" in unknown.stderr) == (1, True)


@pytest.mark.parametrize("ids", ["drawn", "numbered"])
def test_two_machines_that_make_one_batch_at_once_make_it_once(
    line: Fleet, tmp_path: Path, name: str, ids: str
) -> None:
    scheme = () if ids == "drawn" else ("--template", name + "-{seq:03d}")
    assert batch(line, "create", name, "--count", "300", "--expect", "300", *scheme).returncode == 0
    command = [*OTAHSM, "batch", "run", name, "--quiet", "--out"]
    machines = [tmp_path / "one", tmp_path / "two"]
    runs = [
        subprocess.Popen([*command, out], cwd=line.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for out in machines
    ]
    for run in runs:
        run.communicate(timeout=READY_SECONDS)
    state = good(line, "status", name)
    assert (state["issued"], state["remaining"]) == (300, 0)
    devices = [made(out) for out in machines]
    assert sum(map(len, devices)) == len(devices[0] | devices[1]) == 300
    # Whoever was slower knows it at the latest when it runs again, and keeps nothing without a certificate.
    for out in machines:
        again = batch(line, "run", name, "--out", out)
        assert again.returncode == 0, again.stderr
        assert {path.name for path in out.iterdir() if path.is_dir()} == made(out)
    assert [len(made(out)) for out in machines] == list(map(len, devices))
