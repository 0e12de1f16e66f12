"""A machine of a test's own, with this one's programs and a systemd of its own: see tests/support/boot.sh.

It stands for one on which otahsm is installed as the guide says: users, units of deploy/, /etc/otahsm.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from support.harness import READY_SECONDS

ROOT: Final = Path(__file__).parents[2]

_GUIDE: Final = ROOT / "docs/guide/security-team.md"
_BLOCK: Final = r"<!-- on a machine: {} -->\n```console\n(.*?)^```$"


@dataclass(frozen=True)
class Machine:
    """One that runs.

    Attributes:
        init: the process id of its systemd, as seen from outside.
    """

    init: int

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as its root, in /etc/otahsm if that is there."""
        enter = [*as_root(), "nsenter", "--target", str(self.init), "--all", "--", "/bin/sh", "-c"]
        enter += ['cd /etc/otahsm 2>/dev/null || cd /; exec "$@"', "sh"]
        return subprocess.run(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
            timeout=READY_SECONDS,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    def shell(self, script: str) -> str:
        """Run a script; return what it prints."""
        done = self.run("/bin/bash", "-euc", script, check=False)
        assert done.returncode == 0, (script, done.stdout, done.stderr)
        return done.stdout

    def install(self) -> None:
        """Make a fleet and install the units of deploy/, as the guide says."""
        self.follow("one user")
        self.edit("/etc/otahsm/otahsm.toml", "preparers = 2", "preparers = 1")

    def follow(self, name: str) -> None:
        """Do what a block of the guide says, in otahsm's source folder."""
        (block,) = re.findall(_BLOCK.format(name), _GUIDE.read_text(), re.MULTILINE | re.DOTALL)
        script = re.sub(r"^(\$|>) ", "", block, flags=re.MULTILINE)
        self.shell(f"cd /opt/otahsm\n{script}")

    def write(self, path: str, text: str) -> None:
        """Write a file, and the folder that it is in."""
        self.run("/bin/sh", "-c", 'mkdir -p "${1%/*}" && printf %s "$2" >"$1"', "sh", path, text)

    def edit(self, path: str, pattern: str, replacement: str) -> None:
        """Change a file: what a regular expression finds, which must be there."""
        text, count = re.subn(pattern, replacement, self.run("cat", path).stdout, flags=re.MULTILINE)
        assert count, (path, pattern)
        self.write(path, text)

    def copy_in(self, source: Path, path: str) -> None:
        """Copy a file of this machine into that one."""
        command = [*as_root(), "nsenter", "--target", str(self.init), "--all", "--", "/bin/dd"]
        with source.open("rb") as file:
            subprocess.run([*command, "status=none", f"of={path}"], stdin=file, check=True)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.shell(f"systemctl show --property={name} --value {unit}").strip()

    def events(self, unit: str = "otahsm") -> list[dict[str, Any]]:
        """Return what a unit has logged."""
        lines = self.shell(f"journalctl --unit={unit} --output=cat --no-pager").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_for(self, event: str, count: int = 1, **fields: object) -> None:
        """Wait until the daemon has logged an event so often."""

        def found() -> bool:
            said = [
                item
                for item in self.events()
                if item["event"] == event and all(item.get(key) == value for key, value in fields.items())
            ]
            return len(said) >= count

        self.wait_until(found, f"{event} {fields}")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a state of the machine; fail, and show its journal, if it does not come."""
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                log = self.run("journalctl", "--no-pager", "--lines=50").stdout
                raise AssertionError(f"{what}\n{log}")
            time.sleep(0.1)

    def is_up(self) -> bool:
        """Whether its systemd has started what it starts."""
        return self.run("systemctl", "is-system-running", check=False).stdout == "running\n"

    def pids(self, module: str) -> list[str]:
        """Return the processes that run a Python module, by their ids in there."""
        return self.run("pgrep", "--full", "--", rf"-m {module}\b", check=False).stdout.split()


def as_root() -> list[str]:
    """Return what a command needs before it, to be root."""
    return [] if os.geteuid() == 0 else [shutil.which("sudo") or "sudo", "--non-interactive"]


def _skip_where_it_is_forbidden() -> None:
    """Skip the test in a chroot or container that lets nobody have mounts of its own."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    if not any(line.split()[4] == "/" for line in mounts):
        pytest.skip("this is a chroot whose root is no mount point: no machine can be booted in it")
    tried = subprocess.run(
        [*as_root(), "unshare", "--mount", "--pid", "--cgroup", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"this container lets nobody have namespaces: {tried.stderr.strip()}")


@contextlib.contextmanager
def booted() -> Iterator[Machine]:
    """Boot a machine; nothing of it is left in the end."""
    _skip_where_it_is_forbidden()
    command = [*as_root(), str(ROOT / "tests/support/boot.sh"), str(ROOT)]
    command += [sys.base_prefix, sysconfig.get_path("purelib")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            machine = Machine(int(process.stdout.readline()))
            machine.wait_until(machine.is_up, "systemd does not start")
            yield machine
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(READY_SECONDS)
