"""Decides what a caller may see: what was issued to it, or everything if its role permits."""

from __future__ import annotations

import json

from otahsm.access import AccessControl, Caller, Owner
from otahsm.ledger import BatchState, CertificateRecord, Filter
from otahsm.system.clock import Clock


class Visibility:
    """Decides what callers may see. Every method raises NotAllowedError if the caller has no access at all.

    Args:
        access: the grants of callers.
        clock: the time of the decision.
    """

    def __init__(self, access: AccessControl, clock: Clock) -> None:
        self._access = access
        self._clock = clock

    def of_certificate(self, caller: Caller, record: CertificateRecord) -> bool:
        """Return whether a caller may see a certificate's record."""
        return self._of(caller, record.owner)

    def of_leaf(self, caller: Caller, leaf: bytes) -> bool:
        """Return whether a caller may see the leaf of a certificate: see `otahsm.tlog.leaf`."""
        held = json.loads(leaf)
        certificate = bytes.fromhex(held["client_certificate_sha256"])
        return self._of(caller, Owner(held["client"], certificate, held.get("policy_client") or ""))

    def of_batch(self, caller: Caller, state: BatchState) -> bool:
        """Return whether a caller may see a batch."""
        terms = state.batch.terms
        return self._access.may_see_batch(caller, terms.name, terms.clients, self._clock())

    def within(self, caller: Caller, criteria: Filter) -> Filter:
        """Restrict a filter to the certificates that a caller may list.

        Raises:
            NotAllowedError: it requests another client's.
        """
        return criteria._replace(owner=self._access.seen_of(caller, criteria.client, self._clock()))

    def _of(self, caller: Caller, owner: Owner) -> bool:
        return self._access.may_see(caller, owner, self._clock())
