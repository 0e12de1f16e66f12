"""Orders: what they remember outlives the process, however it ended."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from otahsm.client import CertificateRequest, DeviceFolders, IssuedCertificate, Order, Refusal
from otahsm.errors import FolderError

ASKED = ["device issue", "--count", "3"]
WHEN = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[DeviceFolders]:
    opened = DeviceFolders(tmp_path, b"")
    yield opened
    opened.close()


def issued(device_id: str, request: CertificateRequest | None = None) -> IssuedCertificate:
    request = request or CertificateRequest(b"csr", device_id)
    return IssuedCertificate(request, device_id, 0x17, (b"der",), WHEN, WHEN, replayed=False)


def refused(device_id: str, code: str = "ALREADY_EXISTS") -> Refusal:
    return Refusal(CertificateRequest(b"csr", device_id), code, "CONFLICT", "it is taken", "take another")


def asking(device_id: str) -> CertificateRequest:
    return CertificateRequest(b"", device_id)


def file_of(folders: DeviceFolders) -> Path:
    (path,) = folders.root.glob(".order-*")
    return path


def test_the_same_words_get_the_same_ids_until_the_order_is_done(folders: DeviceFolders) -> None:
    first = Order.open(folders, ASKED, count=3)
    again = Order.open(folders, ASKED, count=3)
    assert (first.resumed, again.resumed) == (False, True)
    assert len(set(first.device_ids)) == 3
    assert again.device_ids == first.device_ids
    again.remove()
    assert set(Order.open(folders, ASKED, count=3).device_ids).isdisjoint(first.device_ids)


def test_other_words_are_another_order(folders: DeviceFolders) -> None:
    one = Order.open(folders, ASKED, count=3)
    other = Order.open(folders, [*ASKED, "--profile", "gold"], count=3)
    assert set(one.device_ids).isdisjoint(other.device_ids)
    assert Order.open(folders, ASKED, count=3).device_ids == one.device_ids


def test_a_new_order_can_be_wanted(folders: DeviceFolders) -> None:
    first = Order.open(folders, ASKED, count=3)
    second = Order.open(folders, ASKED, count=3, resume=False)
    assert set(first.device_ids).isdisjoint(second.device_ids)
    assert Order.open(folders, ASKED, count=3).device_ids == second.device_ids


def test_outcomes_are_remembered(folders: DeviceFolders) -> None:
    order = Order.open(folders, ASKED)
    order.record([issued("a"), refused("b"), refused("c", "UNAVAILABLE"), refused("d", "INTERNAL")])
    order = Order.open(folders, ASKED)
    assert order.is_done(folders, asking("a")) == "a"  # there is no folder: it was taken away
    refusal = order.refusal(asking("b"))
    assert refusal is not None
    assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "CONFLICT")
    assert (refusal.message, refusal.hint) == ("it is taken", "take another")
    for device_id in "cd":  # neither was about the device
        assert order.refusal(asking(device_id)) is None
        assert order.is_done(folders, asking(device_id)) is None


def test_a_refusal_is_forgotten_on_request_and_when_it_was_granted_after_all(folders: DeviceFolders) -> None:
    Order.open(folders, ASKED).record([refused("a"), refused("b")])
    order = Order.open(folders, ASKED, retry_refused=True)
    assert order.refusal(asking("a")) is None
    order.record([issued("a")])
    order = Order.open(folders, ASKED)
    assert order.refusal(asking("a")) is None
    assert order.is_done(folders, asking("a")) == "a"
    assert order.refusal(asking("b")) is not None


def test_a_device_with_its_own_csr_is_found_by_the_csr(folders: DeviceFolders) -> None:
    request = CertificateRequest(b"its own")
    order = Order.open(folders, ASKED)
    order.record([issued("a", request), Refusal(CertificateRequest(b"bad"), "INVALID_ARGUMENT", "", "", "")])
    order = Order.open(folders, ASKED)
    assert order.is_done(folders, request) == "a"
    assert order.is_done(folders, CertificateRequest(b"another")) is None
    assert order.refusal(CertificateRequest(b"bad")) is not None


def test_a_folder_that_lost_its_certificate_is_not_done(folders: DeviceFolders) -> None:
    order = Order.open(folders, ASKED)
    order.record([issued("a")])
    (folders.root / "a").mkdir()
    assert Order.open(folders, ASKED).is_done(folders, asking("a")) is None


def test_a_complete_folder_is_done_and_stays_so_when_it_is_taken_away(folders: DeviceFolders) -> None:
    folders.finish({"a": [b"der"]})
    order = Order.open(folders, ASKED)
    assert order.is_done(folders, asking("a")) == "a"
    order.record_complete(["a"])
    for path in (folders.root / "a").iterdir():
        path.unlink()
    (folders.root / "a").rmdir()
    assert Order.open(folders, ASKED).is_done(folders, asking("a")) == "a"


def test_an_order_that_is_not_written_down_knows_only_the_folders(folders: DeviceFolders) -> None:
    order = Order()
    order.record([issued("a"), refused("b")])
    order.remove()
    assert order.is_done(folders, asking("a")) is None
    assert order.refusal(asking("b")) is None
    assert not list(folders.root.glob(".order-*"))


def test_a_last_line_cut_anywhere_is_mended_and_costs_itself_alone(folders: DeviceFolders) -> None:
    order = Order.open(folders, ASKED, count=3)
    order.record([issued("a")])
    whole = file_of(folders).read_bytes()
    order.record([issued("b")])
    longer = file_of(folders).read_bytes()
    for cut in range(len(whole), len(longer)):
        file_of(folders).write_bytes(longer[:cut])
        order = Order.open(folders, ASKED, count=3)
        assert order.is_done(folders, asking("a")) == "a"
        assert order.is_done(folders, asking("b")) is None
        order.record([issued("c")])
        assert file_of(folders).read_bytes().startswith(whole)
        assert Order.open(folders, ASKED, count=3).is_done(folders, asking("c")) == "c"


@pytest.mark.parametrize(
    ("line", "content"),
    [
        (2, b"\0\0\0\n"),
        (2, b"[]\n"),
        (2, b'{"type": "lost", "device_id": "a"}\n'),
        (2, b'{"type": "issued"}\n'),
        (2, b'{"type": "refused", "device_id": "a"}\n'),
        (2, b'{"type": "order", "version": 1, "device_ids": []}\n'),
        (1, b'{"type": "issued", "device_id": "a"}\n'),
        (1, b'{"type": "order", "version": 1'),
        (1, b""),
    ],
)
def test_a_damaged_line_is_named_and_a_new_order_can_be_begun(
    folders: DeviceFolders, line: int, content: bytes
) -> None:
    Order.open(folders, ASKED, count=3).record([issued("a"), issued("b")])
    lines = file_of(folders).read_bytes().splitlines(keepends=True)
    lines[line - 1] = content
    file_of(folders).write_bytes(b"".join(lines) if content.endswith(b"\n") else content)
    with pytest.raises(FolderError, match=r"line 1 is damaged|line 2 is damaged|is empty") as raised:
        Order.open(folders, ASKED, count=3)
    assert str(file_of(folders)) in raised.value.message
    assert "--no-resume" in raised.value.hint
    assert not Order.open(folders, ASKED, count=3, resume=False).resumed


def test_another_versions_order_is_refused_and_left_alone(folders: DeviceFolders) -> None:
    Order.open(folders, ASKED)
    head = json.loads(file_of(folders).read_bytes())
    content = json.dumps({**head, "version": 2, "more": True}) + "\n"
    file_of(folders).write_text(content)
    with pytest.raises(FolderError, match="version 2") as raised:
        Order.open(folders, ASKED)
    assert "the otahsm that began it" in raised.value.hint
    assert file_of(folders).read_text() == content


def test_a_full_disk_is_said_and_what_was_written_before_is_kept(folders: DeviceFolders) -> None:
    order = Order.open(folders, ASKED, count=3)
    order.record([issued("a")])
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_of(folders).stat().st_size + 5, unlimited[1]))
    try:
        with pytest.raises(FolderError, match="can't be written: File too large"):
            order.record([issued("b")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    again = Order.open(folders, ASKED, count=3)
    assert again.device_ids == order.device_ids
    assert again.is_done(folders, asking("a")) == "a"
    assert again.is_done(folders, asking("b")) is None
