"""Devices that were issued before registration was configured are entered from their folders."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.errors import (
    FolderError,
)
from otahsm.line import Device, DeviceFolders, Run
from otahsm.line.layouts import LayoutName
from otahsm.line.run_state import RunState
from otahsm.registration.collecting import Collected, certificate_of, collect
from otahsm.registration.outbox import Outbox

from support.authority import leaf, root_of
from support.backend import backend_running
from support.registering import (
    PEM,
    SERIAL,
    fill,
    issued,
    rows,
    run,
)


@pytest.mark.parametrize("layout", ["seed", "aktualizr", "flat", "tar"])
def test_devices_that_were_issued_before_are_entered_from_their_folders(
    layout: LayoutName, tmp_path: Path
) -> None:
    opened = DeviceFolders(tmp_path, root_of("ec-p256"), layout=layout)
    certificates = {name: leaf(name, "ec-p256", serial=SERIAL) for name in ("a", "b")}
    opened.finish({name: [certificate] for name, certificate in certificates.items()})
    opened.close()
    fill(tmp_path, Device("a", {"plant": "Ulm"}), "b", "gone", announce=False)
    fill(tmp_path, Device("a", {"plant": "of a later order"}), announce=False)
    with contextlib.closing(RunState(tmp_path)) as book:
        assert collect(book) == Collected(2, 1)
        assert collect(book) == Collected(0, 1)
    entered = [(row["device_id"], row["serial"], row["profile"], row["attributes"]) for row in rows(tmp_path)]
    assert entered == [("a", "17", "gold", '{"plant": "Ulm"}'), ("b", "17", "gold", "{}")]
    with backend_running() as backend:
        run(tmp_path, backend.url)
    sent = [x509.load_pem_x509_certificate(seen.json["certificate"].encode()) for seen in backend.seen]
    assert {certificate.public_bytes(Encoding.DER) for certificate in sent} == set(certificates.values())


def test_what_was_entered_or_registered_is_not_entered_again_but_a_new_certificate_is(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with backend_running() as backend:
        run(tmp_path, backend.url)
    with contextlib.closing(RunState(tmp_path)) as book:
        assert collect(book) == Collected(0, 0)
        renewed = leaf("dev", "ec-p256", serial=0x99)
        opened = DeviceFolders(tmp_path, root_of("ec-p256"))
        opened.finish({"dev": [renewed]})
        order = Run.open(opened, ["renewal"])
        order.record_complete(["dev"])  # of what serial number is not known
        assert collect(book) == Collected(0, 0)
        order.record([issued("dev", 0x99, renewed)])
        assert collect(book) == Collected(1, 0)
        opened.close()
    assert [row["serial"] for row in rows(tmp_path)] == ["17", "99"]


def test_thousands_of_devices_are_entered(tmp_path: Path) -> None:
    devices = [f"d{number}" for number in range(1500)]
    for device in devices:
        (tmp_path / f"{device}.client.pem").write_text(PEM)
    fill(tmp_path, *devices, announce=False)
    with contextlib.closing(RunState(tmp_path)) as book:
        assert collect(book) == Collected(1500, 0)
    assert {row["device_id"] for row in rows(tmp_path)} == set(devices)


@pytest.mark.parametrize("content", [b"", b"no PEM", PEM.encode()[:300], b"\xff" * 100])
def test_a_broken_certificate_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dev.client.pem").write_bytes(content)
    (tmp_path / "dev.tar").write_bytes(content)
    assert certificate_of(tmp_path, "dev") is None


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"/devices is not a folder") as raised:
        Outbox(tmp_path / "devices")
    assert "--devices" in raised.value.hint
    assert not (tmp_path / "devices").exists()
