"""Device folders: complete or not there, whatever interrupts them."""

from __future__ import annotations

import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asn1crypto import pem

from otahsm.client import DeviceFolders, make_device_key
from otahsm.client.folders import load_csr
from otahsm.errors import ConfigError, FolderError, RequestRefusedError

ANCHOR = b"\x30\x06anchor"
LEAF = b"\x30\x04leaf"
MIDDLE = b"\x30\x06middle"


@pytest.fixture
def server_ca(tmp_path: Path) -> Path:
    path = tmp_path / "gateway" / "server_ca.pem"
    path.parent.mkdir()
    path.write_text("the gateway's CA")
    return path


@contextmanager
def opened(root: Path, server_ca: Path | None = None, url: str | None = None) -> Iterator[DeviceFolders]:
    folders = DeviceFolders(root, ANCHOR, server_ca, url)
    try:
        yield folders
    finally:
        folders.close()


def contents(path: Path) -> list[bytes]:
    return [bytes(der) for _, _, der in pem.unarmor(path.read_bytes(), multiple=True)]


def test_a_folder_holds_what_the_seed_guide_makes(tmp_path: Path, server_ca: Path) -> None:
    key = make_device_key("a", "ec-p256")
    with opened(tmp_path / "devices", server_ca, "https://gw:8000") as folders:
        folders.begin({"a": key})
        folders.finish({"a": [LEAF, MIDDLE]})
    folder = tmp_path / "devices/a"
    names = {
        "pkey.ec.pem",
        "pkey.pem",
        "a.csr",
        "client.pem",
        "a.chain.pem",
        "ca.pem",
        "root.crt",
        "gateway.url",
    }
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "pkey.pem").read_bytes() == key.pkcs8
    assert (folder / "pkey.ec.pem").read_bytes() == key.sec1
    assert contents(folder / "a.csr") == [key.csr]
    assert contents(folder / "client.pem") == [LEAF]
    assert contents(folder / "a.chain.pem") == [LEAF, MIDDLE, ANCHOR]
    assert (folder / "gateway.url").read_text() == "https://gw:8000"
    assert (folder / "ca.pem").readlink() == Path("../../gateway/server_ca.pem")
    assert (folder / "root.crt").read_text() == (folder / "ca.pem").read_text() == "the gateway's CA"
    for name in ("pkey.pem", "pkey.ec.pem"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_keys_that_are_not_ec_have_no_traditional_form(tmp_path: Path) -> None:
    with opened(tmp_path) as folders:
        folders.begin({"a": make_device_key("a", "ed25519")})
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"pkey.pem", "a.csr"}


def test_a_begun_folder_goes_on_with_the_key_it_has(tmp_path: Path) -> None:
    key = make_device_key("a", "ec-p256")
    with opened(tmp_path) as folders:
        assert folders.saved_csr("a") is None
        folders.begin({"a": key})
        assert folders.saved_csr("a") == key.csr
        assert not folders.is_complete("a")
        folders.finish({"a": [LEAF]})
        assert folders.is_complete("a")


def test_client_pem_is_the_last_file_to_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[str] = []
    rename = Path.rename

    def watch(path: Path, target: Path) -> Path:
        renamed.append(Path(target).name)
        return rename(path, target)

    with opened(tmp_path, url="https://gw") as folders:
        folders.begin({"a": make_device_key("a", "ec-p256")})
        monkeypatch.setattr(Path, "rename", watch)
        folders.finish({"a": [LEAF]})
    assert renamed == ["gateway.url", "a.chain.pem", "client.pem"]


def test_what_a_crash_left_is_cleared_away(tmp_path: Path) -> None:
    with opened(tmp_path) as folders:
        folders.begin({"a": make_device_key("a", "ec-p256")})
    (tmp_path / "a").rename(tmp_path / ".new-a")
    with opened(tmp_path) as folders:
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        folders.begin({"a": make_device_key("a", "ec-p256")})
        assert folders.saved_csr("a") is not None


def test_a_crash_while_finishing_can_be_finished_again(tmp_path: Path, server_ca: Path) -> None:
    with opened(tmp_path / "d", server_ca) as folders:
        folders.begin({"a": make_device_key("a", "ec-p256")})
        for name in ("a.chain.pem", "ca.pem", "client.pem"):
            (tmp_path / "d/a" / f".new-{name}").write_text("half wri")
        folders.finish({"a": [LEAF]})
        assert not list((tmp_path / "d/a").glob(".new-*"))
        assert contents(tmp_path / "d/a/client.pem") == [LEAF]


def test_two_commands_do_not_write_to_one_folder_at_once(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(FolderError, match="another otahsm command"):
        DeviceFolders(tmp_path, ANCHOR)
    with opened(tmp_path):
        pass


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/notes.txt").write_text("mine")
    with opened(tmp_path) as folders, pytest.raises(RequestRefusedError, match=r"a\.csr can't be read"):
        folders.saved_csr("a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes.txt"]


def test_a_full_disk_is_said_and_leaves_no_folder_that_counts(tmp_path: Path) -> None:
    keys = {name: make_device_key(name, "ec-p256") for name in "abc"}
    with opened(tmp_path) as folders:
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
        try:
            with pytest.raises(FolderError, match="can't be written"):
                folders.begin(keys)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    with opened(tmp_path) as folders:
        folders.begin(keys)
        assert all(folders.saved_csr(name) == key.csr for name, key in keys.items())


def test_an_output_folder_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="can't be used"):
        DeviceFolders(tmp_path / "file" / "devices", ANCHOR)
    with pytest.raises(FolderError, match="can't be used"):
        DeviceFolders(tmp_path / "devices", ANCHOR, server_ca=tmp_path / "missing.pem")


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    with opened(tmp_path / "d") as folders:
        folders.begin({"a": make_device_key("a", "ec-p256")})
        (tmp_path / "d/a/.new-client.pem").symlink_to(outside)
        with pytest.raises(FolderError):
            folders.finish({"a": [LEAF]})
    assert outside.read_text() == "precious"


def test_csr_files_are_read_as_pem_and_as_der(tmp_path: Path) -> None:
    csr = make_device_key("a", "ec-p256").csr
    path = tmp_path / "x.csr"
    for content in (csr, pem.armor("CERTIFICATE REQUEST", csr), pem.armor("NEW CERTIFICATE REQUEST", csr)):
        path.write_bytes(content)
        assert load_csr(path) == csr


@pytest.mark.parametrize(
    "content",
    [
        b"-----BEGIN CERTIFICATE REQUEST-----\n",
        pem.armor("CERTIFICATE", LEAF),
        pem.armor("PRIVATE KEY", LEAF),
    ],
)
def test_a_pem_file_that_is_no_csr_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.csr"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_csr(path)
