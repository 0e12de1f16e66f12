"""The signers' journal: nothing is signed that is not in it, and what is taken out of it is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from otahsm.errors import ConfigError, TokenUnavailableError
from otahsm.pki.serial import make_serial
from otahsm.token.desk import codec
from otahsm.token.desk.journal import Journal, files_of, one_line
from otahsm.token.desk.journal_reading import (
    Entry,
    MachineJournal,
    SignedCertificate,
    SignedCheckpoint,
    SignedCrl,
    refusals_in,
)

from support.desks import LAST, NOW, THREE, Signer, crl, sign_checkpoint, sign_crl, values

DIGEST = bytes(range(32))


def signed_at(moment: datetime) -> SignedCertificate:
    serial = make_serial(os.urandom(14), int(moment.timestamp() * 1000))
    return SignedCertificate(serial.key, DIGEST)


def line_of(entry: SignedCertificate) -> str:
    return f"certificate {entry.serial.hex()} {entry.tbs_sha256.hex()}"


def read(folder: Path) -> tuple[MachineJournal, list[Entry]]:
    journal = MachineJournal(folder)
    return journal, list(journal.entries())


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signed")


def test_what_was_signed_is_read_again(signer: Signer) -> None:
    items = [values("device-1"), values("device-2")]
    signer.ask(codec.encode_certificates("ota-connect", items), 2)
    sign_crl(signer, LAST)
    sign_checkpoint(signer, THREE)
    journal, entries = read(signer.folder)
    certificates = [entry for entry in entries if isinstance(entry, SignedCertificate)]
    assert certificates == [SignedCertificate(item.serial.key, item.tbs_sha256) for item in items]
    (made,) = (entry for entry in entries if isinstance(entry, SignedCrl))
    assert (made.number, made.scope) == (5, "")
    assert SignedCheckpoint(3, THREE.root, THREE.origin) in entries
    assert (journal.findings, journal.gaps, journal.refused, journal.is_whole) == ([], [], 0, True)
    assert journal.begins is not None
    assert journal.ends is not None
    assert timedelta(0) <= journal.ends - journal.begins < timedelta(hours=1)


def test_an_entry_is_written_before_the_answer_is_complete(signer: Signer) -> None:
    answers = signer.desk.handle(codec.encode_certificates("ota-connect", [values("device-1")]))
    next(answers)
    assert len(signer.journal()) == 2  # the answer has not ended: nothing has left the process
    assert list(answers) == []
    assert signer.journal()[-1].startswith("certificate ")


def test_what_was_signed_before_the_token_failed_is_written_too(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = signer.desk.handle(
        codec.encode_certificates("ota-connect", [values("device-1"), values("device-2")])
    )
    next(answers)
    monkeypatch.setattr("support.desks.SoftKey.sign", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(answers)
    assert signer.journal()[-1].startswith("certificate ")


def test_two_processes_append_to_one_journal(tmp_path: Path) -> None:
    one, other = Journal(tmp_path), Journal(tmp_path)
    one.start()
    entries = [signed_at(NOW) for _ in range(20)]
    for number, entry in enumerate(entries):
        (one, other)[number % 2].append([line_of(entry)])
    journal, found = read(tmp_path)
    assert found == entries
    assert journal.findings == []


def test_a_full_file_is_closed_and_the_next_one_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otahsm.token.desk.journal._MOST_OCTETS", 1000)
    one, other = Journal(tmp_path), Journal(tmp_path)
    one.start()
    entries = [signed_at(NOW) for _ in range(40)]
    for number, entry in enumerate(entries):
        (one, other)[number % 2].append([line_of(entry)])
    files = files_of(tmp_path / "journal")
    assert len(files) >= 4
    journal, found = read(tmp_path)
    assert found == entries
    assert journal.findings == []
    # A file that was removed, changed or shortened is named.
    content = files[1].read_bytes()
    for damage in (
        content.replace(b"certificate", b"certificata", 1),
        b"".join(content.splitlines(keepends=True)[:-2]),
        b"\n".join(line for number, line in enumerate(content.split(b"\n")) if number != 3),
        content[:-30],
    ):
        files[1].write_bytes(damage)
        assert read(tmp_path)[0].findings, damage
    files[1].unlink()
    assert "does not follow" in read(tmp_path)[0].findings[0].what


def test_the_newest_file_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otahsm.token.desk.journal._MOST_OCTETS", 1000)
    journal = Journal(tmp_path)
    for _ in range(20):
        journal.append([line_of(signed_at(NOW))])
    files_of(tmp_path / "journal")[-1].unlink()
    assert [finding.what for finding in read(tmp_path)[0].findings] == ["the file after it is missing"]


def test_a_folder_that_was_moved_and_put_back_is_written_to(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([line_of(signed_at(NOW))])
    shutil.copytree(tmp_path / "journal", tmp_path / "copy")
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "copy").rename(tmp_path / "journal")
    journal.append([line_of(signed_at(NOW))])
    assert len(read(tmp_path)[1]) == 2


def test_a_disk_that_is_full_when_a_file_begins_leaves_no_half_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    with monkeypatch.context() as full:
        full.setattr("otahsm.token.desk.journal.create_file", fail)
        with pytest.raises(TokenUnavailableError, match="No space left"):
            journal.start()
    journal.start()
    journal.append([line_of(signed_at(NOW))])
    found, entries = read(tmp_path)
    assert (found.findings, len(entries)) == ([], 1)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff" * 100, b"journal 1 1 -"])
def test_a_file_that_is_no_journal_is_a_finding_and_no_surprise(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/00000001.log").write_bytes(content)
    journal, entries = read(tmp_path)
    assert entries == []
    assert len(journal.findings) == 1
    assert refusals_in(tmp_path, NOW) == (0, "")


def test_a_probe_shows_that_the_journal_is_kept(signer: Signer) -> None:
    (path,) = files_of(signer.folder / "journal")
    os.utime(path, (1, 1))
    assert read(signer.folder)[0].ends == datetime.fromtimestamp(1, UTC)
    signer.ask([codec.PROBE])
    ends = read(signer.folder)[0].ends
    assert ends is not None
    assert ends > NOW - timedelta(days=3650)


def test_the_oldest_files_may_be_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otahsm.token.desk.journal._MOST_OCTETS", 1000)
    journal = Journal(tmp_path)
    for _ in range(40):
        journal.append([line_of(signed_at(NOW))])
    files_of(tmp_path / "journal")[0].unlink()
    found, _ = read(tmp_path)
    assert (found.findings, found.is_whole, found.begins) == ([], False, NOW)


def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, booted: datetime) -> Journal:
    """Have a signer start on a machine that was booted then."""
    since = (datetime.now(UTC) - booted).total_seconds()
    monkeypatch.setattr("otahsm.token.desk.journal._since_boot", lambda: since)
    journal = Journal(tmp_path)
    journal.start()
    return journal


def test_what_a_machine_that_went_down_took_along_is_a_gap_and_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    first = boot(tmp_path, monkeypatch, now - timedelta(days=9))
    entries = [signed_at(now) for _ in range(2)]
    first.append([line_of(entry) for entry in entries])
    (path,) = files_of(tmp_path / "journal")
    path.write_bytes(path.read_bytes()[:-50])  # what was not on the disk yet
    second = boot(tmp_path, monkeypatch, now - timedelta(seconds=4))
    third = signed_at(now)
    second.append([line_of(third)])
    journal, found = read(tmp_path)
    assert found == [entries[0], third]
    assert journal.findings == []
    (gap,) = journal.gaps
    assert gap.begin < now < gap.end


def test_nobody_makes_a_gap_by_starting_signers(tmp_path: Path) -> None:
    for _ in range(5):
        Journal(tmp_path).start()
    assert read(tmp_path)[0].gaps == []


def test_a_clock_that_was_ahead_makes_no_gap_that_ends_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    ahead = boot(tmp_path, monkeypatch, now)
    ahead.append([line_of(signed_at(now + timedelta(days=1)))])
    boot(tmp_path, monkeypatch, now - timedelta(seconds=60))
    (gap,) = read(tmp_path)[0].gaps
    assert gap.begin < gap.end


def test_a_signer_that_is_killed_leaves_no_gap(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.start()
    first.append([line_of(signed_at(NOW))])
    (path,) = files_of(tmp_path / "journal")
    path.write_bytes(path.read_bytes() + b"certificate 0123")  # killed within a write
    Journal(tmp_path).start()
    journal, _ = read(tmp_path)
    assert (journal.findings, journal.gaps) == ([], [])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "certificate",
        "certificate 00 00",
        f"certificate {'0' * 40} {'g' * 64}",
        f"certificate {'0' * 40} {'0' * 64} more",
        "crl 00 1",
        "crl 00 x " + "0" * 64 + ' ""',
        "crl 00 1 " + "0" * 64 + " [" * 5000,
        "checkpoint 1 00 log",
        "start yesterday boot 1",
        "another word",
        "\x00",
    ],
)
def test_a_line_that_no_signer_writes_is_named(tmp_path: Path, line: str) -> None:
    journal = Journal(tmp_path)
    journal.start()
    journal.append([line_of(signed_at(NOW)), line, line_of(signed_at(NOW))])
    found, entries = read(tmp_path)
    assert len(entries) == 2
    assert [finding.what for finding in found.findings] == [f"this is no entry: {line[:80]!a}"]
    assert found.findings[0].where.endswith("00000001.log, line 4")


def test_a_refusal_is_one_plain_line(signer: Signer) -> None:
    list(signer.desk.handle(codec.encode_certificates("no\n\x1b[2J\u202eprofile", [values()])))
    assert len(signer.journal()) == 3
    assert signer.journal()[-1].isprintable()
    journal, _ = read(signer.folder)
    assert journal.refused == 1
    assert "there is no profile" in journal.last_refusal


@pytest.mark.parametrize("text", ["\n", "\x00", "\ud800", "ä" * 1000, "\u2028", "~"])
def test_what_is_said_fits_a_line(text: str) -> None:
    assert one_line(text).isascii()
    assert one_line(text).isprintable()
    assert len(one_line(text)) <= 500


def fail(*_: object) -> int:
    raise OSError(28, "No space left on device")


def half(descriptor: int, content: bytes, write: Callable[[int, bytes], int] = os.write) -> int:
    return write(descriptor, content[: len(content) // 2])


@pytest.mark.parametrize("fault", [fail, half])
def test_what_can_not_be_written_down_is_not_signed(
    signer: Signer, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., int]
) -> None:
    before = signer.journal()
    request = codec.encode_certificates("ota-connect", [values("device-1")])
    with monkeypatch.context() as full:
        full.setattr(os, "write", fault)
        with pytest.raises(TokenUnavailableError, match="No space left") as caught:
            signer.ask(request)
    assert "sign nothing without it" in caught.value.message
    assert signer.journal() == before
    assert isinstance(signer.ask(request)[0], bytes)
    assert read(signer.folder)[0].findings == []


def test_a_crl_that_can_not_be_remembered_is_not_released(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_crl(signer, LAST)
    with monkeypatch.context() as full:
        full.setattr("otahsm.token.desk.memory.replace_files", fail)
        with pytest.raises(TokenUnavailableError, match="No space left"):
            sign_crl(signer, crl(6))


def test_a_folder_without_a_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no journal"):
        MachineJournal(tmp_path)
    with pytest.raises(ConfigError, match="can't read the journal"):
        MachineJournal(tmp_path / "nowhere")
