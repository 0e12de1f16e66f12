"""A daemon against its client: what was not requested is refused, written nowhere, and costs no neighbour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.cli.commands.batch.run import run_batch
from otahsm.cli.output.progress import OutputMode
from otahsm.client import Client, IssuedCertificate, Refusal
from otahsm.client.checking import CertificateChecker
from otahsm.config import ClientConfig
from otahsm.errors import CertificateRejectedError, ConfigError, OtahsmError
from otahsm.line import (
    Device,
    DeviceFolders,
    Done,
    Failed,
    IssueOptions,
    LayoutName,
    Run,
    issue_devices,
    leave_out_others,
    make_device_key,
)
from otahsm.pki.keytypes import KeyType
from otahsm.quickstart.certificates import FileCa
from otahsm.v1 import batch_pb2, ledger_pb2
from otahsm.v1 import issuance_pb2 as pb

from support.attacks.lying_daemon import LyingDaemon
from support.authority import certificate_for, leaf, root_of
from support.devices import new_request

ROOT, OTHER_ROOT = root_of("ec-p256"), root_of("ec-p384")
VICTIM = "victim"


def answer_with(device_id: str, *chain: bytes, serial: int | None = None) -> pb.IssuedCertificate:
    if serial is None:
        serial = x509.load_der_x509_certificate(chain[0]).serial_number
    octets = serial.to_bytes(20, "big").lstrip(b"\0")
    return pb.IssuedCertificate(
        device_id=device_id, serial_number=octets, chain=chain, trust_anchor=OTHER_ROOT
    )


def honest(request: pb.CertificateRequest) -> pb.IssuedCertificate:
    device_id = request.device_id or "anonymous"
    return answer_with(device_id, certificate_for(request.csr, device_id))


def of_our_own_ca(request: pb.CertificateRequest) -> pb.IssuedCertificate:
    return answer_with(request.device_id, leaf(request.device_id, "ec-p256", ca="ec-p384"))


def under_another_id(_: pb.CertificateRequest) -> pb.IssuedCertificate:
    csr = make_device_key(VICTIM, "ec-p256").csr
    return answer_with(VICTIM, certificate_for(csr, VICTIM))


def with_a_made_up_chain(request: pb.CertificateRequest) -> pb.IssuedCertificate:
    """The device's own issuer in the middle, which no CA has signed."""
    middle = leaf("middle", "ec-p384", ca="ec-p256")
    key_of_middle = certificate_for(request.csr, request.device_id)
    return answer_with(request.device_id, key_of_middle, middle)


LIES: dict[str, Callable[[pb.CertificateRequest], pb.IssuedCertificate]] = {
    "no certificate": lambda request: answer_with(request.device_id, b"hello", serial=1),
    "an empty chain": lambda request: pb.IssuedCertificate(device_id=request.device_id),
    "self-signed": lambda request: answer_with(
        request.device_id, FileCa.create(request.device_id).certificate.public_bytes(Encoding.DER)
    ),
    "another key": lambda request: answer_with(request.device_id, leaf(request.device_id, "ec-p256")),
    "another CA": of_our_own_ca,
    "another device": under_another_id,
    "another device's certificate": lambda request: answer_with(
        request.device_id, certificate_for(make_device_key(VICTIM, "ec-p256").csr, VICTIM)
    ),
    "the id of another device": lambda request: answer_with(
        VICTIM, certificate_for(request.csr, request.device_id)
    ),
    "another serial number": lambda request: answer_with(
        request.device_id, certificate_for(request.csr, request.device_id), serial=7
    ),
    "a chain without a root": with_a_made_up_chain,
    "a very long chain": lambda request: answer_with(
        request.device_id, certificate_for(request.csr, request.device_id), *[ROOT] * 100
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_what_was_not_requested_is_refused_written_nowhere_and_costs_no_neighbour(
    tmp_path: Path, lie: str
) -> None:
    def answer(request: pb.CertificateRequest) -> pb.IssuedCertificate:
        return LIES[lie](request) if request.device_id == "attacked" else honest(request)

    folders = DeviceFolders(tmp_path / "devices", ROOT)
    async with LyingDaemon(tmp_path, answer, [ROOT]).serving() as daemon, daemon.client(ROOT) as client:
        devices = [Device(VICTIM), Device("attacked"), Device("neighbour")]
        run = Run.open(folders, ["test"], devices)
        reports = {
            report.name: report
            async for report in issue_devices(client.issuance, folders, devices, IssueOptions(), run=run)
        }
    refused = reports.pop("attacked")
    assert isinstance(refused, Failed)
    assert isinstance(refused.refusal.error, CertificateRejectedError)
    assert not folders.is_complete("attacked")
    assert run.outcomes(["attacked"]) == {}  # it is asked for again
    for name, report in reports.items():
        assert isinstance(report, Done)
        key, certificate = folders.saved_csr(name), folders.certificate(name)
        assert key is not None
        assert certificate is not None
        own = x509.load_pem_x509_certificate(certificate).public_key()
        assert own == x509.load_der_x509_csr(key).public_key()
        chain = (folders.path(name) / f"{name}.chain.pem").read_bytes()
        assert x509.load_pem_x509_certificates(chain)[-1].public_bytes(Encoding.DER) == ROOT


async def test_a_stream_that_ends_without_its_results_is_not_opened_for_ever(tmp_path: Path) -> None:
    async with LyingDaemon(tmp_path, lambda _: None, [ROOT]).serving() as daemon, daemon.client() as client:
        result = await client.issuance.issue_one(new_request("x").csr, device_id="x")
    assert isinstance(result, Refusal)
    assert result.code == "UNAVAILABLE"
    assert "ended a stream without its results" in result.message


async def test_a_csr_alone_says_which_device_is_meant(tmp_path: Path) -> None:
    async with LyingDaemon(tmp_path, honest, [ROOT]).serving() as daemon, daemon.client(ROOT) as client:
        own = await client.issuance.issue_one(new_request("anonymous").csr)
        assert isinstance(own, IssuedCertificate)
        daemon.answer = under_another_id
        other = await client.issuance.issue_one(new_request("anonymous").csr)
    assert isinstance(other, Refusal)
    assert isinstance(other.error, CertificateRejectedError)


async def test_a_run_keeps_the_root_that_it_began_with_unless_it_is_told_another(tmp_path: Path) -> None:
    folders = DeviceFolders(tmp_path / "devices", ROOT)

    async def issue(client: Client, run: Run) -> Done | Failed:
        reports = issue_devices(client.issuance, folders, run.devices(), IssueOptions(), run=run)
        (report,) = [report async for report in reports]
        return report

    async with LyingDaemon(tmp_path, of_our_own_ca, [ROOT]).serving() as daemon:
        device = [Device("a")]
        async with daemon.client() as client:
            assert isinstance(await issue(client, Run.open(folders, ["test"], device)), Failed)

        def by_the_new_ca(request: pb.CertificateRequest) -> pb.IssuedCertificate:
            return answer_with(request.device_id, _by_other_ca(request.csr, request.device_id))

        daemon.anchors, daemon.answer = [OTHER_ROOT, ROOT], by_the_new_ca
        async with daemon.client() as client:  # it resumes: what the daemon says now does not count
            resumed = await issue(client, Run.open(folders, ["test"], device))
            assert isinstance(resumed, Failed)
            assert "fleet_ca" in resumed.refusal.hint
        async with daemon.client(ROOT, OTHER_ROOT) as client:
            assert isinstance(await issue(client, Run.open(folders, ["test"], device)), Done)


def _by_other_ca(csr: bytes, device_id: str) -> bytes:
    return certificate_for(csr, device_id, ca="ec-p384")


async def test_a_client_keeps_the_roots_that_were_named_first(tmp_path: Path) -> None:
    async with LyingDaemon(tmp_path, honest, [ROOT]).serving() as daemon, daemon.client() as client:
        request = new_request("x")
        assert isinstance(await client.issuance.issue_one(request.csr, device_id="x"), IssuedCertificate)
        daemon.anchors = [OTHER_ROOT]
        daemon.answer = lambda request: answer_with("y", _by_other_ca(request.csr, "y"))
        assert isinstance(await client.issuance.issue_one(new_request("y").csr, device_id="y"), Refusal)


async def test_the_ca_of_a_crl_must_lead_to_a_root_that_the_client_was_told(tmp_path: Path) -> None:
    below_root = leaf("a", "ec-p384", ca="ec-p256")  # a device's certificate is no root
    async with LyingDaemon(tmp_path, honest, [ROOT]).serving() as daemon, daemon.client(ROOT) as client:
        client.issuance.check_authority(await client.issuance.authority())
        for anchor in (OTHER_ROOT, below_root, b"hello"):
            daemon.anchors = [anchor]
            with pytest.raises(CertificateRejectedError, match="is not the expected one"):
                client.issuance.check_authority(await client.issuance.authority())
        authority = (await client.issuance.authority())._replace(chain=(OTHER_ROOT,), trust_anchor=ROOT)
        with pytest.raises(CertificateRejectedError):
            client.issuance.check_authority(authority)


async def test_a_time_that_does_not_exist_is_one_error(tmp_path: Path) -> None:
    async with LyingDaemon(tmp_path, honest, [ROOT]).serving() as daemon, daemon.client() as client:
        daemon.batch.deadline_time.seconds = 10**15
        with pytest.raises(OtahsmError, match="a time that does not exist"):
            await client.batches.get("x")


@pytest.mark.parametrize("bad", [b"hello", leaf("a", "ec-p256")], ids=["octets", "a device"])
def test_a_trust_anchor_that_is_no_root_is_refused(bad: bytes) -> None:
    with pytest.raises(ConfigError, match="trust anchor"):
        CertificateChecker([bad])


def issued(device_id: str, certificate: bytes) -> ledger_pb2.Certificate:
    entry = ledger_pb2.Certificate(device_id=device_id, serial_number=b"\x01", certificate=certificate)
    entry.issue_time.GetCurrentTime()
    return entry


def by_another_machine(device_id: str, ca: KeyType = "ec-p256") -> bytes:
    return certificate_for(make_device_key(device_id, "ec-p256").csr, device_id, ca=ca)


@pytest.mark.parametrize("layout", ["seed", "flat", "tar"])
async def test_what_was_made_elsewhere_is_proven_or_costs_no_device_its_key(
    tmp_path: Path, layout: LayoutName
) -> None:
    folders = DeviceFolders(tmp_path / "devices", ROOT, layout=layout)
    others = DeviceFolders(tmp_path / "others", ROOT, layout=layout)
    ids = ["elsewhere", "unproven", "nothing", "own"]
    keys = {device_id: make_device_key(device_id, "ec-p256") for device_id in (*ids, "of-another-run")}
    folders.begin(keys)
    others.begin({"neighbour": make_device_key("neighbour", "ec-p256")})
    run = Run.open(folders, ["batch run", "x"], [Device(device_id) for device_id in ids])
    strangers = [str(others.path("neighbour")), "../others/neighbour", "of-another-run", ""]
    async with LyingDaemon(tmp_path, honest, [ROOT]).serving() as daemon, daemon.client(ROOT) as client:
        daemon.entries = [
            issued("elsewhere", by_another_machine("elsewhere")),
            issued("unproven", by_another_machine("unproven", ca="ec-p384")),
            issued("nothing", b""),
            issued("own", certificate_for(keys["own"].csr, "own")),
            *(issued(stranger, by_another_machine("x")) for stranger in strangers),
        ]
        await leave_out_others(client, run, folders, "x")
    assert run.outcomes(ids) == {"elsewhere": "elsewhere"}
    assert [name for name in keys if folders.saved_csr(name) is None] == ["elsewhere"]
    assert others.saved_csr("neighbour") is not None


async def test_a_batch_that_is_said_to_be_full_costs_no_key_and_is_not_done(tmp_path: Path) -> None:
    async with LyingDaemon(tmp_path, lambda _: None, [ROOT]).serving() as daemon:
        kind = batch_pb2.IdScheme(kind="uuid4")
        daemon.batch = batch_pb2.Batch(
            name="x", device_count=2, issued_count=2, remaining_count=2, id_scheme=kind
        )
        tls = {"ca": daemon.tls.ca, "certificate": daemon.tls.certificate, "key": daemon.tls.key}
        settings = ClientConfig.model_validate(
            {"target": daemon.target, **tls, "devices": tmp_path / "devices"}, context={"base": tmp_path}
        )
        assert not await run_batch(
            settings,
            "x",
            None,
            out=None,
            layout="seed",
            key_type="ec-p256",
            passphrase=None,
            retry_refused=False,
            announce=False,
            patience=0,
            output_mode=OutputMode(as_json=False, quiet=True),
        )
    assert len(list((tmp_path / "devices").glob("[!.]*/pkey.pem"))) == 2
