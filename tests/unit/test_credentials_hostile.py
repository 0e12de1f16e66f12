"""Archives of credentials that are hostile or damaged get one clear error."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zipfile
from base64 import encodebytes
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otahsm.errors import OtahsmError
from otahsm.gateway.credentials import read_credentials
from otahsm.gateway.small_zip import MAX_ARCHIVE_BYTES, MAX_ENTRY_BYTES

from support.credentials import CLIENT, GOOD, INTERMEDIATE, OTHER, ROOT, read, refused
from support.examples import examples
from support.gateways import NOW, URL, make_zip, p12


def patched(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def encrypted(path: Path) -> Path:
    with zipfile.ZipFile(make_zip(path, GOOD)) as archive:
        offset = archive.start_dir
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the general purpose bits of the first entry, in its own header and in the directory
    content[offset + 8] |= 1
    path.write_bytes(content)
    return path


def compressed_otherwise(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("autoprov.url", URL)
    return path


def twice(path: Path) -> Path:
    make_zip(path, {**GOOD, "AUTOPROV.URL": b"evil.example"})
    return patched(path, b"AUTOPROV.URL", b"autoprov.url")


def link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("server_ca.pem")
        entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
        archive.writestr("autoprov.url", URL)
    return path


def bomb(path: Path) -> Path:
    return make_zip(path, {**GOOD, "server_ca.pem": bytes(10 * MAX_ENTRY_BYTES)})


def bomb_that_lies(path: Path) -> Path:
    """Say that a megabyte of zeros is as large as it may be."""
    bomb(path)
    return patched(path, struct.pack("<I", 10 * MAX_ENTRY_BYTES), struct.pack("<I", MAX_ENTRY_BYTES))


def in_the_directory(offset: int, value: bytes) -> Callable[[Path], Path]:
    """Change what the archive's directory says of its first entry (APPNOTE.TXT, section 4.3.12)."""

    def change(path: Path) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("autoprov.url", URL)
        content = bytearray(path.read_bytes())
        start = content.index(b"PK\x01\x02") + offset
        content[start : start + len(value)] = value
        path.write_bytes(content)
        return path

    return change


def many(path: Path) -> Path:
    return make_zip(path, {**GOOD, **{f"file-{number}": b"" for number in range(300)}})


def huge_beside(path: Path) -> Path:
    return make_zip(path, {**GOOD, "treehub.json": bytes(17 << 20)})


def too_large_a_file(path: Path) -> Path:
    path.write_bytes(bytes(MAX_ARCHIVE_BYTES + 1))
    return path


def named(name: str) -> Callable[[Path], Path]:
    return lambda path: make_zip(path, {**GOOD, name: b"x"})


def written(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def truncated(path: Path) -> Path:
    content = make_zip(path, GOOD).read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (encrypted, "autoprov.url is encrypted"),
        (compressed_otherwise, "compressed with an unsupported method"),
        (twice, "it contains 'autoprov.url' twice"),
        (link, "'server_ca.pem' is not a regular file"),
        (bomb, "server_ca.pem has more than 65536 bytes"),
        (bomb_that_lies, "server_ca.pem is damaged"),
        (in_the_directory(6, b"\xff"), "is not a ZIP archive"),  # the version that is needed
        (in_the_directory(8, b"\x20"), "autoprov.url is damaged"),  # "compressed patched data"
        (in_the_directory(20, b"\x00\x90\x00\x00" * 2), "autoprov.url is damaged"),  # beyond the end
        (in_the_directory(42, b"\xff\xff\x00\x00"), "autoprov.url is damaged"),  # behind the end
        (many, "contain 302 files"),
        (huge_beside, "too many for credentials"),
        (too_large_a_file, "has more than 1048576 bytes"),
        (named("creds/autoprov.url"), "'creds/autoprov.url' is not at the top level"),
        (named("../../etc/cron.d/x"), "is not at the top level"),
        (named("\x01secret/"), "a file whose name is no text is not at the top level"),
        (named("/etc/passwd"), "is not at the top level"),
        (named("..\\x"), "is not at the top level"),
        (named(".."), "is not at the top level"),
        (written(b""), "is empty"),
        (written(b"this is a text"), "is not a ZIP archive"),
        (written(b"PK\x03\x04"), "is not a ZIP archive"),
        (truncated, "is not a ZIP archive, or is truncated"),
        (folder, "is not a file"),
        (pipe, "is not a file"),
        (lambda path: path, "No such file or directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_archive_gets_one_clear_error(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    assert reason in refused(make(tmp_path / "credentials.zip")).message


def test_an_archive_that_the_disk_does_not_give_gets_one_clear_error() -> None:
    assert "Input/output error" in refused(Path("/proc/self/mem")).message


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    entries = {"autoprov.url": URL.encode(), "server_ca.pem": ROOT.pem + INTERMEDIATE.pem}
    return make_zip(tmp_path_factory.mktemp("zip") / "c.zip", entries).read_bytes()


def right_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(OtahsmError):
        credentials = read_credentials(path, NOW)
        assert str(credentials.url) == URL
        assert credentials.ca is None or credentials.ca.pem == ROOT.pem


@settings(
    max_examples=examples(400), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4), keep=st.floats(0.3, 1))
def test_a_damaged_archive_gives_the_right_value_or_one_of_our_errors(
    tmp_path: Path, archive: bytes, flips: list[tuple[float, int]], keep: float
) -> None:
    content = bytearray(archive)
    for place, bits in flips:
        content[int(place * (len(content) - 1))] ^= bits
    right_or_refused(tmp_path / "c.zip", bytes(content))
    right_or_refused(tmp_path / "c.zip", bytes(content[: int(keep * len(content))]))


@settings(
    max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(place=st.floats(0, 1), bits=st.integers(1, 255), what=st.sampled_from(["p12", "pem", "der"]))
def test_damage_inside_an_entry_gives_a_value_or_one_of_our_errors(
    tmp_path: Path, place: float, bits: int, what: str
) -> None:
    content = bytearray(p12(CLIENT, OTHER) if what == "p12" else ROOT.pem)
    if what == "der":
        content = bytearray(ROOT.certificate.public_bytes(Encoding.DER))
    content[int(place * (len(content) - 1))] ^= bits
    entry = bytes(content)
    if what == "der":
        entry = b"-----BEGIN CERTIFICATE-----\n" + encodebytes(entry) + b"-----END CERTIFICATE-----\n"
    name = "autoprov_credentials.p12" if what == "p12" else "server_ca.pem"
    with contextlib.suppress(OtahsmError):
        read(tmp_path, {"autoprov.url": URL.encode(), name: entry})
