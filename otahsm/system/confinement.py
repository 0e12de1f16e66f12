"""What a process that parses hostile input gives up for good, once it has loaded everything that it needs.

Whoever takes it over can compute, and use the descriptors that it has. The kernel refuses whatever needs
another descriptor, process or thread, such as a file or a connection. It can still signal other processes of
its user, and trace those that don't protect themselves: against that, it needs a user of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Final

from otahsm.errors import ConfigError
from otahsm.system.hardening import harden

_NOBODY: Final = 65534
# Octets of address space; a preparer takes 0.14 GB, and 0.26 GB with the longest message.
_MEMORY: Final = 1024**3
_SECONDS_A_TASK: Final = 2.0  # of processor time; the slowest CSR takes 0.01 s
_LIMITS: Final = {
    resource.RLIMIT_NOFILE: 0,  # no new descriptor: no file, no socket, no connection
    resource.RLIMIT_NPROC: 0,  # no further process or thread
    resource.RLIMIT_FSIZE: 0,  # no octet more in a file that is open
    resource.RLIMIT_AS: _MEMORY,
}
_CAPABILITY_VERSION_3: Final = 0x20080522


def drop_privileges() -> None:
    """Become nobody if the process is root's, and lose all capabilities.

    In a user namespace that has no nobody, root stays what it is outside: a user like others.

    Capabilities are each thread's own, so the process should have no other thread yet. This clears the signal
    for the death of the parent: prctl(2), PR_SET_PDEATHSIG.

    Raises:
        ConfigError: the process is root's, and the kernel refuses to make it nobody's.
        OSError: the kernel refuses another part.
    """
    if os.geteuid() == 0 and has_user(_NOBODY):
        try:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        except OSError as error:
            raise ConfigError(
                f"a process that parses CSRs can't change from root to the user {_NOBODY}: {error.strerror}",
                hint="Run the daemon as a user of its own, as deploy/otahsm.service does.",
            ) from error
    libc = ctypes.CDLL(None, use_errno=True)
    header, has = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    # deploy/otahsm.service refuses capset, and has left nothing to lose.
    if libc.capget(header, has) or (any(has) and libc.capset(header, (ctypes.c_uint32 * 6)())):
        raise OSError(ctypes.get_errno(), "can't lose capabilities")
    harden()  # anew: a change of user resets what may be read of the process
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()  # no terminal to type into


def has_user(user: int) -> bool:
    """Return whether this user namespace has a user (user_namespaces(7)); True if that can't be told."""
    try:
        lines = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:
        return True
    ranges = [tuple(map(int, line.split())) for line in lines]
    return any(first <= user < first + count for first, _, count in ranges)


def refuse_resources() -> None:
    """Limit memory and processor time, and refuse new descriptors, processes, threads and writes to files.

    `begin_task` renews the processor time. Nothing of this can be undone.

    Raises:
        OSError: the kernel refuses.
    """
    for kind, limit in _LIMITS.items():
        resource.setrlimit(kind, (limit, limit))
    signal.setitimer(signal.ITIMER_PROF, _SECONDS_A_TASK)  # nobody handles SIGPROF: it kills


def begin_task() -> None:
    """Give a process that has called `refuse_resources` its processor time anew.

    In another process, this does nothing.
    """
    left, _ = signal.getitimer(signal.ITIMER_PROF)
    if left:
        signal.setitimer(signal.ITIMER_PROF, _SECONDS_A_TASK)
