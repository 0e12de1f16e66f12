"""Who gets through the daemon's TLS: clients with a certificate of the operator CA, and nobody else."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest

from otahsm.line import make_device_key
from otahsm.quickstart.certificates import FileCa
from otahsm.v1 import issuance_pb2

from support.harness import READY_SECONDS, Fleet, RunningDaemon
from support.operators import OperatorCa
from support.programs import issue

HEALTH = "/grpc.health.v1.Health/Check"
AUTHORITY = "/otahsm.v1.AuthorityService/GetAuthority"
ISSUE = "/otahsm.v1.IssuanceService/IssueCertificate"
SERVING = b"\x08\x01"
OPERATORS = "otahsm quickstart operator CA"

Credential: TypeAlias = tuple[bytes, bytes]  # certificate (chain) and key, as PEM


def files(folder: Path, certificate: str, key: str) -> Credential:
    return (folder / certificate).read_bytes(), (folder / key).read_bytes()


def of_a_client(fleet: Fleet, start_days: int, end_days: int) -> Credential:
    """Have a certificate issued by the operator CA that is valid between two days from now."""
    days = timedelta(days=1)
    tls = OperatorCa(fleet).issue("quickstart", begins=start_days * days, ends=end_days * days)
    return tls.certificate.read_bytes(), tls.key.read_bytes()


def of_an_operator(fleet: Fleet, _: Path) -> Credential:
    return files(fleet.folder / "tls", "client.pem", "client.key")


def made_for_the_test(fleet: Fleet, _: Path) -> Credential:
    return of_a_client(fleet, -1, 1)


def of_another_ca_with_the_same_name(_: Fleet, folder: Path) -> Credential:
    FileCa.create(OPERATORS).issue_client(folder / "client.pem", folder / "client.key", "quickstart")
    return files(folder, "client.pem", "client.key")


def signed_by_itself(_: Fleet, folder: Path) -> Credential:
    itself = FileCa.create("quickstart")
    itself.write_certificate(folder / "client.pem")
    itself.write_key(folder / "client.key")
    return files(folder, "client.pem", "client.key")


def of_the_daemon_itself(fleet: Fleet, _: Path) -> Credential:
    return files(fleet.folder / "tls", "server.pem", "server.key")


def of_a_device_of_the_fleet(fleet: Fleet, folder: Path) -> Credential:
    device_id = str(uuid.uuid4())
    (device,) = issue(fleet, folder / "devices", [device_id])
    return files(device, f"{device_id}.chain.pem", "pkey.pem")


def that_has_expired(fleet: Fleet, _: Path) -> Credential:
    return of_a_client(fleet, -2, -1)


def that_is_not_valid_yet(fleet: Fleet, _: Path) -> Credential:
    return of_a_client(fleet, 1, 2)


def channel(daemon: RunningDaemon, credential: Credential | None) -> grpc.Channel:
    certificate, key = credential or (None, None)
    ca = daemon.fleet.tls.ca.read_bytes()
    return grpc.secure_channel(daemon.address, grpc.ssl_channel_credentials(ca, key, certificate))


def call(connection: grpc.Channel, path: str, request: bytes = b"") -> bytes | grpc.StatusCode:
    method: Any = connection.unary_unary(path)
    try:
        answer: bytes = method(request, timeout=READY_SECONDS)
    except grpc.RpcError as raised:
        error: Any = raised  # gRPC's errors are calls too
        code: grpc.StatusCode = error.code()
        return code
    return answer


def assert_nothing_gets_through(daemon: RunningDaemon, connection: grpc.Channel) -> None:
    """Try to have a device issued; then do it as an operator, who must be the first."""
    csr = make_device_key(str(uuid.uuid4()), "ec-p256").csr
    request = issuance_pb2.IssueCertificateRequest(request=issuance_pb2.CertificateRequest(csr=csr))
    with connection:
        for path in (HEALTH, AUTHORITY, ISSUE):
            answer = call(connection, path, request.SerializeToString() if path is ISSUE else b"")
            assert answer is grpc.StatusCode.UNAVAILABLE
    with channel(daemon, of_an_operator(daemon.fleet, Path())) as operator:
        issued = call(operator, ISSUE, request.SerializeToString())
    assert isinstance(issued, bytes)
    assert not issuance_pb2.IssueCertificateResponse.FromString(issued).certificate.replayed


@pytest.mark.parametrize("credential", [of_an_operator, made_for_the_test])
def test_a_client_gets_through_with_a_certificate(
    line: Fleet,
    shared_daemon: RunningDaemon,
    tmp_path: Path,
    credential: Callable[[Fleet, Path], Credential],
) -> None:
    with channel(shared_daemon, credential(line, tmp_path)) as connection:
        assert call(connection, HEALTH) == SERVING


@pytest.mark.parametrize(
    "credential",
    [
        of_another_ca_with_the_same_name,
        signed_by_itself,
        of_the_daemon_itself,
        of_a_device_of_the_fleet,
        that_has_expired,
        that_is_not_valid_yet,
    ],
)
def test_no_rpc_gets_through_with_a_certificate(
    line: Fleet,
    shared_daemon: RunningDaemon,
    tmp_path: Path,
    credential: Callable[[Fleet, Path], Credential],
) -> None:
    assert_nothing_gets_through(shared_daemon, channel(shared_daemon, credential(line, tmp_path)))


def test_no_rpc_gets_through_without_a_certificate(shared_daemon: RunningDaemon) -> None:
    assert_nothing_gets_through(shared_daemon, channel(shared_daemon, None))


def test_no_rpc_gets_through_in_plaintext(shared_daemon: RunningDaemon) -> None:
    assert_nothing_gets_through(shared_daemon, grpc.insecure_channel(shared_daemon.address))


def first_bytes(daemon: RunningDaemon, *options: str | Path) -> bytes:
    """Connect with `openssl s_client`; return what the daemon says first, or nothing if it hangs up."""
    command = ["openssl", "s_client", "-quiet", "-verify_return_error", "-alpn", "h2"]
    command += ["-connect", daemon.address, "-CAfile", str(daemon.fleet.tls.ca)]
    with subprocess.Popen(
        [*command, *(str(option) for option in options)],
        stdin=subprocess.PIPE,  # kept open: at its end s_client would hang up
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        assert client.stdout is not None
        try:
            return client.stdout.read(9)
        finally:
            client.kill()


def is_http2_settings(frame: bytes) -> bool:
    return len(frame) == 9 and frame[3:] == b"\x04\0\0\0\0\0"  # RFC 9113, sections 4.1 and 6.5


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_gets_through_with_a_certificate(shared_daemon: RunningDaemon, version: str) -> None:
    tls = shared_daemon.fleet.tls
    assert is_http2_settings(first_bytes(shared_daemon, version, "-cert", tls.certificate, "-key", tls.key))


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_is_refused_without_a_certificate(shared_daemon: RunningDaemon, version: str) -> None:
    assert first_bytes(shared_daemon, version) == b""


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_openssl_is_refused_with_an_old_version_of_tls(shared_daemon: RunningDaemon, version: str) -> None:
    tls = shared_daemon.fleet.tls
    old = (version, "-cipher", "DEFAULT@SECLEVEL=0")
    assert first_bytes(shared_daemon, *old, "-cert", tls.certificate, "-key", tls.key) == b""
