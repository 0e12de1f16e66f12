"""`otahsm device install` as it is typed: an image, a host, or an inventory of hosts."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.harness import Fleet
from support.programs import issue
from support.sshd import Devices, ssh_server


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module")
def folders(line: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("line") / "devices"
    issue(line, out, [f"inst-{number}" for number in range(20)])
    return out


def install(line: Fleet, folders: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return line.run("device", "install", "--devices", str(folders), *map(str, words))


def lines(done: subprocess.CompletedProcess[str]) -> list[Any]:
    return [json.loads(text) for text in done.stdout.splitlines()]


def test_an_image_gets_files_and_configuration(line: Fleet, folders: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    words = ("inst-0", "--root", str(image), "--sota-toml", "--hardware-id", "imx8")
    planned = install(line, folders, *words, "--dry-run")
    assert planned.returncode == 0
    assert not list(image.iterdir())
    key = (folders / "inst-0/pkey.pem").read_text()
    assert "/var/sota/import/pkey.pem  0600" in planned.stdout
    assert not any(text in planned.stdout for text in key.splitlines()[1:-1])
    assert install(line, folders, *words).stdout.startswith("1 installed")
    assert (image / "var/sota/import/pkey.pem").read_text() == key
    assert 'primary_ecu_hardware_id = "imx8"' in (image / "var/sota/sota.toml").read_text()
    assert "1 had their files already" in install(line, folders, *words).stdout


def test_many_hosts_are_installed_at_once_and_a_bad_one_costs_only_itself(
    line: Fleet, folders: Path, hosts: Devices, tmp_path: Path
) -> None:
    table = tmp_path / "hosts.csv"
    rows = [f"inst-{number},{hosts.address(number)},{hosts.port},root" for number in range(20)]
    table.write_text("device_id,host,port,user\n" + "\n".join(rows) + "\n")
    for number in range(19):
        hosts.add(number)  # the last one is not there
    words = ("--inventory", str(table), *hosts.options)
    done = install(line, folders, *words, "--json")
    *reports, summary = lines(done)
    assert (done.returncode, summary["installed"], summary["failed"]) == (1, 19, 1)
    (failed,) = (report for report in reports if report["type"] == "failed")
    assert failed["name"] == "inst-19"
    assert failed["hint"]
    for number in range(19):
        there = hosts.imported(number)
        for name in ("pkey.pem", "client.pem", "root.crt", "gateway.url"):
            assert (there / name).read_bytes() == (folders / f"inst-{number}" / name).read_bytes()
    # It is repaired, and the same command does what is missing.
    hosts.add(19)
    again = lines(install(line, folders, *words, "--json"))[-1]
    assert (again["installed"], again["complete_before"], again["failed"]) == (1, 19, 0)
    # A host that is another device already is left alone.
    swapped = install(line, folders, "inst-1", "--host", hosts.host(0), *hosts.options)
    assert swapped.returncode == 1
    assert "it is already the device inst-0" in swapped.stderr


def test_a_device_whose_key_is_in_its_token_gets_a_configuration_that_says_so(
    line: Fleet, folders: Path, tmp_path: Path
) -> None:
    image, devices = tmp_path / "image", tmp_path / "devices"
    image.mkdir()
    shutil.copytree(folders / "inst-2", devices / "inst-2")
    pin = tmp_path / "pin"
    pin.write_text("4711\n")
    pin.chmod(0o600)
    words = ("inst-2", "--root", str(image), "--sota-toml", "--p11-module", "/usr/lib/opensc-pkcs11.so")
    refused = install(line, devices, *words)
    assert (refused.returncode, "is in a file" in refused.stderr) == (2, True)
    (devices / "inst-2/pkey.pem").unlink()
    assert install(line, devices, *words, "--p11-pin-file", pin).returncode == 0
    toml = (image / "var/sota/sota.toml").read_text()
    assert 'module = "/usr/lib/opensc-pkcs11.so"\npass = "4711"' in toml
    assert {path.name for path in (image / "var/sota/import").iterdir()} == {
        "client.pem",
        "root.crt",
        "gateway.url",
    }
    refused = install(line, devices, "inst-2", "--root", image, "--sota-toml", "--replace")
    assert (refused.returncode, "is not in a file" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("device_id,host\ninst-0,a\ninst-0,b\n", "line 3: the device 'inst-0' is already on line 2"),
        ("device_id,host\ninst-0,a\ninst-1,a\n", "line 3: the host 'a' is already on line 2"),
        ("device_id,host\ninst-0,\n", "line 2 has no host"),
        ("device_id,host,port\ninst-0,a:22,23\n", "line 2: '23' is not a port for a:22"),
        ("device_id,host,user\ninst-0,root@a,me\n", "line 2 names two users"),
        ("device_id,host\ninst-0,a\nnobody,b\n", "nobody is not complete"),
        ("host\na\n", "line 1: the first line must name the columns"),
        ("\ufeffdevice_id,host\r\ninst-0,a\r\n\r\ninst-1\r\n", "line 4: it has 1 fields"),
    ],
)
def test_an_inventory_that_is_wrong_is_told_by_its_line_before_anything_is_done(
    line: Fleet, folders: Path, tmp_path: Path, content: str, said: str
) -> None:
    table = tmp_path / "hosts.csv"
    table.write_bytes(content.encode())
    done = install(line, folders, "--inventory", table)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("inst-0",),
        ("--root", "."),
        ("inst-0", "inst-1", "--root", "."),
        ("inst-0", "--root", ".", "--host", "a"),
        ("inst-0", "--host", "a b"),
        ("inst-0", "--root", "nowhere"),
        ("inst-0", "--root", ".", "--hardware-id", "x"),
        ("../inst-0", "--root", "."),
    ],
    ids=" ".join,
)
def test_wrong_use_is_told(line: Fleet, folders: Path, words: tuple[str, ...]) -> None:
    done = install(line, folders, *words)
    assert done.returncode in (1, 2)
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert "installed" not in done.stdout.replace("0 installed", "")
