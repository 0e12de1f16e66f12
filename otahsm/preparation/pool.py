"""The pool of preparers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Final

from otahsm.errors import ConfigError, OtahsmError, RequestRefusedError, WorkerLostError, WorkersBusyError
from otahsm.pki import CrlLocation, Issuer, Profile, SubjectTemplate
from otahsm.preparation.codec import Draft, Task, decode_answers, encode_tasks
from otahsm.preparation.terms import Terms, encode_terms
from otahsm.workers import Report, WorkerPool

_CALL_SECONDS: Final = 30.0
_WAIT_SECONDS: Final = 10.0
_LONGEST_PAUSE: Final = 0.25


class Preparers:
    """Checks CSRs and drafts certificates in `size` processes.

    Args:
        profiles: what may be issued, by name.
        issuers: the CA certificate, by profile.
        crls: where the certificates say that their CRL is, by profile; None if they are to say nothing.
        size: how many processes.
        report: called with (event, pid, error) when a process is ready or lost.
        module: the processes' main module.

    Raises:
        ConfigError: what a profile puts into every subject fits into none.
    """

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        issuers: Mapping[str, Issuer],
        *,
        crls: Mapping[str, CrlLocation | None],
        size: int,
        report: Report,
        module: str = "otahsm.preparation.preparer",
    ) -> None:
        for name, profile in profiles.items():
            _check_subject(name, profile)
        terms = {name: Terms(profile, issuers[name], crls[name]) for name, profile in profiles.items()}
        self._pool = WorkerPool(
            "preparer",
            module,
            encode_terms(terms),
            size=size,
            environment=os.environ,
            call_seconds=_CALL_SECONDS,
            wait_seconds=_WAIT_SECONDS,
            longest_pause=_LONGEST_PAUSE,
            report=report,
        )

    @property
    def ready(self) -> int:
        """How many preparers are ready."""
        return self._pool.ready

    @property
    def failure(self) -> OtahsmError | None:
        """Why no preparer is ready, if one has failed."""
        return None if self.ready else self._pool.failure

    async def start(self) -> Sequence[asyncio.Task[None]]:
        """Start the preparers, and return while they get ready; returns as `WorkerPool.start`."""
        return await self._pool.start()

    async def wait_until_ready(self) -> None:
        """Return when a preparer is ready.

        Raises:
            OtahsmError: none will be.
        """
        await self._pool.wait_until_ready()

    async def close(self) -> None:
        """End the preparers."""
        await self._pool.close()

    async def prepare(self, tasks: Sequence[Task]) -> list[Draft | OtahsmError]:
        """Check and draft a batch; return one answer for each task, in order.

        A batch that kills two preparers is halved until the CSR that does it is alone (I5).
        """
        if not tasks:
            return []
        try:
            answers: list[Draft | OtahsmError] = [*decode_answers(await self._pool.call(encode_tasks(tasks)))]
        except WorkersBusyError as error:
            return [error for _ in tasks]
        except WorkerLostError:
            if len(tasks) == 1:
                return [RequestRefusedError("csr", "the CSR broke the process that parsed it, twice")]
            half = len(tasks) // 2
            return [*await self.prepare(tasks[:half]), *await self.prepare(tasks[half:])]
        if len(answers) != len(tasks):
            return [WorkerLostError("a preparer answered the wrong number of CSRs") for _ in tasks]
        return answers


def _check_subject(name: str, profile: Profile) -> None:
    """See here what would end every preparer when it starts. Raises ConfigError."""
    try:
        SubjectTemplate(profile.subject)
    except RequestRefusedError as error:
        raise ConfigError(f"[profiles.{name}] subject: {error.message}") from None
