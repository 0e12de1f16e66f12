"""Privileges that a process with a PIN, or on the network, drops permanently at its start."""

from __future__ import annotations

import ctypes
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38


def harden() -> None:
    """Disable core dumps, ptrace by anyone but root, and gaining privileges through exec.

    Child processes have no core dumps and can't gain privileges either (sudo fails), but they can be traced
    until they call this themselves: prctl(2), PR_SET_DUMPABLE and PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
