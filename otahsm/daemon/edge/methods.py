"""One table of all methods of all services, with what the protocols don't say about them.

Registration, health, reflection, roles and the reference pages are derived from it. If an RPC is only in the
protocols or only in the table, the daemon doesn't start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, cast

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from otahsm.access import Call, Open, Role
from otahsm.authority import EventName
from otahsm.daemon.edge import limits
from otahsm.v1 import (
    access_pb2,
    approval_pb2,
    audit_pb2,
    authority_pb2,
    batch_pb2,
    device_pb2,
    issuance_pb2,
    ledger_pb2,
    revocation_pb2,
    transparency_pb2,
)

FILES: Final = tuple(
    cast(FileDescriptor, module.DESCRIPTOR)
    for module in (
        issuance_pb2,
        authority_pb2,
        ledger_pb2,
        transparency_pb2,
        revocation_pb2,
        device_pb2,
        batch_pb2,
        access_pb2,
        approval_pb2,
        audit_pb2,
        health_pb2,
        reflection_pb2,
    )
)


class Facts(NamedTuple):
    """What the protocols don't say about a method.

    Attributes:
        callers: the roles that may call it.
        leaves: the kind of leaf, or the name of the audit event, that it writes to the ledger's log; empty if
            it changes nothing.
        most: the most octets of one of its messages.
        gives_much: whether its response may have megabytes.
    """

    callers: Call | Open
    leaves: str = ""
    most: int = limits.MAX_CALL_BYTES
    gives_much: bool = False


class ServiceFacts(NamedTuple):
    """What the protocols don't say about a service.

    Attributes:
        needs_signer: whether it is only SERVING while a signer is ready; otherwise always.
        methods: its methods by name.
    """

    needs_signer: bool
    methods: Mapping[str, Facts]


class Method(NamedTuple):
    """One method.

    Attributes:
        name: its name in the service.
        path: its path on the wire, such as "/otahsm.v1.LedgerService/GetCertificate".
        callers, leaves, most, gives_much: as in `Facts`.
        request_type, response_type: its messages.
        takes_stream: whether its requests are a stream.
        gives_stream: whether its responses are a stream.
    """

    name: str
    path: str
    callers: Call | Open
    leaves: str
    most: int
    gives_much: bool
    request_type: type[Message]
    response_type: type[Message]
    takes_stream: bool
    gives_stream: bool


class Service(NamedTuple):
    """One service; `name` is such as "otahsm.v1.LedgerService", the rest as in `ServiceFacts`."""

    name: str
    needs_signer: bool
    methods: tuple[Method, ...]

    @property
    def is_ours(self) -> bool:
        """Whether it is otahsm's own; the others are health and reflection."""
        return self.name.startswith("otahsm.")

    @property
    def is_health(self) -> bool:
        """Whether it is the health service, which every channel of the SDK watches."""
        return self.name == health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


def _for(*roles: Role, own: bool = False) -> Call:
    return Call(frozenset(roles), own)


_ISSUING: Final = _for("issuer")
_READING: Final = _for("auditor", "operator", "admin")
_READING_OR_OWN: Final = _for("auditor", "operator", "admin", own=True)
_OPERATING: Final = _for("operator")
_ANY: Final = _for("issuer", "auditor", "operator", "admin")

_ABOUT_HEALTH: Final = Facts(Open.TRUSTED, most=limits.MAX_NAME_BYTES)

_CERTIFICATE: Final = "certificate"
_REVOCATION: Final = "revocation"

FACTS: Final[Mapping[str, ServiceFacts]] = {
    "otahsm.v1.IssuanceService": ServiceFacts(
        needs_signer=True,
        methods={
            "IssueCertificate": Facts(_ISSUING, _CERTIFICATE),
            "IssueCertificates": Facts(_ISSUING, _CERTIFICATE, limits.MAX_MESSAGE_BYTES),
        },
    ),
    "otahsm.v1.AuthorityService": ServiceFacts(
        needs_signer=True,
        methods={"GetAuthority": Facts(_ANY), "ListProfiles": Facts(_ANY)},
    ),
    "otahsm.v1.LedgerService": ServiceFacts(
        needs_signer=False,
        methods={
            "GetCertificate": Facts(_READING_OR_OWN),
            "ListCertificates": Facts(_READING_OR_OWN, gives_much=True),
            "GetLedgerStats": Facts(_READING, gives_much=True),
        },
    ),
    "otahsm.v1.TransparencyService": ServiceFacts(
        needs_signer=True,
        methods={
            "GetCheckpoint": Facts(_ANY),
            "GetInclusionProof": Facts(_READING_OR_OWN),
            "GetConsistencyProof": Facts(_ANY),
        },
    ),
    "otahsm.v1.RevocationService": ServiceFacts(
        needs_signer=True,
        methods={
            "RevokeCertificates": Facts(_OPERATING, _REVOCATION, limits.MAX_TARGETS_BYTES),
            "GetCrl": Facts(_ANY, gives_much=True),
        },
    ),
    "otahsm.v1.DeviceService": ServiceFacts(
        needs_signer=True,
        methods={"ResetDevice": Facts(_OPERATING, EventName.DEVICE_RESET)},
    ),
    "otahsm.v1.BatchService": ServiceFacts(
        needs_signer=False,
        methods={
            "CreateBatch": Facts(_OPERATING, EventName.BATCH_CREATED),
            "CloseBatch": Facts(_OPERATING, EventName.BATCH_CLOSED),
            "GetBatch": Facts(_READING_OR_OWN),
            "ListBatches": Facts(_READING_OR_OWN, gives_much=True),
        },
    ),
    "otahsm.v1.AccessService": ServiceFacts(
        needs_signer=False,
        methods={
            "DenyClient": Facts(_for("operator", "admin"), EventName.CLIENT_CUT_OFF),
            "AllowClient": Facts(_for("admin"), EventName.CLIENT_LET_IN),
            "ListDeniedClients": Facts(_READING, gives_much=True),
            "GetQuotas": Facts(_READING, gives_much=True),
            "ResetQuota": Facts(_for("admin"), EventName.QUOTA_RESET),
        },
    ),
    "otahsm.v1.ApprovalService": ServiceFacts(
        needs_signer=False,
        methods={
            "ListHeldActs": Facts(_READING, gives_much=True),
            "ConfirmHeldAct": Facts(_for("operator", "admin"), EventName.ACT_CONFIRMED),
            "RejectHeldAct": Facts(_for("operator", "admin"), EventName.ACT_REJECTED),
        },
    ),
    "otahsm.v1.AuditService": ServiceFacts(
        needs_signer=False,
        methods={"ListAuditEvents": Facts(_for("auditor", "admin"), gives_much=True)},
    ),
    "grpc.health.v1.Health": ServiceFacts(
        needs_signer=False,
        methods=dict.fromkeys(("Check", "Watch", "List"), _ABOUT_HEALTH),
    ),
    "grpc.reflection.v1alpha.ServerReflection": ServiceFacts(
        needs_signer=False,
        methods={"ServerReflectionInfo": Facts(Open.KNOWN, most=limits.MAX_NAME_BYTES)},
    ),
}


def services_of(files: Iterable[FileDescriptor], facts: Mapping[str, ServiceFacts]) -> tuple[Service, ...]:
    """Combine the protocols with the table.

    Raises:
        LookupError: a service or method is only in one of the two; the message names it.
    """
    described = {service.full_name: service for file in files for service in file.services_by_name.values()}
    _verify_same("service", facts.keys(), described.keys())
    return tuple(_service(descriptor, facts[name]) for name, descriptor in described.items())


def _service(descriptor: ServiceDescriptor, facts: ServiceFacts) -> Service:
    described = {f"{descriptor.full_name}/{method.name}": method for method in descriptor.methods}
    _verify_same("method", {f"{descriptor.full_name}/{name}" for name in facts.methods}, described.keys())
    methods = (_method(path, method, facts.methods[method.name]) for path, method in described.items())
    return Service(descriptor.full_name, facts.needs_signer, tuple(methods))


def _method(path: str, descriptor: MethodDescriptor, facts: Facts) -> Method:
    return Method(
        descriptor.name,
        f"/{path}",
        facts.callers,
        facts.leaves,
        facts.most,
        facts.gives_much,
        GetMessageClass(descriptor.input_type),
        GetMessageClass(descriptor.output_type),
        descriptor.client_streaming,
        descriptor.server_streaming,
    )


def _verify_same(what: str, known: Iterable[str], described: Iterable[str]) -> None:
    known, described = set(known), set(described)
    if unknown := sorted(described - known):
        raise LookupError(f"the {what} {unknown[0]} is in the protocols, but has no facts")
    if undescribed := sorted(known - described):
        raise LookupError(f"the {what} {undescribed[0]} has facts, but is not in the protocols")


SERVICES: Final = services_of(FILES, FACTS)
METHODS: Final[Mapping[str, Method]] = {
    method.path: method for service in SERVICES for method in service.methods
}
