"""What `otahsm revoke` reads from its options and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from otahsm.cli.commands.targets import read_targets
from otahsm.cli.inputs import serial_of
from otahsm.client import ToRevoke
from otahsm.errors import ConfigError
from otahsm.pki.serial import SerialNumber


@pytest.mark.parametrize("text", ["1a2B", "0x1a2b", "1A:2B", " 001a2b ", "0" * 40 + "1a2b"])
def test_a_serial_number_is_read_as_tools_print_it(text: str) -> None:
    assert serial_of(text, "--serial") == 0x1A2B


@pytest.mark.parametrize("text", ["", " ", "sensor-17", "-1a", "1" * 41, "1a 2b", "\uff11a", "0x"])
def test_what_is_no_serial_number_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="--serial takes a serial number"):
        serial_of(text, "--serial")


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("a\n\n b \na\n", [ToRevoke(device_id="a"), ToRevoke(device_id="b")]),
        ("1a2b\n", [ToRevoke(device_id="1a2b")]),  # without a heading it is a device
        (
            "serial\n1a2b\n00:FF\n",
            [ToRevoke(serial=SerialNumber(0x1A2B)), ToRevoke(serial=SerialNumber(0xFF))],
        ),
        (
            "\ufeffDevice_ID,where\r\na,here\r\nb,there\r\n",
            [ToRevoke(device_id="a"), ToRevoke(device_id="b")],
        ),
        (
            "why,serial,device_id\nlost,ff,a\nlost,,b\n,,\n",
            [ToRevoke(serial=SerialNumber(0xFF)), ToRevoke(device_id="b")],
        ),
    ],
)
def test_a_file_names_devices_or_serial_numbers(tmp_path: Path, text: str, targets: list[ToRevoke]) -> None:
    file = tmp_path / "file"
    file.write_text(text, encoding="utf-8")
    assert read_targets(file, "").targets == targets


def test_lines_that_name_the_same_again_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("serial,device_id\nff,\n00FF,\n,a\n,a\n,a\n")
    found = read_targets(file, "")
    assert (len(found.targets), found.repeated) == (2, 3)


def test_a_file_is_limited_to_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("serial,device_id\nff,\n,a\n")
    assert read_targets(file, "p").targets == [
        ToRevoke(serial=SerialNumber(0xFF), profile="p"),
        ToRevoke(device_id="a", profile="p"),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "names nothing"),
        (b"\n \n", "names nothing"),
        (b"serial\n", "names nothing"),
        (b"serial\nff\nxyz\n", "line 3: 'xyz' is not a serial number"),
        (b"serial,note\nff,\n,lost\n", "line 3 has neither"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_targets(file, "")
    with pytest.raises(ConfigError, match="can't read"):
        read_targets(tmp_path / "none", "")
