"""`otahsm device issue` as the line types it: folders, ids, and runs that go on where others stopped."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from otahsm.line import DeviceFolders, Run, random_devices
from otahsm.line.run_state import RUN_STATE
from otahsm.pki.serial import SerialNumber

from support.harness import Fleet, free_port
from support.programs import issue


def issue_json(
    line: Fleet, out: Path, *options: str
) -> tuple[subprocess.CompletedProcess[str], list[Any], dict[str, Any]]:
    """Run `device issue --json`; return what it wrote: its reports, and its summary."""
    done = line.run("device", "issue", "--json", "--out", str(out), *options)
    *reports, summary = [json.loads(text) for text in done.stdout.splitlines()]
    assert summary["type"] == "summary"
    assert summary["folder"] == str(out)
    return done, reports, summary


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != RUN_STATE
    }


def test_a_count_makes_so_many_devices_and_a_json_line_for_each(line: Fleet, tmp_path: Path) -> None:
    done, reports, summary = issue_json(line, tmp_path / "devices", "--count", "20")
    assert done.returncode == 0
    assert done.stderr == ""
    assert [report["type"] for report in reports] == ["issued"] * 20
    assert (summary["issued"], summary["complete_before"], summary["failed"]) == (20, 0, 0)
    assert len({report["device_id"] for report in reports}) == 20
    for report in reports:
        folder = Path(report["folder"])
        assert folder == tmp_path / "devices" / str(uuid.UUID(report["device_id"]))
        certificate = x509.load_pem_x509_certificate((folder / "client.pem").read_bytes())
        assert report["serial"] == SerialNumber(certificate.serial_number).hex()


def test_people_get_one_line_that_sums_up(line: Fleet, tmp_path: Path) -> None:
    done = line.run("device", "issue", "--count", "2", "--out", str(tmp_path / "devices"))
    assert done.returncode == 0
    assert re.fullmatch(r"2 issued in .* s \(.* a second\), 0 failed; folders in .*/devices\n", done.stdout)
    assert done.stderr == ""


def test_a_device_folder_holds_what_the_guide_puts_there(line: Fleet, tmp_path: Path) -> None:
    (folder,) = issue(line, tmp_path / "devices", ["dev-folder"])
    assert {path.name: path.lstat().st_mode & 0o777 for path in folder.iterdir()} == {
        "pkey.ec.pem": 0o600,
        "pkey.pem": 0o600,
        "dev-folder.csr": 0o644,
        "client.pem": 0o644,
        "dev-folder.chain.pem": 0o644,
        "ca.pem": 0o777,  # a symbolic link
        "root.crt": 0o644,
        "gateway.url": 0o644,
    }
    gateway_ca = line.folder / "gateway/server_ca.pem"
    assert (folder / "ca.pem").is_symlink()
    assert (folder / "ca.pem").resolve() == gateway_ca.resolve()
    assert (folder / "root.crt").read_bytes() == gateway_ca.read_bytes()
    assert (folder / "gateway.url").read_text() == "https://localhost:8000"
    chain = x509.load_pem_x509_certificates((folder / "dev-folder.chain.pem").read_bytes())
    client, root = ((folder / "client.pem").read_bytes(), line.root_pem.read_bytes())
    assert chain == [x509.load_pem_x509_certificate(pem) for pem in (client, root)]
    assert {path.name for path in folder.parent.iterdir()} == {"dev-folder", ".lock", RUN_STATE}


def test_an_id_file_may_come_from_windows_and_have_blank_lines(line: Fleet, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_bytes(b"\xef\xbb\xbfwin-1\r\n\r\n  win-2  \r\n\r\nwin-3")
    done, reports, _ = issue_json(line, tmp_path / "devices", "--ids", str(ids))
    assert done.returncode == 0
    assert {report["device_id"] for report in reports} == {"win-1", "win-2", "win-3"}


def test_an_id_file_that_names_a_device_twice_is_refused_with_both_lines(line: Fleet, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("twice-1\n\ntwice-2\ntwice-1\n")
    done = line.run("device", "issue", "--ids", str(ids), "--out", str(tmp_path / "devices"))
    assert done.returncode == 2
    assert "line 4: 'twice-1' is already on line 1" in done.stderr
    assert not (tmp_path / "devices").exists()


@pytest.mark.parametrize("content", [b"\n \r\n", b"\xff\xfe", None], ids=["blank", "utf-16", "missing"])
def test_an_id_file_that_names_nothing_is_explained(
    line: Fleet, tmp_path: Path, content: bytes | None
) -> None:
    ids = tmp_path / "ids.txt"
    if content is not None:
        ids.write_bytes(content)
    done = line.run("device", "issue", "--ids", str(ids), "--out", str(tmp_path / "devices"))
    assert done.returncode == 2
    assert str(ids) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "devices").exists()


def test_bad_ids_fail_one_by_one_while_the_others_get_their_certificates(line: Fleet, tmp_path: Path) -> None:
    bad = {"../escape", "a/b", "with space", ".hidden", "x" * 129, "d\u00e9vice", "a..b", "semi;colon"}
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(["fine-1", *sorted(bad), "fine-2"]), encoding="utf-8")
    done, reports, summary = issue_json(line, tmp_path / "devices", "--ids", str(ids))
    assert done.returncode == 1
    assert {report["device_id"] for report in reports if report["type"] == "issued"} == {"fine-1", "fine-2"}
    failed = [report for report in reports if report["type"] == "failed"]
    assert {report["name"] for report in failed} == bad
    for report in failed:
        assert (report["code"], report["reason"]) == ("INVALID_ARGUMENT", "BAD_REQUEST")
        assert "device id" in report["message"]
        assert report["hint"]
    assert (summary["issued"], summary["failed"]) == (2, len(bad))
    assert {path.name for path in tmp_path.iterdir()} == {"ids.txt", "devices"}
    complete = {path.parent.name for path in tmp_path.rglob("client.pem")}
    assert complete == {"fine-1", "fine-2"}


def test_people_are_told_of_every_device_that_failed(line: Fleet, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("[bold]fine[/bold]\n.hidden\n")
    done = line.run("device", "issue", "--ids", str(ids), "--out", str(tmp_path / "devices"))
    assert done.returncode == 1
    first, second = sorted(done.stderr.splitlines())
    assert first.startswith("failed: '.hidden': ")
    assert second.startswith("failed: '[bold]fine[/bold]': ")
    assert done.stdout.startswith("0 issued")
    assert "2 failed" in done.stdout


def test_the_same_command_again_leaves_complete_folders_alone(line: Fleet, tmp_path: Path) -> None:
    ids = ["again-1", "again-2", "again-3"]
    issue(line, tmp_path / "devices", ids)
    before = contents(tmp_path / "devices")
    done, reports, summary = issue_json(
        line, tmp_path / "devices", "--ids", str(tmp_path / "devices.ids"), "--key-type", "ed25519"
    )
    assert done.returncode == 0
    assert [report["type"] for report in reports] == ["complete"] * 3
    assert (summary["issued"], summary["complete_before"], summary["failed"]) == (0, 3, 0)
    assert contents(tmp_path / "devices") == before


def test_a_folder_that_was_begun_is_finished_with_the_same_key_and_certificate(
    line: Fleet, tmp_path: Path
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    folders = issue(line, tmp_path / "devices", ids)
    before = contents(tmp_path / "devices")
    for name in ("client.pem", f"{ids[1]}.chain.pem", "ca.pem", "root.crt", "gateway.url"):
        (folders[1] / name).unlink()
    done, reports, summary = issue_json(line, tmp_path / "devices", "--ids", str(tmp_path / "devices.ids"))
    assert done.returncode == 0
    assert [report["device_id"] for report in reports if report["type"] == "issued"] == [ids[1]]
    assert (summary["issued"], summary["failed"]) == (1, 0)
    after = contents(tmp_path / "devices")
    assert {path: content for path, (content, _) in after.items()} == {
        path: content for path, (content, _) in before.items()
    }
    assert after[folders[1] / "pkey.pem"] == before[folders[1] / "pkey.pem"]
    assert (folders[1] / "ca.pem").is_symlink()


def test_a_begun_folder_whose_csr_is_damaged_fails_alone_and_keeps_its_key(
    line: Fleet, tmp_path: Path
) -> None:
    damaged, _ = issue(line, tmp_path / "devices", ["damaged-1", "damaged-2"])
    key = (damaged / "pkey.pem").read_bytes()
    (damaged / "client.pem").unlink()
    (damaged / "damaged-1.csr").write_text("-----BEGIN NOTHING-----\n")
    done, reports, _ = issue_json(line, tmp_path / "devices", "--ids", str(tmp_path / "devices.ids"))
    assert done.returncode == 1
    assert {(report["type"], report.get("name", report.get("device_id"))) for report in reports} == {
        ("failed", "damaged-1"),
        ("complete", "damaged-2"),
    }
    assert (damaged / "pkey.pem").read_bytes() == key
    assert not (damaged / "client.pem").exists()


def interrupt(line: Fleet, tmp_path: Path, count: int) -> tuple[Path, list[Any]]:
    """Leave a run as one that was killed leaves it: ids are drawn, and a part of them is issued."""
    devices = tmp_path / "devices"
    folders = DeviceFolders(devices, b"")
    made = ("--key-type", "ec-p256", "--profile", "", "--layout", "seed")
    asked = ["device issue", "--count", str(count), *made]
    order = Run.open(folders, asked, random_devices(count), drawn=True)
    ids = [device.device_id for device in order.devices()]
    folders.close()
    issue(line, devices, ids[: count // 2])
    return devices, ids


def test_a_count_goes_on_with_the_ids_that_it_drew(line: Fleet, tmp_path: Path) -> None:
    devices, ids = interrupt(line, tmp_path, 10)
    done, reports, summary = issue_json(line, devices, "--count", "10")
    assert done.returncode == 0
    assert done.stderr == ""
    assert {report["device_id"] for report in reports} == set(ids)
    assert (summary["issued"], summary["complete_before"], summary["failed"]) == (5, 5, 0)
    assert {path.name for path in devices.iterdir()} == {*ids, ".lock", RUN_STATE}
    done, reports, summary = issue_json(line, devices, "--count", "10")
    assert (summary["issued"], summary["complete_before"]) == (10, 0)


def test_another_count_leaves_an_unfinished_one_alone_and_names_it(line: Fleet, tmp_path: Path) -> None:
    devices, ids = interrupt(line, tmp_path, 10)
    done, reports, summary = issue_json(line, devices, "--count", "4")
    assert done.returncode == 0
    assert "unfinished: device issue --count 10 --key-type ec-p256 --profile '' --layout seed" in done.stderr
    assert (summary["issued"], summary["complete_before"]) == (4, 0)
    assert not {report["device_id"] for report in reports} & set(ids)
    assert issue_json(line, devices, "--count", "10")[2]["issued"] == 5


def test_a_new_count_can_be_wanted_while_one_is_unfinished(line: Fleet, tmp_path: Path) -> None:
    devices, ids = interrupt(line, tmp_path, 10)
    done, reports, summary = issue_json(line, devices, "--count", "10", "--no-resume")
    assert done.returncode == 0
    assert (summary["issued"], summary["complete_before"]) == (10, 0)
    assert not {report["device_id"] for report in reports} & set(ids)
    # Both have ended: the same words are another order.
    assert issue_json(line, devices, "--count", "10")[2]["complete_before"] == 0


def test_a_folder_that_was_taken_away_meanwhile_is_not_made_again(line: Fleet, tmp_path: Path) -> None:
    devices, ids = interrupt(line, tmp_path, 4)
    for device_id in ids[2:]:
        (devices / device_id).mkdir()  # not ours: these two fail
    assert issue_json(line, devices, "--count", "4")[2]["failed"] == 2
    (devices / ids[0]).rename(tmp_path / "shipped")
    for device_id in ids[2:]:
        (devices / device_id).rmdir()
    done, reports, _ = issue_json(line, devices, "--count", "4")
    assert done.returncode == 0
    assert {report["device_id"]: report["type"] for report in reports} == {
        ids[0]: "complete",
        ids[1]: "complete",
        ids[2]: "issued",
        ids[3]: "issued",
    }
    assert not (devices / ids[0]).exists()


def test_a_refusal_is_remembered_until_it_is_asked_for_again(line: Fleet, tmp_path: Path) -> None:
    issue(line, tmp_path / "first", ["taken-1"])
    second = tmp_path / "second"
    ids = tmp_path / "ids.txt"
    ids.write_text("taken-1\ntaken-2\n")
    done, reports, _ = issue_json(line, second, "--ids", str(ids))
    assert done.returncode == 1
    (first_answer,) = (report for report in reports if report["type"] == "failed")
    assert (first_answer["reason"], first_answer["remembered"]) == ("CONFLICT", False)
    done, reports, summary = issue_json(line, second, "--ids", str(ids))
    assert done.returncode == 1
    assert {**first_answer, "remembered": True} in reports
    assert (summary["issued"], summary["complete_before"], summary["failed"]) == (0, 1, 1)
    people = line.run("device", "issue", "--ids", str(ids), "--out", str(second))
    assert "[CONFLICT]" in people.stderr
    assert "--retry-refused requests it again" in people.stderr
    # What was wrong is put right: the device has the key that its certificate is for.
    shutil.rmtree(second / "taken-1")
    shutil.copytree(tmp_path / "first/taken-1", second / "taken-1")
    (second / "taken-1/client.pem").unlink()
    assert issue_json(line, second, "--ids", str(ids))[0].returncode == 1
    done, reports, _ = issue_json(line, second, "--ids", str(ids), "--retry-refused")
    assert done.returncode == 0
    assert {report["type"] for report in reports} == {"issued", "complete"}


def test_a_damaged_memory_of_a_run_is_explained(line: Fleet, tmp_path: Path) -> None:
    devices, _ = interrupt(line, tmp_path, 2)
    (devices / RUN_STATE).write_text("what?\n" * 1000)
    done = line.run("device", "issue", "--count", "2", "--out", str(devices))
    assert done.returncode == 2
    assert f"{devices / RUN_STATE} is damaged" in done.stderr
    assert "Move it away" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_commands_do_not_write_to_one_folder(line: Fleet, tmp_path: Path) -> None:
    other = DeviceFolders(tmp_path / "devices", b"")
    done = line.run("device", "issue", "--count", "1", "--out", str(tmp_path / "devices"))
    other.close()
    assert done.returncode == 2
    assert "another otahsm command is writing" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [(), ("--count", "1", "--ids", "x")], ids=" ".join)
def test_what_to_make_is_said_once(line: Fleet, options: tuple[str, ...]) -> None:
    done = line.run("device", "issue", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def assert_one_clear_message(done: subprocess.CompletedProcess[str], *words: str) -> None:
    message, hint = done.stderr.splitlines()
    assert message.startswith("otahsm: can't reach the daemon at ")
    assert hint.startswith("        ")
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""


def test_without_a_daemon_there_is_one_clear_message_and_exit_code_3(fleet: Fleet) -> None:
    address = f"localhost:{free_port()}"
    fleet.edit("target = ", f'target = "{address}"  # ')
    done = fleet.run("device", "issue", "--count", "1", "--patience", "0", "--json")
    assert done.returncode == 3
    assert_one_clear_message(done, address, "Connection refused", "otahsm serve")
    assert not (fleet.folder / "devices").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('certificate = "tls/client.pem"\nkey = "tls/client.key"', "{server}"),
        ('ca = "tls/operator-ca.pem"\ncert', 'ca = "gateway/server_ca.pem"\ncert'),
    ],
    ids=["not-a-client", "ca-of-another"],
)
def test_wrong_credentials_get_one_clear_message_and_exit_code_3(
    line: Fleet, tmp_path: Path, old: str, new: str
) -> None:
    server = 'certificate = "tls/server.pem"\nkey = "tls/server.key"'
    text = line.toml.read_text()
    assert text.count(old) == 1
    config = line.folder / f"{tmp_path.name}.toml"  # beside the other: its paths are relative
    config.write_text(text.replace(old, new.format(server=server)))
    done = line.run("device", "issue", "--count", "1", "--patience", "0", "--config", str(config))
    assert done.returncode == 3
    assert_one_clear_message(done, "[client] ca, certificate and key")


def test_a_missing_credential_is_named(fleet: Fleet) -> None:
    fleet.tls.key.unlink()
    done = fleet.run("device", "issue", "--count", "1")
    assert done.returncode == 2
    assert "tls/client.key: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr
