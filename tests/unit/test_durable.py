"""Files are on the disk, whole, or they are not there; and an error names the one that it is about."""

from __future__ import annotations

import ast
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from otahsm.errors import FolderError
from otahsm.system import durable
from otahsm.system.durable import (
    TEMPORARY,
    create_file,
    explained,
    make_durable,
    make_folder,
    new_path,
    replace_file,
    replace_files,
    write,
)

Writer = Callable[[Path, bytes], None]
WRITERS = pytest.mark.parametrize("writer", [create_file, replace_file])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """What this test asks of the kernel: what, and of which name; temporary files are all called so."""
    seen: list[tuple[str, str]] = []

    def watched(call: str) -> None:
        real = getattr(os, call)

        def wrapper(*arguments: int | Path) -> None:
            (*_, last) = arguments
            path = Path(f"/proc/self/fd/{last}").readlink() if isinstance(last, int) else Path(last)
            if path.is_relative_to(tmp_path):  # a journal of another test's may still be flushed
                seen.append((call, "temporary" if path.name.startswith(TEMPORARY) else path.name))
            real(*arguments)

        monkeypatch.setattr(os, call, wrapper)

    for call in ("fsync", "replace", "link"):
        watched(call)
    return seen


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def files_end_after(octets: int) -> Iterator[None]:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, unlimited[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_when_it_is_on_the_disk_and_then_the_name_is_too(
    folder: Path, calls: list[tuple[str, str]]
) -> None:
    replace_file(folder / "a", b"one")
    assert calls == [("fsync", "temporary"), ("replace", "a"), ("fsync", "folder")]
    calls.clear()
    create_file(folder / "b", b"two")
    assert calls == [("fsync", "temporary"), ("link", "b"), ("fsync", "folder")]
    assert names_in(folder) == ["a", "b"]


def test_no_file_is_replaced_before_all_of_them_are_on_the_disk(
    folder: Path, calls: list[tuple[str, str]]
) -> None:
    replace_files({folder / "a": b"one", folder / "b": b"two"})
    assert calls == [
        ("fsync", "temporary"),
        ("fsync", "temporary"),
        ("replace", "a"),
        ("replace", "b"),
        ("fsync", "folder"),
    ]
    assert [(folder / name).read_bytes() for name in "ab"] == [b"one", b"two"]


def test_if_one_of_several_can_not_be_written_none_is_replaced(folder: Path) -> None:
    replace_files({folder / "a": b"old", folder / "b": b"old"})
    with files_end_after(100), pytest.raises(OSError, match="File too large") as raised:
        replace_files({folder / "a": b"new", folder / "b": bytes(200)})
    assert raised.value.filename == str(folder / "b")
    assert [(folder / name).read_bytes() for name in names_in(folder)] == [b"old", b"old"]


@WRITERS
def test_what_is_too_large_for_the_disk_leaves_nothing_and_is_named(folder: Path, writer: Writer) -> None:
    with files_end_after(100), pytest.raises(OSError, match="File too large") as raised:
        writer(folder / "a", bytes(200))
    assert raised.value.filename == str(folder / "a")
    assert names_in(folder) == []


@WRITERS
def test_a_disk_that_fails_when_it_is_flushed_leaves_nothing_and_is_named(
    folder: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(FolderError, match=rf"^can't write {folder}/a: Input/output error$"), explained():
        writer(folder / "a", b"")
    assert names_in(folder) == []


@WRITERS
@pytest.mark.parametrize(
    ("path", "why"), [("missing/a", "No such file or directory"), ("file/a", "Not a directory")]
)
def test_a_folder_that_is_not_there_is_said(tmp_path: Path, writer: Writer, path: str, why: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=rf"^can't write {tmp_path}/{path}: {why}$"), explained():
        writer(tmp_path / path, b"")


def test_a_folder_in_the_place_of_a_file_stays(folder: Path) -> None:
    (folder / "a").mkdir()
    with pytest.raises(IsADirectoryError) as raised:
        replace_file(folder / "a", b"")
    assert raised.value.filename == str(folder / "a")
    with pytest.raises(FileExistsError):
        create_file(folder / "a", b"")
    assert names_in(folder) == ["a"]


def test_a_link_is_replaced_and_what_it_points_to_is_not_touched(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    (folder / "a").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        create_file(folder / "a", b"yours")
    replace_file(folder / "a", b"yours")
    assert (folder / "a").read_bytes() == b"yours"
    assert (tmp_path / "target").read_bytes() == b"mine"


@pytest.mark.parametrize("there", ["file", "link to nothing"])
def test_a_new_file_is_never_written_over_another(folder: Path, there: str) -> None:
    if there == "file":
        (folder / "a").write_bytes(b"first")
    else:
        (folder / "a").symlink_to("nowhere")
    with pytest.raises(FileExistsError) as raised, new_path(folder / "a"):
        pytest.fail("a long export would be for nothing")
    assert raised.value.filename == str(folder / "a")
    assert not (folder / "nowhere").exists()
    assert names_in(folder) == ["a"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_new_file_is_not_written_over_one_that_came_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, hard_links: bool
) -> None:
    if not hard_links:
        forbid_hard_links(monkeypatch)
    with pytest.raises(FileExistsError), new_path(folder / "a"):
        (folder / "a").write_bytes(b"first")
    assert (folder / "a").read_bytes() == b"first"
    assert names_in(folder) == ["a"]


def test_a_file_system_without_hard_links_takes_new_files_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_hard_links(monkeypatch)
    create_file(folder / "a", b"root certificate")
    assert (folder / "a").read_bytes() == b"root certificate"
    assert names_in(folder) == ["a"]


def forbid_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(source), None, str(target))

    monkeypatch.setattr(os, "link", link)


def test_of_two_that_make_the_same_file_one_does(folder: Path) -> None:
    def make(content: bytes) -> bytes | None:
        try:
            create_file(folder / "a", content * 10_000)
        except FileExistsError:
            return None
        return content

    with ThreadPoolExecutor(8) as threads:
        (made,) = [one for one in threads.map(make, [b"%d" % number for number in range(8)]) if one]
    assert (folder / "a").read_bytes() == made * 10_000
    assert names_in(folder) == ["a"]


def test_of_two_that_replace_the_same_file_one_is_whole(folder: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda one: replace_file(folder / "a", one * 10_000), [b"a", b"b", b"c", b"d"] * 4))
    content = (folder / "a").read_bytes()
    assert content == content[:1] * 10_000
    assert names_in(folder) == ["a"]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_mode_that_is_given_is_had_whatever_the_umask(folder: Path, mask: int) -> None:
    with umask(mask):
        create_file(folder / "key", b"", 0o600)
        replace_file(folder / "crl", b"", 0o644)
        replace_file(folder / "crl", b"new", 0o644)
    assert mode_of(folder / "key") == 0o600
    assert mode_of(folder / "crl") == 0o644


@pytest.mark.parametrize(("mask", "mode"), [(0o000, 0o644), (0o002, 0o644), (0o027, 0o640)])
def test_without_a_mode_a_new_file_is_never_for_others_to_change(folder: Path, mask: int, mode: int) -> None:
    with umask(mask):
        create_file(folder / "a", b"")
        replace_file(folder / "b", b"")
    assert {mode_of(folder / name) for name in "ab"} == {mode}


def test_without_a_mode_a_file_that_is_replaced_keeps_its_own(folder: Path) -> None:
    (folder / "known_hosts").touch(mode=0o600)
    (folder / "fleet.pem").touch()
    (folder / "fleet.pem").chmod(0o664)
    with umask(0o022):
        replace_files({folder / "known_hosts": b"", folder / "fleet.pem": b""})
    assert mode_of(folder / "known_hosts") == 0o600
    assert mode_of(folder / "fleet.pem") == 0o664


def test_nobody_can_read_a_secret_while_it_is_written(folder: Path) -> None:
    with umask(0), new_path(folder / "key") as temporary:
        assert mode_of(temporary) == 0o600


def test_a_block_that_fails_leaves_nothing_and_its_error_passes(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_path(folder / "a") as temporary:
        temporary.write_bytes(b"%d" % (1 // 0))
    assert names_in(folder) == []


def test_an_error_about_another_file_keeps_its_name(folder: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, new_path(folder / "a"):
        (folder / "source").read_bytes()
    assert raised.value.filename == str(folder / "source")


KILLED = """
import os, signal, sys
from pathlib import Path
from otahsm.system import durable
os.{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
durable.{function}(Path(sys.argv[1]), b"new")
"""


@pytest.mark.parametrize(
    ("function", "call", "before"),
    [("replace_file", "replace", b"old"), ("replace_file", "fsync", b"old"), ("create_file", "link", None)],
)
def test_a_process_that_is_killed_leaves_the_file_as_it_was(
    folder: Path, function: str, call: str, before: bytes | None
) -> None:
    if before is not None:
        (folder / "a").write_bytes(before)
    code = KILLED.format(function=function, call=call)
    done = subprocess.run([sys.executable, "-c", code, str(folder / "a")], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    (left, *found) = names_in(folder)
    assert left.startswith(TEMPORARY)
    assert found == ([] if before is None else ["a"])
    if before is not None:
        assert (folder / "a").read_bytes() == before
    getattr(durable, function)(folder / "a", b"new")
    assert (folder / "a").read_bytes() == b"new"


def test_a_folder_is_made_with_those_above_it_and_all_of_their_names_are_on_the_disk(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    with umask(0o022):
        make_folder(tmp_path / "a/b", 0o700)
    assert calls == [("fsync", tmp_path.name), ("fsync", "a")]
    assert (mode_of(tmp_path / "a"), mode_of(tmp_path / "a/b")) == (0o755, 0o700)
    make_folder(tmp_path / "a/b")
    assert len(calls) == 2
    (tmp_path / "file").touch()
    for path in ("file/a", "file"):
        with pytest.raises(NotADirectoryError):
            make_folder(tmp_path / path)


def test_a_folder_that_is_a_link_is_written_to_like_another(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    make_folder(tmp_path / "link")
    replace_file(tmp_path / "link/a", b"one")
    create_file(tmp_path / "link/b", b"two")
    assert names_in(folder) == ["a", "b"]


def test_many_files_share_the_wait_for_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(folder / str(number), b"") for number in range(64)]
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(0.02))
    began = time.monotonic()
    make_durable(paths)
    assert time.monotonic() - began < 64 * 0.02 / 2


def test_of_many_the_one_that_can_not_be_flushed_is_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        make_durable([write(folder / "a", b""), folder / "b"])
    assert raised.value.filename == str(folder / "b")


ROOT = Path(durable.__file__).parents[1]
HERE_ALONE = {
    "fsync",
    "fdatasync",
    "hardlink_to",
    "mkstemp",
    "NamedTemporaryFile",
    "O_EXCL",
    "O_TRUNC",
}


def test_nobody_else_writes_durably_in_a_way_of_his_own() -> None:
    found = {str(path.relative_to(ROOT)): ways for path in ROOT.rglob("*.py") if (ways := set(ways_in(path)))}
    assert found == {
        "system/durable.py": {"fsync", "os.link", "O_EXCL", "O_TRUNC", "replace"},
        "line/folders.py": {"rename"},  # whole folders, and the certificate after everything else
        "system/spool.py": {"rename"},  # what is no event, out of the way
        "token/desk/memory.py": {"rename"},  # a whole folder that is forgotten
    }


def ways_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(attr=name) if name in HERE_ALONE:
                yield name
            case ast.Call(func=ast.Attribute(attr="rename" | "renames" as name)):
                yield name
            case ast.Call(func=ast.Attribute(attr="replace" as name), args=[_], keywords=[]):  # Path's
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="replace" | "link" as name)):
                yield f"os.{name}"
