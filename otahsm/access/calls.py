"""Which role may make which call. What is not in the table is refused, whosever service it is."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from otahsm.access.policy import Role


class Open(Enum):
    """Who may make a call whatever its roles are."""

    KNOWN = "every client of the policy"
    TRUSTED = "every client that TLS lets in, and that is not cut off"


class Call(NamedTuple):
    """Who may make a call.

    Attributes:
        roles: whose roles include one of these.
        own: issuers may make it too, for what is their own: the service sees to that.
    """

    roles: frozenset[Role]
    own: bool = False

    def may(self, roles: frozenset[Role]) -> bool:
        """Tell whether these roles allow the call."""
        return bool(self.roles & roles) or (self.own and "issuer" in roles)


def _for(*roles: Role, own: bool = False) -> Call:
    return Call(frozenset(roles), own)


_ISSUING: Final = _for("issuer")
_READING: Final = _for("auditor", "operator", "admin")
_READING_OR_OWN: Final = _for("auditor", "operator", "admin", own=True)
_OPERATING: Final = _for("operator")
_ANY: Final = _for("issuer", "auditor", "operator", "admin")

_OURS: Final = "/otahsm.v1."
CALLS: Final[Mapping[str, Call | Open]] = {
    f"{_OURS}IssuanceService/IssueCertificate": _ISSUING,
    f"{_OURS}IssuanceService/IssueCertificates": _ISSUING,
    f"{_OURS}AuthorityService/GetAuthority": _ANY,
    f"{_OURS}AuthorityService/ListProfiles": _ANY,
    f"{_OURS}LedgerService/GetCertificate": _READING_OR_OWN,
    f"{_OURS}LedgerService/ListCertificates": _READING_OR_OWN,
    f"{_OURS}LedgerService/GetLedgerStats": _READING,
    f"{_OURS}TransparencyService/GetCheckpoint": _ANY,
    f"{_OURS}TransparencyService/GetInclusionProof": _READING_OR_OWN,
    f"{_OURS}TransparencyService/GetConsistencyProof": _ANY,
    f"{_OURS}RevocationService/RevokeCertificates": _OPERATING,
    f"{_OURS}RevocationService/GetCrl": _ANY,
    f"{_OURS}DeviceService/ResetDevice": _OPERATING,
    f"{_OURS}BatchService/CreateBatch": _OPERATING,
    f"{_OURS}BatchService/CloseBatch": _OPERATING,
    f"{_OURS}BatchService/GetBatch": _READING_OR_OWN,
    f"{_OURS}BatchService/ListBatches": _READING_OR_OWN,
    f"{_OURS}AccessService/DenyClient": _for("operator", "admin"),
    f"{_OURS}AccessService/AllowClient": _for("admin"),
    f"{_OURS}AccessService/ListDeniedClients": _READING,
    f"{_OURS}AuditService/ListAuditEvents": _for("auditor", "admin"),
    "/grpc.health.v1.Health/Check": Open.TRUSTED,
    "/grpc.health.v1.Health/Watch": Open.TRUSTED,
    "/grpc.health.v1.Health/List": Open.TRUSTED,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Open.KNOWN,
}
