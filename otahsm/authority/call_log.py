"""Logs the results of clients' requests: one line per message, whatever its size."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence

import structlog

from otahsm.errors import LedgerTamperedError, OtahsmError
from otahsm.revocation.revoking import RevocationOutcome

_log = structlog.get_logger()


def log_refused(event: str, client: str, refusals: Sequence[OtahsmError]) -> None:
    """Log the refused requests of a message, if any."""
    if refusals:
        _log.warning(
            event,
            client=client,
            reasons=dict(Counter(refusal.reason for refusal in refusals)),
            first=refusals[0].message,
            hint=refusals[0].hint,
        )


def log_revoked(client: str, outcomes: Sequence[RevocationOutcome]) -> None:
    """Log the certificates that a message newly revoked, and its refused requests."""
    refusals = [outcome for outcome in outcomes if isinstance(outcome, OtahsmError)]
    revoked = [item for outcome in outcomes if not isinstance(outcome, OtahsmError) for item in outcome]
    new = [item for item in revoked if not item.before]
    if new:
        _log.info(
            "certificates.revoked",
            client=client,
            revoked=len(new),
            reasons=dict(Counter(item.reason for item in new)),
            first=new[0].serial.hex(),
        )
    log_refused("revocations.refused", client, refusals)


@contextlib.contextmanager
def tampering_logged() -> Iterator[None]:
    """Log a LedgerTamperedError, whichever call detected it."""
    try:
        yield
    except LedgerTamperedError as error:
        _log.error("transparency.failed", reason=error.reason, message=error.message, hint=error.hint)
        raise
