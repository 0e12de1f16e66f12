"""Revocation: it is durable before the caller gets the response, and a CRL follows immediately.

1. **revoke**: the ledger records it, in a group commit with other writes
2. **make**: a CRL is made; what is revoked in the meantime goes into the next one (`CrlMaker`)
3. **write**: the files that web servers and gateways read are replaced (`CrlFolder`)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from otahsm.errors import InProgressError, NotFoundError, OtahsmError, RequestRefusedError
from otahsm.ledger import (
    Change,
    InProgress,
    Ledger,
    Requester,
    Revocation,
    RevocationAnswer,
    RevocationRequest,
)
from otahsm.pki.names import check_device_id
from otahsm.system.clock import Clock, microseconds

RevocationOutcome: TypeAlias = list[Revocation] | OtahsmError

_MAX_PROFILE: Final = 255


class Revocations:
    """Revokes certificates.

    Args:
        ledger: where revocations are recorded.
        clock: returns the time, with a time zone.
        revoked: called when something may have been revoked, so that a CRL may be due.
    """

    def __init__(self, ledger: Ledger, clock: Clock, revoked: Callable[[], None]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._revoked = revoked

    async def revoke(
        self, requests: Sequence[RevocationRequest | RequestRefusedError], by: Requester
    ) -> Change[list[RevocationOutcome]]:
        """Revoke certificates durably; return one outcome for each request, in order.

        What exceeds a quota is held: then the event is that of the held act.

        Args:
            requests: any number; a request that is an error becomes its own outcome.
            by: the client that requests it.

        Raises:
            LedgerUnavailableError: nothing was revoked, or it is not known whether it was; retry.
        """
        outcomes: list[RevocationOutcome] = [_refusal(request) or [] for request in requests]
        good = {
            at: request
            for at, (request, outcome) in enumerate(zip(requests, outcomes, strict=True))
            if isinstance(request, RevocationRequest) and not isinstance(outcome, OtahsmError)
        }
        if not good:
            return Change(outcomes, None)
        now = microseconds(self._clock())
        answers, event = await self._ledger.acts.revoke(list(good.values()), by, now)
        self._revoked()
        for (at, request), answer in zip(good.items(), answers, strict=True):
            outcomes[at] = _outcome(request, answer)
        return Change(outcomes, event)


def _refusal(request: RevocationRequest | RequestRefusedError) -> RequestRefusedError | None:
    if isinstance(request, RequestRefusedError):
        return request
    if (request.serial is None) == (not request.device_id):
        return RequestRefusedError("target", "name either a serial number or a device id")
    try:
        # Only valid ids can be in a certificate, and some invalid ones are not accepted by databases.
        check_device_id(request.device_id or "-")
    except RequestRefusedError as error:
        return error
    if len(request.profile) > _MAX_PROFILE or not request.profile.isprintable():
        return RequestRefusedError("profile", f"there is no profile {request.profile[:64]!a}")
    return None


def _outcome(request: RevocationRequest, answer: RevocationAnswer) -> RevocationOutcome:
    if isinstance(answer, InProgress):
        return InProgressError(
            f"a certificate of {_name(request)} is being issued, and is not revoked",
            hint="Retry in a second.",
        )
    if isinstance(answer, OtahsmError):
        return answer
    if not answer:
        under = f" under the profile {request.profile[:64]!a}" if request.profile else ""
        return NotFoundError(f"no certificate of {_name(request)} was issued{under}")
    return answer


def _name(request: RevocationRequest) -> str:
    if request.serial is not None:
        return f"the serial number {request.serial.hex()}"
    return f"the device {request.device_id[:128]!a}"
