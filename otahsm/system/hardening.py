"""What a process that holds a PIN, or faces the network, gives up for good before it does anything else."""

from __future__ import annotations

import ctypes
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38


def harden() -> None:
    """Leave no core dump, let nobody attach but root, and gain no privilege by what is executed.

    What this process executes has no core dumps and gains no privilege either (sudo fails), but can be
    attached to until it calls this itself: prctl(2), PR_SET_DUMPABLE and PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
