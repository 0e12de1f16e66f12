"""Device folders: complete or not there, whatever interrupts them."""

from __future__ import annotations

import io
import resource
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asn1crypto import pem
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otahsm.errors import ConfigError, FolderError, RequestRefusedError
from otahsm.line import DeviceFolders, LayoutName, make_csr, make_device_key
from otahsm.line.csr_files import load_csr
from otahsm.line.keys import load_key

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
def opened(
    root: Path,
    server_ca: Path | bytes | None = None,
    url: str | None = None,
    layout: LayoutName = "seed",
    passphrase: bytes | None = None,
) -> Iterator[DeviceFolders]:
    folders = DeviceFolders(root, ANCHOR, server_ca, url, layout=layout, passphrase=passphrase)
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
    with opened(tmp_path) as folders, pytest.raises(RequestRefusedError, match=r"can't read .*a\.csr"):
        folders.saved_csr("a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes.txt"]


def test_a_full_disk_is_said_and_leaves_no_folder_that_counts(tmp_path: Path) -> None:
    keys = {name: make_device_key(name, "ec-p256") for name in "abc"}
    with opened(tmp_path) as folders:
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
        try:
            with pytest.raises(FolderError, match="can't write"):
                folders.begin(keys)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    with opened(tmp_path) as folders:
        folders.begin(keys)
        assert all(folders.saved_csr(name) == key.csr for name, key in keys.items())


def test_an_output_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "devices").symlink_to("disk")
    with opened(tmp_path / "devices") as folders:
        folders.begin({"a": make_device_key("a", "ec-p256")})
        folders.finish({"a": [LEAF]})
    assert (tmp_path / "disk/a/client.pem").exists()


def test_an_output_folder_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="can't use"):
        DeviceFolders(tmp_path / "file" / "devices", ANCHOR)
    with pytest.raises(FolderError, match="can't use"):
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


def tree(root: Path) -> dict[str, int]:
    """Return every file and link, and its mode."""
    return {
        str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode)
        for path in root.rglob("*")
        if path.name != ".lock" and (path.is_symlink() or path.is_file())
    }


def make_one(root: Path, layout: LayoutName, server_ca: Path | bytes = b"the CA") -> None:
    with opened(root, server_ca, "https://gw:8000", layout) as folders:
        folders.share()
        assert folders.is_gone("a")
        folders.begin({"a": make_device_key("a", "ec-p256")})
        assert not folders.is_complete("a")
        assert not folders.is_gone("a")
        folders.finish({"a": [LEAF, MIDDLE]}, configurations={"a": b"[tls]"})
        assert folders.is_complete("a")
        assert folders.path("a").exists()


def test_the_aktualizr_layout_is_a_piece_of_an_image(tmp_path: Path) -> None:
    make_one(tmp_path, "aktualizr")
    assert tree(tmp_path) == {
        "a/var/sota/import/pkey.pem": 0o600,
        "a/var/sota/import/client.pem": 0o644,
        "a/var/sota/import/root.crt": 0o644,
        "a/var/sota/import/gateway.url": 0o644,
        "a/var/sota/sota.toml": 0o644,
    }
    assert contents(tmp_path / "a/var/sota/import/client.pem") == [LEAF]


def test_the_flat_layout_is_one_folder_for_all(tmp_path: Path) -> None:
    make_one(tmp_path, "flat")
    assert tree(tmp_path) == {
        "a.pkey.pem": 0o600,
        "a.csr": 0o644,
        "a.client.pem": 0o644,
        "a.chain.pem": 0o644,
        "root.crt": 0o644,
        "gateway.url": 0o644,
    }


def test_the_tar_layout_is_one_archive_a_device(tmp_path: Path) -> None:
    make_one(tmp_path, "tar")
    assert tree(tmp_path) == {"a.tar": 0o600}
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "a.tar").read_bytes())) as archive:
        members = {member.name: member for member in archive}
        assert {name: member.mode for name, member in members.items()} == {
            "a/pkey.ec.pem": 0o600,
            "a/pkey.pem": 0o600,
            "a/a.csr": 0o644,
            "a/client.pem": 0o644,
            "a/a.chain.pem": 0o644,
            "a/root.crt": 0o644,
            "a/gateway.url": 0o644,
            "a/ca.pem": 0o777,
        }
        assert members["a/ca.pem"].linkname == "root.crt"
        assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}


def test_a_ca_without_a_file_of_its_own_is_linked_beside(tmp_path: Path) -> None:
    make_one(tmp_path, "seed", b"the CA")
    assert (tmp_path / "a/ca.pem").readlink() == Path("root.crt")
    assert (tmp_path / "a/ca.pem").read_text() == "the CA"


LAYOUTS: tuple[LayoutName, ...] = ("seed", "aktualizr", "flat", "tar")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_every_layout_a_begun_device_goes_on_with_its_key(tmp_path: Path, layout: LayoutName) -> None:
    key = make_device_key("a", "ec-p256")
    with opened(tmp_path, layout=layout) as folders:
        folders.begin({"a": key})
    with opened(tmp_path, layout=layout) as folders:
        saved = folders.saved_csr("a")
        assert saved is not None
        assert spki(saved) == spki(key.csr)
        folders.finish({"a": [LEAF]})
    assert not list(tmp_path.rglob(".new-*"))
    assert not list(tmp_path.rglob(".begun-*"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_every_layout_a_crash_between_two_steps_loses_no_key_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: LayoutName
) -> None:
    class CrashError(Exception):
        pass

    rename = Path.rename
    asked: set[bytes] = set()
    for steps in range(20):
        left = steps

        def crash(path: Path, target: Path) -> Path:
            nonlocal left
            if not left:
                raise CrashError
            left -= 1
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", crash)
        try:
            with opened(tmp_path, b"the CA", "https://gw", layout) as folders:
                if not folders.is_complete("a"):
                    if folders.saved_csr("a") is None:
                        folders.begin({"a": make_device_key("a", "ec-p256")})
                    csr = folders.saved_csr("a")
                    assert csr is not None
                    asked.add(spki(csr))
                    folders.finish({"a": [LEAF]}, configurations={"a": b""})
                break
        except CrashError:
            assert not list(tmp_path.glob("a.tar"))
    else:
        pytest.fail("it never ended")
    assert len(asked) == 1  # a key whose certificate was asked for is never replaced
    with opened(tmp_path, layout=layout) as folders:
        assert folders.is_complete("a")
    assert not list(tmp_path.rglob(".new-*"))


def spki(csr: bytes) -> bytes:
    return (
        x509.load_der_x509_csr(csr).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )


@pytest.mark.parametrize("layout", ["seed", "flat", "tar"])
def test_encrypted_keys_open_with_the_passphrase_alone(tmp_path: Path, layout: LayoutName) -> None:
    key = make_device_key("a", "ec-p256", b"open sesame")
    assert key.sec1 is None
    with opened(tmp_path, layout=layout, passphrase=b"open sesame") as folders:
        folders.begin({"a": key})
    kinds = [
        kind
        for path in tmp_path.rglob("*.pem")
        for kind, _, _ in pem.unarmor(path.read_bytes(), multiple=True)
    ]
    assert kinds == ["ENCRYPTED PRIVATE KEY"]
    (begun,) = tmp_path.rglob("*pkey.pem")
    assert spki(make_csr("a", load_key(begun, b"open sesame"))) == spki(key.csr)
    with pytest.raises(ConfigError, match="another passphrase"):
        load_key(begun, b"another")


@pytest.mark.parametrize("given", [None, b"another"])
def test_a_begun_device_whose_passphrase_is_not_given_is_refused(tmp_path: Path, given: bytes | None) -> None:
    with opened(tmp_path, layout="aktualizr", passphrase=b"open sesame") as folders:
        folders.begin({"a": make_device_key("a", "ec-p256", b"open sesame")})
    with (
        opened(tmp_path, layout="aktualizr", passphrase=given) as folders,
        pytest.raises(RequestRefusedError, match=r"passphrase|encrypted"),
    ):
        folders.saved_csr("a")


def test_a_key_that_is_there_already_is_used(tmp_path: Path) -> None:
    key = make_device_key("a", "rsa-2048")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/pkey.pem").write_bytes(key.pkcs8)
    with opened(tmp_path) as folders:
        saved = folders.saved_csr("a")
    assert saved is not None
    assert spki(saved) == spki(key.csr)
