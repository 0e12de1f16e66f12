"""Installing, on an image and over real SSH onto BusyBox: whatever breaks, a device has one whole set."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from otahsm.errors import ConfigError, DeviceRefusedError, DeviceUnreachableError, FolderError
from otahsm.install.aktualizr import TokenKeys, sota_toml
from otahsm.install.installing import ImageRoot, install
from otahsm.install.scripts import install_script, look_script
from otahsm.install.ssh import Host, Login, connected
from otahsm.line import DeviceFolders, make_device_key
from otahsm.line.device_files import DeviceFiles

from support.authority import CA_LIFE, certificate_for, root_of
from support.harness import READY_SECONDS
from support.sshd import Devices, ssh_server

NOW = datetime.now(UTC)


def files_of(tmp_path: Path, device_id: str) -> DeviceFiles:
    """Make a device's folder, with a real certificate, and load it."""
    folders = DeviceFolders(tmp_path / "devices", root_of("ec-p256"), b"the CA\n", "https://gw:8000")
    key = make_device_key(device_id, "ec-p256")
    folders.begin({device_id: key})
    folders.finish({device_id: [certificate_for(key.csr, device_id)]})
    folders.close()
    return DeviceFiles.load(tmp_path / "devices", device_id, NOW)


def image(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    root.mkdir(exist_ok=True)
    return root


def there(imported: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in imported.iterdir()}


def wanted(files: DeviceFiles) -> dict[str, tuple[bytes, int]]:
    return {
        name: (content, 0o600 if name == "pkey.pem" else 0o644) for name, content in files.contents.items()
    }


async def test_an_image_gets_the_files_once_and_is_left_alone_then(tmp_path: Path) -> None:
    files, root = files_of(tmp_path, "a"), image(tmp_path)
    toml = sota_toml("imx8")
    assert await install(ImageRoot(root), files, toml) is False
    imported = root / "var/sota/import"
    assert there(imported) == wanted(files)
    assert stat.S_IMODE(imported.stat().st_mode) == 0o700
    assert (root / "var/sota/sota.toml").read_text() == toml
    before = imported.stat().st_ino
    assert await install(ImageRoot(root), files, toml) is True
    assert imported.stat().st_ino == before
    assert {path.name for path in (root / "var/sota").iterdir()} == {"import", "sota.toml"}


async def test_a_key_that_is_elsewhere_leaves_none_from_before(tmp_path: Path) -> None:
    files, root = files_of(tmp_path, "a"), image(tmp_path)
    await install(ImageRoot(root), files)
    without = DeviceFiles("a", {name: files.contents[name] for name in ("client.pem", "root.crt")})
    assert await install(ImageRoot(root), without) is False
    assert {path.name for path in (root / "var/sota/import").iterdir()} == {
        "client.pem",
        "root.crt",
        "gateway.url",
    }
    assert await install(ImageRoot(root), without) is True


async def test_root_may_be_got_with_sudo(tmp_path: Path) -> None:
    with ssh_server(tmp_path, force="") as server:
        folder = tmp_path / "here/import"
        host = Host.parse(f"127.0.0.1:{server.port}")
        server.known_hosts.write_text(server.known_hosts.read_text().replace("127.1.*", "127.0.0.1"))
        way = login(server, sudo=True, directory=str(folder))
        files = files_of(tmp_path, "a")
        async with connected(host, way) as shell:
            assert await install(shell, files) is False
        assert there(folder) == wanted(files)
        assert {(path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()} == {(0, 0)}


async def test_a_password_that_sudo_does_not_ask_for_is_read_by_no_shell(tmp_path: Path) -> None:
    with ssh_server(tmp_path, force="") as server:  # as root, whom sudo never asks
        server.known_hosts.write_text(server.known_hosts.read_text().replace("127.1.*", "127.0.0.1"))
        password = f"touch {tmp_path}/it-ran"
        way = login(server, sudo=True, sudo_password=password, directory=str(tmp_path / "here/import"))
        files = files_of(tmp_path, "a")
        async with connected(Host.parse(f"127.0.0.1:{server.port}"), way) as shell:
            assert await install(shell, files) is False
        assert there(tmp_path / "here/import") == wanted(files)
        assert not (tmp_path / "it-ran").exists()


async def test_what_others_have_put_there_stays(tmp_path: Path) -> None:
    files, root = files_of(tmp_path, "a"), image(tmp_path)
    imported = root / "var/sota/import"
    (imported / "more").mkdir(parents=True)
    (imported / "more/notes").write_text("mine")
    (imported / "client.pem").write_text("broken")
    await install(ImageRoot(root), files)
    assert (imported / "more/notes").read_text() == "mine"
    assert (imported / "client.pem").read_bytes() == files.contents["client.pem"]
    assert not (imported / "import").exists()


async def test_another_devices_identity_is_kept_unless_that_is_wanted(tmp_path: Path) -> None:
    root = image(tmp_path)
    first, second = files_of(tmp_path, "a"), files_of(tmp_path, "b")
    await install(ImageRoot(root), first)
    with pytest.raises(DeviceRefusedError, match="it is already the device a"):
        await install(ImageRoot(root), second)
    assert there(root / "var/sota/import") == wanted(first)
    await install(ImageRoot(root), second, replace=True)
    assert there(root / "var/sota/import") == wanted(second)


async def test_another_sota_toml_is_kept_unless_that_is_wanted(tmp_path: Path) -> None:
    files, root = files_of(tmp_path, "a"), image(tmp_path)
    await install(ImageRoot(root), files, sota_toml("one"))
    with pytest.raises(DeviceRefusedError, match=r"another sota\.toml already exists beside"):
        await install(ImageRoot(root), files, sota_toml("other"))
    await install(ImageRoot(root), files, sota_toml("other"), replace=True)
    assert "other" in (root / "var/sota/sota.toml").read_text()


@pytest.mark.parametrize("link", ["var", "var/sota"])
def test_a_link_in_an_image_is_not_followed_out_of_it(tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = image(tmp_path)
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(outside)
    with pytest.raises(ConfigError, match="symbolic link"):
        ImageRoot(root)


async def test_no_link_in_an_image_makes_us_read_or_write_elsewhere(tmp_path: Path) -> None:
    files, other, root = files_of(tmp_path, "a"), files_of(tmp_path, "b"), image(tmp_path)
    outside, sota = tmp_path / "outside", root / "var/sota"
    outside.mkdir()
    (sota / "import").mkdir(parents=True)
    (outside / "client.pem").write_bytes(other.contents["client.pem"])
    (outside / "untouched").write_text("x")
    (sota / "import/client.pem").symlink_to(outside / "client.pem")
    (sota / ".sota.toml.otahsm-new").symlink_to(outside / "untouched")
    assert await install(ImageRoot(root), files, sota_toml("one")) is False  # it is not the device b
    assert there(sota / "import") == wanted(files)
    shutil.rmtree(sota / "import")
    (sota / ".import.otahsm-old").symlink_to(outside)  # would be taken for what a crash left
    assert await install(ImageRoot(root), files) is False
    assert not (sota / "import").is_symlink()
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {
        "client.pem": other.contents["client.pem"],
        "untouched": b"x",
    }


@pytest.mark.parametrize("leads_to", ["a folder", "a file", "nothing"])
async def test_a_configuration_that_is_a_link_is_not_written_where_it_leads(
    tmp_path: Path, leads_to: str
) -> None:
    files, root, outside = files_of(tmp_path, "a"), image(tmp_path), tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    toml = root / "var/sota/sota.toml"
    toml.parent.mkdir(parents=True)
    toml.symlink_to({"a folder": outside, "a file": outside / "file"}.get(leads_to, outside / "new"))
    with pytest.raises(DeviceRefusedError, match=r"another sota\.toml already exists beside"):
        await install(ImageRoot(root), files, sota_toml("one"))
    assert await install(ImageRoot(root), files, sota_toml("one"), replace=True) is False
    assert not toml.is_symlink()
    assert toml.read_text() == sota_toml("one")
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"file": "x"}


async def test_a_configuration_that_is_a_folder_is_told(tmp_path: Path) -> None:
    files, root = files_of(tmp_path, "a"), image(tmp_path)
    (root / "var/sota/sota.toml").mkdir(parents=True)
    with pytest.raises(DeviceRefusedError, match=r"sota\.toml is a folder"):
        await install(ImageRoot(root), files, sota_toml("one"), replace=True)
    assert not list((root / "var/sota/sota.toml").iterdir())
    assert not (root / "var/sota/import").exists()


async def test_a_configuration_with_a_pin_is_for_its_owner_alone(tmp_path: Path) -> None:
    files, root = files_of(tmp_path, "a"), image(tmp_path)
    without = DeviceFiles("a", {name: files.contents[name] for name in ("client.pem", "root.crt")})
    toml = sota_toml("", TokenKeys("/usr/lib/token.so", "4711"))
    path = root / "var/sota/sota.toml"
    assert await install(ImageRoot(root), without, toml) is False
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)  # as otahsm wrote it before
    assert await install(ImageRoot(root), without, toml) is False
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_import_that_is_a_link_or_no_folder_is_not_touched(tmp_path: Path) -> None:
    files, root = files_of(tmp_path, "a"), image(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "var/sota").mkdir(parents=True)
    imported = root / "var/sota/import"
    for link in (True, False):
        if link:
            imported.symlink_to(outside)
        else:
            imported.touch()
        with pytest.raises(DeviceRefusedError, match="import or its parent is not a folder"):
            await install(ImageRoot(root), files)
        imported.unlink()
    assert not list(outside.iterdir())


async def test_killed_after_any_step_a_device_has_the_old_set_or_the_new_one_and_the_next_run_finishes(
    tmp_path: Path,
) -> None:
    root = image(tmp_path)
    old, new = files_of(tmp_path, "a"), files_of(tmp_path, "b")
    imported = Path(ImageRoot(root).directory)
    base = imported.parent
    lines = install_script(str(imported), new.contents, "").splitlines(keepends=True)
    steps = places_to_die(lines)
    assert len(steps) > 15
    seen: set[bool | None] = set()
    for at in steps:
        await install(ImageRoot(root), old, replace=True)
        script = "".join((*lines[:at], "kill -9 $$\n", *lines[at:]))
        killed = shell(script)
        assert killed.returncode == -9
        for path in base.rglob("*"):
            assert not path.name.startswith("pkey") or not path.stat().st_mode & 0o077  # at no moment
        if imported.exists():
            now = there(imported)
            assert now in (wanted(old), wanted(new)), at
            seen.add(now == wanted(new))
        else:
            seen.add(None)
        assert b"certificate" in shell(look_script(str(imported))).stdout
        assert there(imported) in (wanted(old), wanted(new))  # mended by the first look
        await install(ImageRoot(root), new, replace=True)
        assert there(imported) == wanted(new)
        assert {path.name for path in base.iterdir()} == {"import"}
    assert seen == {False, None, True}


def shell(script: str) -> subprocess.CompletedProcess[bytes]:
    return run_program("sh", "-s", given=script)


def run_program(*words: str | Path, given: str = "") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        words, input=given.encode(), capture_output=True, timeout=READY_SECONDS, check=False
    )


def places_to_die(lines: list[str]) -> list[int]:
    """Return where a line can be put in: not within a here-document, a loop or a condition."""
    places, depth, end = [], 0, ""
    for number, line in enumerate(lines):
        if not depth and not end:
            places.append(number)
        if end:
            end = "" if line.strip() == end else end
        elif "<<'" in line:
            end = line.partition("<<'")[2].partition("'")[0]
        else:
            words = line.replace(";", " ; ").split()
            depth += sum(word in ("do", "then", "{") for word in words)
            depth -= sum(word in ("done", "fi", "}") for word in words)
    return places


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def login(devices: Devices, **changes: object) -> Login:
    plain: dict[str, object] = {
        "user": None,
        "port": None,
        "identity": devices.identity,
        "password": None,
        "known_hosts": devices.known_hosts,
        "accept_new": False,
        "sudo": False,
        "sudo_password": None,
        "seconds": 30.0,
    }
    return Login(**{**plain, **changes})  # type: ignore[arg-type]


async def onto(devices: Devices, number: int, files: DeviceFiles, **changes: object) -> bool:
    async with connected(Host.parse(devices.host(number)), login(devices, **changes)) as shell:
        return await install(shell, files, sota_toml())


async def test_a_device_with_busybox_gets_its_files_over_ssh(devices: Devices, tmp_path: Path) -> None:
    devices.add(1)
    files = files_of(tmp_path, "a")
    assert await onto(devices, 1, files) is False
    assert there(devices.imported(1)) == wanted(files)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in devices.imported(1).rglob("*")}
    assert owners == {(os.geteuid(), os.getegid())}
    assert await onto(devices, 1, files) is True
    with pytest.raises(DeviceRefusedError, match="it is already the device a"):
        await onto(devices, 1, files_of(tmp_path, "b"))


async def test_a_host_key_that_is_not_known_is_shown_and_entered_only_if_that_is_wanted(
    devices: Devices, tmp_path: Path
) -> None:
    devices.add(2)
    files, known = files_of(tmp_path, "a"), tmp_path / "ssh/known_hosts"
    shown = run_program("ssh-keygen", "-lf", devices.folder / "host_key.pub").stdout.decode().split()[1]
    with pytest.raises(DeviceRefusedError, match=r"the host key of \S+ is unknown: SHA256:") as refused:
        await onto(devices, 2, files, known_hosts=known)
    assert shown in refused.value.message
    assert "--accept-new" in refused.value.hint
    assert not known.exists()
    assert not devices.imported(2).exists()
    assert await onto(devices, 2, files, known_hosts=known, accept_new=True) is False
    assert await onto(devices, 2, files, known_hosts=known) is True
    # OpenSSH reads what we have written.
    name = f"[{devices.address(2)}]:{devices.port}"
    assert run_program("ssh-keygen", "-F", name, "-f", known).returncode == 0


async def test_a_file_of_host_keys_that_is_a_link_stays_one_and_keeps_its_mode(
    devices: Devices, tmp_path: Path
) -> None:
    devices.add(5)
    kept, known = tmp_path / "kept", tmp_path / "known_hosts"
    kept.touch(mode=0o600)
    known.symlink_to(kept)
    await onto(devices, 5, files_of(tmp_path, "a"), known_hosts=known, accept_new=True)
    assert known.is_symlink()
    assert devices.address(5) in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


async def test_a_host_key_that_has_changed_is_refused_always(devices: Devices, tmp_path: Path) -> None:
    devices.add(3)
    files, known = files_of(tmp_path, "a"), tmp_path / "known_hosts"
    Devices.make_key(tmp_path / "other")
    other = (tmp_path / "other.pub").read_text()
    known.write_text(f"[{devices.address(3)}]:{devices.port} {other}")
    for accept_new in (False, True):
        with pytest.raises(DeviceRefusedError, match="has changed: SHA256:"):
            await onto(devices, 3, files, known_hosts=known, accept_new=accept_new)
    assert known.read_text() == f"[{devices.address(3)}]:{devices.port} {other}"
    assert not devices.imported(3).exists()


_SUDO = """#!/bin/sh
printf %s "$3" >&2
IFS= read -r given
if [ "$given" != right ]; then
    [ "$given" = wrong ] && printf %s "$3" >&2 && read -r given
    echo "you are not in the sudoers file" >&2
    exit 1
fi
shift 4
exec "$@"
"""


async def test_sudo_gets_its_password_when_it_asks(devices: Devices, tmp_path: Path) -> None:
    sudo = devices.add(12) / "bin/sudo"
    sudo.write_text(_SUDO)
    sudo.chmod(0o755)
    files = files_of(tmp_path, "a")
    with pytest.raises(DeviceRefusedError, match="sudo refuses the password"):
        await onto(devices, 12, files, sudo=True, sudo_password="wrong")
    with pytest.raises(DeviceRefusedError, match="not in the sudoers file"):
        await onto(devices, 12, files, sudo=True, sudo_password="unknown")
    assert not devices.imported(12).exists()
    assert await onto(devices, 12, files, sudo=True, sudo_password="right") is False
    assert there(devices.imported(12)).items() >= wanted(files).items()


async def test_what_a_device_prints_is_bounded(devices: Devices, tmp_path: Path) -> None:
    files, root = files_of(tmp_path, "a"), image(tmp_path)
    devices.add(13)
    for imported in (root / "var/sota/import", devices.imported(13)):
        imported.mkdir(parents=True)
        (imported / "client.pem").write_bytes(b"x" * 10_000_000)
    with pytest.raises(DeviceRefusedError, match="prints more than"):
        await install(ImageRoot(root), files)
    with pytest.raises(DeviceRefusedError, match="prints more than"):
        await onto(devices, 13, files)


async def test_what_a_device_prints_before_it_becomes_root_is_bounded(
    devices: Devices, tmp_path: Path
) -> None:
    device = devices.add(14)
    (device / "flood").write_bytes(b"x" * 200_000)
    (device / "bin/sudo").write_text("#!/bin/sh\ncat /flood\nexec sleep 600\n")
    (device / "bin/sudo").chmod(0o755)
    with pytest.raises(DeviceRefusedError, match="prints more than"):
        await onto(devices, 14, files_of(tmp_path, "a"), sudo=True, sudo_password="right")


async def test_a_lock_beside_the_file_of_host_keys_is_not_written_through_a_link(
    devices: Devices, tmp_path: Path
) -> None:
    devices.add(15)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".known_hosts.otahsm-lock").symlink_to(victim)
    with pytest.raises(FolderError, match="can't use"):
        await onto(
            devices, 15, files_of(tmp_path, "a"), known_hosts=tmp_path / "known_hosts", accept_new=True
        )
    assert victim.read_text() == "precious"


async def test_a_key_that_the_device_does_not_take_is_told(devices: Devices, tmp_path: Path) -> None:
    devices.add(4)
    Devices.make_key(tmp_path / "stranger")
    with pytest.raises(DeviceRefusedError, match="accepts neither our key nor a password"):
        await onto(devices, 4, files_of(tmp_path, "a"), identity=tmp_path / "stranger")


async def test_a_tool_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, root, tools = files_of(tmp_path, "a"), image(tmp_path), tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "mkdir", "mv", "cp", "chmod", "rm", "cat", "ls", "sync"):
        path = shutil.which(tool)
        assert path is not None
        (tools / tool).symlink_to(path)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(DeviceRefusedError, match=r"a required program is missing: .*sha256sum"):
        await install(ImageRoot(root), files)
    assert not list(root.iterdir())


async def test_a_device_that_hangs_costs_its_time_and_no_more(devices: Devices, tmp_path: Path) -> None:
    files = files_of(tmp_path, "a")
    (devices.add(6) / "hang").touch()
    with pytest.raises(DeviceUnreachableError, match=r"took more than 1 s"):
        await onto(devices, 6, files, seconds=1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = Host("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(DeviceUnreachableError, match=r"took more than|can't reach"):
            async with connected(host, login(devices, seconds=1.0)):
                pass
    with pytest.raises(DeviceUnreachableError, match="can't reach"):
        async with connected(host, login(devices)):
            pass


async def test_no_key_is_ever_in_the_arguments_of_a_program(devices: Devices, tmp_path: Path) -> None:
    devices.add(7)
    files = files_of(tmp_path, "a")
    secret = files.contents["pkey.pem"].splitlines()[1]
    seen, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if secret in path.read_bytes():
                        seen.append(path)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5):
        await onto(devices, 7, files)
        (devices.imported(7) / "pkey.pem").unlink()
    done.set()
    await asyncio.to_thread(watcher.join)
    assert not seen


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("dev-1", Host("dev-1")),
        ("root@dev-1.example:2222", Host("dev-1.example", 2222, "root")),
        ("192.0.2.1:22", Host("192.0.2.1", 22)),
        ("[2001:db8::1]:22", Host("2001:db8::1", 22)),
        ("u@[fe80::1%eth0]", Host("fe80::1%eth0", None, "u")),
    ],
)
def test_hosts_are_read(text: str, host: Host) -> None:
    assert Host.parse(text) == host


@pytest.mark.parametrize(
    "text", ["", "-oProxyCommand=x", "a b", "a:b", "a:99999", "2001:db8::1", "@a", "a;b", "a/b"]
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="invalid host"):
        Host.parse(text)


def test_files_that_do_not_belong_together_are_not_sent(tmp_path: Path) -> None:
    files_of(tmp_path, "a")
    files_of(tmp_path, "b")
    devices = tmp_path / "devices"
    (devices / "b/pkey.pem").write_bytes((devices / "a/pkey.pem").read_bytes())
    with pytest.raises(ConfigError, match="don't belong together"):
        DeviceFiles.load(devices, "b", NOW)
    (devices / "a").rename(devices / "c")
    with pytest.raises(ConfigError, match="is the certificate of a"):
        DeviceFiles.load(devices, "c", NOW)
    with pytest.raises(ConfigError, match="is valid from 2020-01-01 to 2090-12-31"):
        DeviceFiles.load(devices, "b", CA_LIFE.not_before.replace(year=1990))
    (devices / "b/root.crt").unlink()
    with pytest.raises(ConfigError, match=r"root\.crt is missing"):
        DeviceFiles.load(devices, "b", NOW)
    with pytest.raises(ConfigError, match="not complete"):
        DeviceFiles.load(devices, "nobody", NOW)
