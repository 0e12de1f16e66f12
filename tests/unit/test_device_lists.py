"""Where device ids come from: every way gives each device once, and a bad file is told by its line."""

from __future__ import annotations

import json
import tracemalloc
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otahsm.errors import ConfigError
from otahsm.line import (
    Device,
    DeviceList,
    devices_of_serials,
    listed_devices,
    numbered_devices,
    parse_namespace,
    random_devices,
    templated_devices,
)
from otahsm.templates import Template

NUMBERS = frozenset({"seq"})


def template(text: str) -> Template:
    return Template.parse(text, numbers=NUMBERS)


def ids(devices: DeviceList) -> list[str]:
    return [device.device_id for device in devices]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_random_ids_are_uuids_of_version_4() -> None:
    drawn = [uuid.UUID(device.device_id) for device in random_devices(100)]
    assert len(set(drawn)) == 100
    assert {(each.version, each.variant) for each in drawn} == {(4, uuid.RFC_4122)}


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.csv", ["Device ID,Plant-Name,note", 'd1,Ulm,"a, b"', "", "d2,Köln,"]),
        (
            "a.jsonl",
            [
                '{"device_id": "d1", "plant_name": "Ulm", "note": "a, b"}',
                "",
                '{"device_id": "d2", "plant_name": "K\\u00f6ln", "note": ""}',
            ],
        ),
    ],
    ids=["csv", "jsonl"],
)
def test_further_columns_are_what_is_known_of_a_device(
    tmp_path: Path, name: str, lines: list[str], mark: bytes, ends: str
) -> None:
    path = written(tmp_path / name, mark + ends.join(lines).encode())
    assert list(listed_devices(path, {"line": "3"})) == [
        Device("d1", {"plant_name": "Ulm", "note": "a, b", "line": "3"}),
        Device("d2", {"plant_name": "Köln", "note": "", "line": "3"}),
    ]


def test_a_serial_number_always_gives_the_same_uuid_of_version_5(tmp_path: Path) -> None:
    namespace = parse_namespace("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
    csv = written(tmp_path / "a.csv", "serial,plant\npython.org,Ulm\n")
    text = written(tmp_path / "a.txt", "python.org\n")
    # The example of Python's own documentation.
    assert ids(devices_of_serials(text, namespace, {})) == ["886313e1-3b8a-5372-9b90-0c9aee199e5d"]
    (device,) = devices_of_serials(csv, parse_namespace("DNS"), {})
    assert device == Device("886313e1-3b8a-5372-9b90-0c9aee199e5d", {"serial": "python.org", "plant": "Ulm"})


def test_templates_number_devices_and_take_columns(tmp_path: Path) -> None:
    numbered = numbered_devices(template("{plant}-{seq:06d}"), 3, {"plant": "ulm"}, first=9)
    assert ids(numbered) == ["ulm-000009", "ulm-000010", "ulm-000011"]
    rows = written(tmp_path / "a.csv", "plant,unit\nulm,1\nulm,2\n")
    assert ids(templated_devices(rows, template("{plant}-{unit}-{seq:x}"), {}, 10)) == ["ulm-1-a", "ulm-2-b"]
    assert ids(templated_devices(written(tmp_path / "a.txt", "1\n2\n"), template("{{{unit}}}"), {})) == [
        "{1}",
        "{2}",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "}",
        "{}",
        "{0}",
        "{seq.real}",
        "{seq[0]}",
        "{seq!r}",
        "{seq:>9}",
        "{seq:999999d}",
        "{seq:{width}}",
        "{plant:06d}",
        "{Plant}",
        "x" * 257,
    ],
)
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="invalid template"):
        template(text)


@given(st.text(max_size=20))
def test_a_value_never_changes_the_text_around_it(value: str) -> None:
    assert template("a{x}b").fill({"x": value}) == f"a{value}b"


def test_a_template_without_a_value_says_which(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a value for plant"):
        list(numbered_devices(template("{plant}-{seq}"), 1, {}))
    rows = written(tmp_path / "a.csv", "unit\n1\n")
    with pytest.raises(ConfigError, match="with plant"):
        list(templated_devices(rows, template("{plant}-{unit}"), {}))


def test_a_template_that_does_not_tell_devices_apart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the same id"):
        numbered_devices(template("cam"), 2, {})
    rows = written(tmp_path / "a.csv", "plant,unit\nulm,1\n\nulm,2\n")
    with pytest.raises(ConfigError, match=r"line 4: 'ulm' is already on line 2"):
        templated_devices(rows, template("{plant}"), {})


@pytest.mark.parametrize("name", ["ulm", "", "6ba7b810"])
def test_what_is_no_namespace_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a namespace"):
        parse_namespace(name)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "device_id,x\na,1\nb\nc,3\n", "line 3: it has 1 fields, but the first line has 2"),
        ("a.csv", "device_id,x\na,1\n,2\n", "line 3: there is no device_id"),
        ("a.csv", 'device_id\na\n"b\nc\n', "line 4: it is not CSV"),
        ("a.csv", "plant\nulm\n", "line 1: the first line must name the columns"),
        ("a.csv", "device_id,x,X\na,1,2\n", "line 1: the first line must name the columns"),
        ("a.csv", "device_id,#\na,1\n", "line 1: invalid column name '#'"),
        ("a.csv", b"device_id\na\n\xff\n", "line 3: it is not UTF-8"),
        ("a.csv", "device_id\n" + "a" * 200_000, "line 2: it is not CSV"),
        ("a.csv", "device_id\n", "names no device"),
        ("a.csv", "device_id,x\na,1\n\nb,2\na,3\n", "line 5: 'a' is already on line 2"),
        ("a.jsonl", '{"device_id": "a"}\n{"device_id"\n', "line 2: it is not JSON"),
        ("a.jsonl", '{"device_id": "a"}\n' + "[" * 100_000, "line 2: it is not JSON"),
        ("a.jsonl", '{"device_id": "a"}\n["b"]\n', "line 2: it is not a JSON object"),
        ("a.jsonl", '{"device_id": "a", "x": null}\n', "line 1: 'x' is neither"),
        ("a.jsonl", '{"device_id": "\\ud800"}\n', "line 1: it contains half a character"),
        ("a.ndjson", '{"x": "a"}\n', "line 1: there is no device_id"),
        ("a.txt", "a\nb\n\n a \n", "line 4: 'a' is already on line 1"),
        ("a.txt", b"a\nb\r\n\xff\xfe\n", "line 3: it is not UTF-8"),
        ("a.txt", "\n\r\n", "names no device"),
        ("a.txt", None, "a.txt: No such file"),
    ],
)
def test_a_bad_file_is_told_by_its_line(
    tmp_path: Path, name: str, content: str | bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        written(path, content)
    with pytest.raises(ConfigError) as raised:
        listed_devices(path, {})
    assert str(path) in raised.value.message
    assert said in raised.value.message
    assert raised.value.hint


def test_a_value_has_one_source(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "device_id,plant\na,ulm\n")
    with pytest.raises(ConfigError, match="line 2: plant also has a value from --set"):
        listed_devices(path, {"plant": "ulm"})


def test_the_same_devices_have_the_same_digest_and_others_another(tmp_path: Path) -> None:
    csv = written(tmp_path / "a.csv", "device_id,plant\na,ulm\nb,ulm\n")
    lines = [json.dumps({"plant": "ulm", "device_id": name}) for name in "ab"]
    jsonl = written(tmp_path / "a.jsonl", "\n".join(lines))
    other = written(tmp_path / "b.csv", "device_id,plant\na,ulm\nb,bonn\n")
    digests = [listed_devices(path, {}).digest for path in (csv, jsonl, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_long_list_needs_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = written(tmp_path / f"{count}.txt", "".join(f"device-{number:09}\n" for number in range(count)))
        tracemalloc.start()
        assert sum(1 for _ in listed_devices(path, {})) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)  # what is made once
    assert peak(50_000) < peak(2_000) + 1_000_000
