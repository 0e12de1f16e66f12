"""The pool of preparers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from otahsm.errors import ConfigError, OtahsmError, RequestRefusedError, WorkerLostError, WorkersBusyError
from otahsm.pki.crls.distribution import CrlLocation
from otahsm.pki.issuer import Issuer
from otahsm.pki.profile import Profile
from otahsm.pki.subject import SubjectTemplate
from otahsm.preparation.codec import Draft, Task, decode_answers, encode_tasks
from otahsm.preparation.terms import Terms, encode_terms
from otahsm.workers.pool import Report, WorkerPool

_CALL_SECONDS: Final = 30.0
_WAIT_SECONDS: Final = 10.0
_LONGEST_PAUSE: Final = 0.25


class Preparers(WorkerPool):
    """Checks CSRs and drafts certificates in `size` processes.

    Args:
        profiles: all profiles, by name.
        issuers: the CA certificate, by profile.
        crls: the CRL distribution point of the certificates, by profile; None for none.
        size: the number of processes.
        report: called with (event, pid, error) when a process is ready or lost.
        module: the processes' main module.

    Raises:
        ConfigError: the subject of a profile is invalid.
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
        super().__init__(
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

    async def prepare(self, tasks: Sequence[Task]) -> list[Draft | OtahsmError]:
        """Check CSRs and draft certificates; return one result for each task, in order.

        If the tasks kill two preparers, they are halved until the CSR that causes it is alone (I5).
        """
        if not tasks:
            return []
        try:
            answers: list[Draft | OtahsmError] = [*decode_answers(await self.call(encode_tasks(tasks)))]
        except WorkersBusyError as error:
            return [error for _ in tasks]
        except WorkerLostError:
            if len(tasks) == 1:
                return [RequestRefusedError("csr", "the CSR crashed the process that parsed it, twice")]
            half = len(tasks) // 2
            return [*await self.prepare(tasks[:half]), *await self.prepare(tasks[half:])]
        if len(answers) != len(tasks):
            return [WorkerLostError("a preparer returned the wrong number of results") for _ in tasks]
        return answers


def _check_subject(name: str, profile: Profile) -> None:
    """Check a subject that would crash every preparer at its start. Raises ConfigError."""
    try:
        SubjectTemplate(profile.subject)
    except RequestRefusedError as error:
        raise ConfigError(f"[profiles.{name}] subject: {error.message}") from None
