"""A real OpenSSH server whose hosts are small devices: BusyBox alone, each in a root folder of its own.

One server listens; the address that a client connects to says which device it meets. 127.1.0.1 is the first
one, so hundreds of devices cost one process.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.harness import READY_SECONDS, eventually, free_port
from support.programs import answers

_SSHD = "/usr/sbin/sshd"
_TOOLS = ("sh", "mkdir", "mv", "cp", "chmod", "chown", "cat", "ls", "rm", "sync", "sha256sum", "id", "sleep")
_ENTER = """#!/bin/sh
set -- $SSH_CONNECTION
root={folder}/$3
[ -d "$root" ] || exit 97
if [ -f "$root/hang" ]; then exec sleep 600; fi
exec {enter} "$root" /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""
_CONFIG = """
Port {port}
ListenAddress 0.0.0.0
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
{force}
MaxStartups 200:30:400
LogLevel ERROR
"""


class Devices:
    """The devices of a server.

    Attributes:
        port: where all of them listen.
        identity: the private key that they accept.
        known_hosts: a file with their host keys.
    """

    def __init__(self, folder: Path, force: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.identity = folder / "identity"
        self.known_hosts = folder / "known_hosts"
        for name in ("identity", "host_key"):
            self.make_key(folder / name)
        shutil.copy(folder / "identity.pub", folder / "authorized_keys")
        host_key = (folder / "host_key.pub").read_text().rsplit(" ", 1)[0]
        self.known_hosts.write_text(f"[127.1.*]:{self.port} {host_key}\n")
        # Without root's rights, a namespace of our own lets us change the root folder.
        enter = "chroot" if os.geteuid() == 0 else "unshare --map-root-user chroot"
        script = folder / "enter"
        script.write_text(_ENTER.format(folder=folder, enter=enter))
        script.chmod(0o755)
        (folder / "sshd_config").write_text(
            _CONFIG.format(port=self.port, folder=folder, force=force.format(folder=folder))
        )

    @staticmethod
    def make_key(path: Path) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(command, check=True, timeout=READY_SECONDS, capture_output=True)

    def add(self, number: int) -> Path:
        """Make a device with BusyBox; return its root folder."""
        root = self.folder / self.address(number)
        (root / "bin").mkdir(parents=True)
        (root / "var").mkdir()
        (root / "dev").mkdir()
        os.link(self._busybox(), root / "bin/busybox")
        for tool in _TOOLS:
            (root / "bin" / tool).symlink_to("busybox")
        (root / "dev/null").touch()
        return root

    def address(self, number: int) -> str:
        return f"127.1.{number // 250}.{number % 250 + 1}"

    def host(self, number: int) -> str:
        return f"{getpass.getuser()}@{self.address(number)}:{self.port}"

    def imported(self, number: int) -> Path:
        return self.folder / self.address(number) / "var/sota/import"

    @property
    def options(self) -> list[str]:
        """How `otahsm device install` gets in."""
        return ["--identity", str(self.identity), "--known-hosts", str(self.known_hosts)]

    def _busybox(self) -> Path:
        """Return a copy on this disk: hard links to it cost nothing."""
        copy = self.folder / "busybox"
        if not copy.exists():
            shutil.copy(shutil.which("busybox") or "/bin/busybox", copy)
        return copy


@contextlib.contextmanager
def ssh_server(folder: Path, force: str = "ForceCommand {folder}/enter") -> Iterator[Devices]:
    """Run a server on a free port until the block ends; without `force`, it leads to this machine itself."""
    devices = Devices(folder, force)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd separates its privileges
    log = folder / "sshd.log"
    with log.open("wb") as errors:
        command = [_SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        eventually(lambda: process.poll() is not None or answers(devices.port), "sshd does not answer")
        assert process.poll() is None, log.read_text()
        yield devices
    finally:
        process.kill()
        process.wait(READY_SECONDS)
