"""Revocation: what is revoked is durable before the caller hears of it, and a CRL follows at once.

1. **revoke**: the ledger records it, in a group commit with whatever else is written
2. **make**: a CRL is made; whatever is revoked meanwhile goes into the next one (`CrlMaker`)
3. **write**: the files that web servers and gateways read are replaced (`CrlFolder`)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from otahsm.errors import InProgressError, NotFoundError, OtahsmError, RequestRefusedError
from otahsm.issuance.values import RevocationOutcome, RevocationRequest, RevokedDevice
from otahsm.ledger import InProgress, Ledger, Revocation, Target
from otahsm.ledger.revocation import RevocationAnswer, revoke
from otahsm.pki import Reason, check_device_id
from otahsm.system.clock import Clock, microseconds

_MAX_PROFILE: Final = 255


class Revocations:
    """Revokes certificates of one CA.

    Args:
        ledger: where they are recorded.
        clock: tells the time, with a time zone.
        revoked: called when something may have been revoked, and a CRL be due.
    """

    def __init__(self, ledger: Ledger, clock: Clock, revoked: Callable[[], None]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._revoked = revoked

    async def revoke(self, orders: Sequence[RevocationRequest], client: str) -> list[RevocationOutcome]:
        """Revoke certificates; return one outcome for each order, in order. What is revoked is durable.

        Args:
            orders: any number of them.
            client: who asks, as the ledger calls it.

        Raises:
            LedgerUnavailableError: nothing was revoked, or it is not known whether it was; ask again.
        """
        outcomes: list[RevocationOutcome] = [_check(order) or [] for order in orders]
        good = [at for at, outcome in enumerate(outcomes) if not isinstance(outcome, OtahsmError)]
        if not good:
            return outcomes
        answers: list[RevocationAnswer] = await self._ledger.transaction(
            partial(
                revoke,
                targets=[_target(orders[at]) for at in good],
                client=client,
                now=microseconds(self._clock()),
            )
        )
        self._revoked()
        for at, answer in zip(good, answers, strict=True):
            outcomes[at] = _outcome(orders[at], answer)
        return outcomes


def _check(order: RevocationRequest) -> RequestRefusedError | None:
    if (order.serial is None) == (not order.device_id):
        return RequestRefusedError("target", "name either a serial number or a device id")
    try:
        # As in a certificate: what can be in none need not be looked for, and some of it no database takes.
        check_device_id(order.device_id or "-")
    except RequestRefusedError as error:
        return error
    if len(order.profile) > _MAX_PROFILE or not order.profile.isprintable():
        return RequestRefusedError("profile", f"there is no profile {order.profile[:64]!a}")
    return None


def _target(order: RevocationRequest) -> Target:
    return Target(order.serial, order.device_id, order.profile, order.reason.value)


def _outcome(order: RevocationRequest, answer: RevocationAnswer) -> RevocationOutcome:
    if isinstance(answer, InProgress):
        return InProgressError(
            f"a certificate of {_name(order)} is being issued at this moment, and is not revoked",
            hint="Ask again in a second.",
        )
    if not answer:
        under = f" under the profile {order.profile[:64]!a}" if order.profile else ""
        return NotFoundError(f"no certificate of {_name(order)} was issued{under}")
    return [_revoked(item) for item in answer]


def _name(order: RevocationRequest) -> str:
    if order.serial is not None:
        return f"the serial number {order.serial.hex()}"
    return f"the device {order.device_id[:128]!a}"


def _revoked(item: Revocation) -> RevokedDevice:
    return RevokedDevice(
        item.serial,
        item.device_id,
        item.profile,
        datetime.fromtimestamp(item.revoked_at, UTC),
        Reason(item.reason),
        item.before,
    )
