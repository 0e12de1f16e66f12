"""The daemon as a stranger sees it, who has its address, its CA and the reflection service, and no stubs."""

from __future__ import annotations

import tomllib
import uuid
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from support.harness import READY_SECONDS, RunningDaemon

HEALTH = "grpc.health.v1.Health"
ISSUANCE = "otahsm.v1.IssuanceService"
AUTHORITY = "otahsm.v1.AuthorityService"
REVOCATION = "otahsm.v1.RevocationService"


@dataclass
class Stranger:
    """A client that learns every message from server reflection."""

    channel: grpc.Channel
    database: ProtoReflectionDescriptorDatabase = field(init=False)
    pool: descriptor_pool.DescriptorPool = field(init=False)

    def __post_init__(self) -> None:
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def call(self, service: str, method: str, request: dict[str, Any]) -> Any:
        """Make a unary call; request and response are JSON, as protobuf maps it."""
        described = self.pool.FindServiceByName(service).FindMethodByName(method)
        message = json_format.ParseDict(
            request, message_factory.GetMessageClass(described.input_type)(), descriptor_pool=self.pool
        )
        response = message_factory.GetMessageClass(described.output_type).FromString(
            self.raw(f"/{service}/{method}", message.SerializeToString())
        )
        return json_format.MessageToDict(
            response,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            descriptor_pool=self.pool,
        )

    def raw(self, path: str, request: bytes) -> bytes:
        call: Any = self.channel.unary_unary(path)
        answer: bytes = call(request, timeout=READY_SECONDS)
        return answer


@pytest.fixture
def stranger(shared_daemon: RunningDaemon) -> Iterator[Stranger]:
    tls = shared_daemon.fleet.tls
    credentials = grpc.ssl_channel_credentials(
        tls.ca.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()
    )
    with grpc.secure_channel(shared_daemon.address, credentials) as channel:
        yield Stranger(channel)


def new_csr(device_id: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return csr.public_bytes(Encoding.DER)


def base64(data: bytes) -> str:
    """Write bytes as protobuf's JSON does."""
    return b2a_base64(data, newline=False).decode()


def issue(stranger: Stranger, csr: bytes, **fields: str) -> Any:
    return stranger.call(ISSUANCE, "IssueCertificate", {"request": {"csr": base64(csr), **fields}})


def error_of(call: Callable[..., object], *arguments: object, **fields: object) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **fields)
    error: Any = caught.value  # gRPC's errors are calls too
    return cast(grpc.Call, error)


def details_of(call: grpc.Call) -> tuple[Status, ErrorInfo, BadRequest]:
    trailers = dict(call.trailing_metadata() or ())
    status = Status.FromString(trailers["grpc-status-details-bin"])
    info, fields = ErrorInfo(), BadRequest()
    for detail in status.details:
        assert detail.Unpack(info) or detail.Unpack(fields), detail
    return status, info, fields


def test_reflection_lists_the_services(stranger: Stranger) -> None:
    assert set(stranger.database.get_services()) == {
        HEALTH,
        AUTHORITY,
        ISSUANCE,
        "otahsm.v1.DeviceService",
        "otahsm.v1.TransparencyService",
        REVOCATION,
        "otahsm.v1.LedgerService",
        "otahsm.v1.BatchService",
        "otahsm.v1.AccessService",
        "otahsm.v1.ApprovalService",
        "otahsm.v1.AuditService",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_a_client_without_stubs_has_a_certificate_issued(
    stranger: Stranger, shared_daemon: RunningDaemon
) -> None:
    device_id = str(uuid.uuid4())
    csr = new_csr(device_id)
    response = issue(stranger, csr, device_id=device_id, request_id="stranger-1")
    assert response["request_id"] == "stranger-1"
    issued = response["certificate"]
    (chain,) = issued["chain"]
    certificate = x509.load_der_x509_certificate(a2b_base64(chain))
    root = x509.load_pem_x509_certificate(shared_daemon.fleet.root_pem.read_bytes())
    certificate.verify_directly_issued_by(root)
    assert certificate.public_key() == x509.load_der_x509_csr(csr).public_key()
    assert issued["device_id"] == device_id
    assert int.from_bytes(a2b_base64(issued["serial_number"]), "big") == certificate.serial_number
    assert issued["not_before_time"] == f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert issued["not_after_time"] == f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert issued["replayed"] is False


def test_a_request_without_an_id_gets_one_and_asking_again_gets_the_same_certificate(
    stranger: Stranger,
) -> None:
    csr = new_csr(str(uuid.uuid4()))
    first, second = issue(stranger, csr), issue(stranger, csr)
    assert first["request_id"]
    assert second["request_id"] == first["request_id"]
    assert second["certificate"] == {**first["certificate"], "replayed": True}


@pytest.mark.parametrize("service", ["", ISSUANCE, AUTHORITY, REVOCATION])
def test_the_standard_health_service_says_serving(stranger: Stranger, service: str) -> None:
    assert stranger.call(HEALTH, "Check", {"service": service}) == {"status": "SERVING"}


def test_the_standard_health_service_does_not_know_other_services(stranger: Stranger) -> None:
    call = error_of(stranger.call, HEALTH, "Check", {"service": "otahsm.v1.Nothing"})
    assert call.code() is grpc.StatusCode.NOT_FOUND


def test_the_authority_is_the_root_that_the_configuration_names(
    stranger: Stranger, shared_daemon: RunningDaemon
) -> None:
    shared_daemon.wait_for("signer.ready", count=2)
    fleet = shared_daemon.fleet
    shared_daemon.wait_for("signer.ready", count=2)
    configured = fleet.folder / tomllib.loads(fleet.toml.read_text())["ca"]["certificate"]
    root = x509.load_pem_x509_certificate(configured.read_bytes())
    authority = stranger.call(AUTHORITY, "GetAuthority", {})["authority"]
    jobs = authority.pop("jobs")
    assert {"name": "ledger", "failing_reason": "", "fault_count": "0"} in jobs
    assert authority == {
        "subject": root.subject.rfc4514_string(),
        "chain": [],
        "trust_anchor": base64(root.public_bytes(Encoding.DER)),
        "other_trust_anchors": [],
        "key_type": "ec-p256",
        "not_after_time": f"{root.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "ready_signers": tomllib.loads(fleet.toml.read_text())["token"]["signers"],
        "not_serving_reason": "",
    }


def test_the_profiles_are_those_of_the_configuration(
    stranger: Stranger, shared_daemon: RunningDaemon
) -> None:
    configuration = tomllib.loads(shared_daemon.fleet.toml.read_text())
    assert stranger.call(AUTHORITY, "ListProfiles", {})["profiles"] == [
        {
            "name": name,
            "is_default": name == configuration["issuance"]["default_profile"],
            "validity": f"{profile['validity_days'] * 24 * 60 * 60}s",
            "device_id_pattern": profile["device_id"],
            "key_types": sorted(profile["key_types"]),
            "subject": profile["subject"],
            "attributes": [],
        }
        for name, profile in sorted(configuration["profiles"].items())
    ]


def test_a_bad_csr_is_answered_with_its_field_a_reason_and_a_hint(stranger: Stranger) -> None:
    call = error_of(issue, stranger, b"not a CSR")
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    status, info, fields = details_of(call)
    assert (status.code, status.message) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], call.details())
    assert (info.domain, info.reason) == ("otahsm", "BAD_REQUEST")
    assert info.metadata["hint"]
    (violation,) = fields.field_violations
    assert violation.field == "csr"
    assert violation.description == call.details()


def test_a_conflict_is_answered_with_a_reason_and_a_hint(stranger: Stranger) -> None:
    device_id = str(uuid.uuid4())
    issue(stranger, new_csr(device_id))
    call = error_of(issue, stranger, new_csr(device_id))
    assert call.code() is grpc.StatusCode.ALREADY_EXISTS
    _, info, fields = details_of(call)
    assert (info.domain, info.reason) == ("otahsm", "CONFLICT")
    assert info.metadata["hint"]
    assert not fields.field_violations


@pytest.mark.parametrize(
    ("csr", "fields"),
    [
        (b"", {}),
        (b"\x30\x80\x00\x00", {}),
        (b"\x30" * 16_384, {}),
        (b"\x30" * 16_385, {}),
        (new_csr("dev-1")[:-1], {}),
        (new_csr("dev-1") + b"\0", {}),
        (new_csr("../../etc/passwd"), {}),
        (new_csr("dev-1"), {"device_id": "dev-2"}),
        (new_csr("dev-1"), {"profile": "no-such-profile"}),
        (new_csr("dev-1"), {"request_id": "with spaces"}),
        (new_csr("dev-1"), {"request_id": "x" * 129}),
        (new_csr("dev-1"), {"device_id": "x" * 100_000}),
    ],
)
def test_whatever_is_refused_is_explained_without_a_python_traceback(
    stranger: Stranger, csr: bytes, fields: dict[str, str]
) -> None:
    call = error_of(issue, stranger, csr, **fields)
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert_explained(call)


@pytest.mark.parametrize("method", ["IssueCertificate", "IssueCertificates"])
@pytest.mark.parametrize("message", [b"\xff\xff\xff", b"\x0a\x7f", b"\0"])
def test_bytes_that_are_no_message_are_refused_without_a_word_of_python(
    stranger: Stranger, method: str, message: bytes
) -> None:
    call = error_of(stranger.raw, f"/{ISSUANCE}/{method}", message)
    assert call.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
    assert_explained(call)


@pytest.mark.parametrize("path", [f"/{ISSUANCE}/Nothing", "/otahsm.v2.IssuanceService/IssueCertificate", "/"])
def test_a_method_that_does_not_exist_is_unimplemented(stranger: Stranger, path: str) -> None:
    call = error_of(stranger.raw, path, b"")
    assert call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert_explained(call)


def test_a_client_without_stubs_revokes_and_reads_the_crl(
    stranger: Stranger, shared_daemon: RunningDaemon
) -> None:
    device_id = str(uuid.uuid4())
    csr = new_csr(device_id)
    serial = issue(stranger, csr)["certificate"]["serial_number"]
    target = {"serial_number": serial, "reason": "REVOCATION_REASON_KEY_COMPROMISE"}
    nobody = {"device_id": "nobody", "reason": "REVOCATION_REASON_SUPERSEDED"}
    answer = stranger.call(REVOCATION, "RevokeCertificates", {"targets": [target, nobody]})
    (revoked,) = answer["results"][0]["certificates"]
    assert revoked.pop("revoke_time")
    assert revoked == {
        "serial_number": serial,
        "device_id": device_id,
        "profile": "ota-connect",
        "reason": "REVOCATION_REASON_KEY_COMPROMISE",
        "already_revoked": False,
    }
    assert answer["results"][1]["certificates"] == []
    assert answer["results"][1]["error"]["code"] == grpc.StatusCode.NOT_FOUND.value[0]
    said = stranger.call(REVOCATION, "GetCrl", {})
    crl = x509.load_der_x509_crl(a2b_base64(said["crl"]))
    root = x509.load_pem_x509_certificate(shared_daemon.fleet.root_pem.read_bytes())
    assert crl.is_signature_valid(root.public_key())  # type: ignore[arg-type]
    entry = crl.get_revoked_certificate_by_serial_number(int.from_bytes(a2b_base64(serial), "big"))
    assert entry is not None
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.key_compromise
    assert int(said["number"]) == crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert int(said["revoked_count"]) == len(crl)
    assert said["this_update_time"] == f"{crl.last_update_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert said["next_update_time"] == f"{crl.next_update_utc:%Y-%m-%dT%H:%M:%SZ}"
    call = error_of(issue, stranger, csr)
    assert call.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details_of(call)[1].reason == "REVOKED"


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({}, "target"),
        ({"serial_number": ""}, "serial_number"),
        ({"serial_number": base64(bytes(20))}, "serial_number"),
        ({"serial_number": base64(b"\1" * 21)}, "serial_number"),
        ({"device_id": ""}, "target"),
        ({"device_id": "../x"}, "device_id"),
        ({"device_id": "a\u0000b"}, "device_id"),
        ({"device_id": "x" * 100_000}, "device_id"),
        ({"device_id": "a", "profile": "a\u0000b"}, "profile"),
        ({"device_id": "a", "reason": 6}, "reason"),
        ({"device_id": "a", "reason": -1}, "reason"),
    ],
)
def test_a_malformed_target_costs_its_own_result(
    stranger: Stranger, target: dict[str, str | int], field: str
) -> None:
    answer = stranger.call(REVOCATION, "RevokeCertificates", {"targets": [target, {"device_id": "nobody"}]})
    codes = [result["error"]["code"] for result in answer["results"]]
    assert codes == [grpc.StatusCode.INVALID_ARGUMENT.value[0], grpc.StatusCode.NOT_FOUND.value[0]]
    assert field in json_format.MessageToJson(json_format.ParseDict(answer["results"][0]["error"], Status()))


@pytest.mark.parametrize("count", [0, 257])
def test_a_call_carries_a_bounded_number_of_targets(stranger: Stranger, count: int) -> None:
    targets = [{"device_id": "a"}] * count
    call = error_of(stranger.call, REVOCATION, "RevokeCertificates", {"targets": targets})
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert_explained(call)


@pytest.mark.parametrize("scope", [{"url": "http://x/\u0000"}, {"shard": 0}, {"authorities": True}])
def test_a_crl_that_is_not_there_is_not_found(stranger: Stranger, scope: dict[str, Any]) -> None:
    call = error_of(stranger.call, REVOCATION, "GetCrl", scope)
    assert call.code() is grpc.StatusCode.NOT_FOUND
    assert_explained(call)


def assert_explained(call: grpc.Call) -> None:
    said = f"{call.details()} {call.trailing_metadata()}"
    assert call.details()
    for python in ("Traceback", "<class", ".py", "Exception", "Error(", "object at 0x"):
        assert python not in said
