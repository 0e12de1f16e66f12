"""The pool of preparers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from otahsm.errors import OtahsmError, RequestRefusedError, WorkerLostError, WorkersBusyError
from otahsm.pki.certificate import Binding
from otahsm.pki.profile import Profile
from otahsm.preparation.codec import Task, decode_answers, encode_setup, encode_tasks
from otahsm.workers.pool import Report, WorkerPool

_CALL_SECONDS: Final = 30.0
_WAIT_SECONDS: Final = 10.0
_LONGEST_PAUSE: Final = 0.25
# What Python and OpenSSL read. The daemon may have others, such as a PIN.
_VARIABLES: Final = ("HOME", "LANG", "LC_", "LD_", "OPENSSL_", "PATH", "PYTHON")


class Preparers(WorkerPool):
    """Checks CSRs in `size` processes.

    Args:
        profiles: all profiles, by name.
        size: the number of processes.
        report: called with (event, pid, error) when a process is ready or lost.
        module: the processes' main module.
        socket: where systemd starts a preparer for each connection; None to start child processes.
    """

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        *,
        size: int,
        report: Report,
        module: str = "otahsm.preparation.preparer",
        socket: Path | None = None,
    ) -> None:
        super().__init__(
            "preparer",
            module,
            encode_setup(profiles),
            size=size,
            environment={name: os.environ[name] for name in os.environ if name.startswith(_VARIABLES)},
            call_seconds=_CALL_SECONDS,
            wait_seconds=_WAIT_SECONDS,
            longest_pause=_LONGEST_PAUSE,
            report=report,
            socket=socket,
            believes=False,
        )

    async def prepare(self, tasks: Sequence[Task]) -> list[Binding | OtahsmError]:
        """Check CSRs; return one result for each task, in order.

        A preparer that returns what a CSR does not contain is killed. If the tasks cost two preparers, each
        is tried alone, and only a CSR that costs two more is refused (I5).
        """
        if not tasks:
            return []
        try:
            return [*await self.ask(encode_tasks(tasks), partial(decode_answers, tasks))]
        except WorkersBusyError as error:
            return [error for _ in tasks]
        except WorkerLostError:
            if len(tasks) == 1:
                return [RequestRefusedError("csr", "the CSR cost the process that parsed it its life, twice")]
            return [answer for task in tasks for answer in await self.prepare([task])]
