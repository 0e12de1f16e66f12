"""A daemon takes in changed files while it runs: nothing is interrupted, and nothing wrong is taken."""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from otahsm.client import CertificateRequest, Client, ClientTls, IssuedCertificate, Refusal
from otahsm.errors import DaemonUnavailableError, NotAllowedError
from otahsm.quickstart.certificates import FileCa

from support.devices import new_request
from support.harness import READY_SECONDS, Fleet, RunningDaemon, running
from support.operators import OperatorCa, new_client


@pytest.fixture
def serving(fleet: Fleet) -> Iterator[RunningDaemon]:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        yield daemon


class Asking:
    """A client with one stream that stays open: requests go in one by one, and results come out."""

    def __init__(self, daemon: RunningDaemon, tls: ClientTls | None = None) -> None:
        self._client = Client(daemon.address, tls or daemon.fleet.tls, patience=5)
        self._requests: asyncio.Queue[CertificateRequest] = asyncio.Queue()
        self.results = self._client.issuance.issue(self._source())

    async def _source(self) -> AsyncIterator[CertificateRequest]:
        while True:
            yield await self._requests.get()

    async def one(self) -> IssuedCertificate | Refusal:
        await self._requests.put(new_request())
        async with asyncio.timeout(READY_SECONDS):
            return await anext(self.results)

    async def denied(self) -> str:
        """Ask for one more, which must be denied, as a request or with the stream; return why."""
        try:
            result = await self.one()
        except NotAllowedError as error:
            return error.message
        assert isinstance(result, Refusal)
        assert result.code == "PERMISSION_DENIED", result
        return result.message

    async def close(self) -> None:
        await self.results.aclose()
        await self._client.__aexit__(None, None, None)


def count(daemon: RunningDaemon, event: str) -> int:
    return len([item for item in daemon.events if item["event"] == event])


async def reloaded(
    daemon: RunningDaemon, event: str, change: Callable[[], object], *, hup: bool = False
) -> str:
    """Change a file; wait until the daemon has looked at it. Return its words."""
    before = count(daemon, event)
    change()
    if hup:
        daemon.process.send_signal(signal.SIGHUP)
    told = await asyncio.to_thread(daemon.wait_for, event, before + 1)
    return str(told[-1].get("message", ""))


def policy(fleet: Fleet) -> Path:
    return fleet.folder / "policy.toml"


def new_server_certificate(fleet: Fleet) -> Callable[[], None]:
    """Return what replaces the daemon's certificate and key, the key some time after the certificate."""

    def replace() -> None:
        issuer = OperatorCa(fleet)
        folder = fleet.folder / "tls/next"
        folder.mkdir()
        ca = FileCa(issuer.certificate, issuer.key)
        ca.issue_server(folder / "server.pem", folder / "server.key", "next")
        for name in ("server.pem", "server.key"):
            (folder / name).replace(fleet.folder / "tls" / name)
        folder.rmdir()

    return replace


async def shown_by(daemon: RunningDaemon) -> x509.Certificate:
    """Return the certificate that the daemon shows to who connects now."""
    host, port = daemon.address.split(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    del reader
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(der)


async def test_a_new_certificate_is_shown_to_who_connects_and_open_streams_go_on(
    serving: RunningDaemon,
) -> None:
    asking = Asking(serving)
    assert isinstance(await asking.one(), IssuedCertificate)
    before = await shown_by(serving)
    await reloaded(serving, "tls.loaded", new_server_certificate(serving.fleet))
    after = await shown_by(serving)
    assert after.serial_number != before.serial_number
    assert isinstance(await asking.one(), IssuedCertificate)
    assert count(serving, "stream.ended") == 0
    await asking.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tls: (tls / "server.key").write_text("no key"),
        lambda tls: (tls / "server.pem").write_text(""),
        lambda tls: (tls / "server.key").unlink(),
        lambda tls: shutil.copy(tls / "client.key", tls / "server.key"),
        lambda tls: shutil.copy(tls.parent / "ca/fleet-root.pem", tls / "operator-ca.pem"),
        lambda tls: (tls / "operator-ca.pem").write_bytes(b"\xff\xfe"),
        lambda tls: (tls / "operator-ca.pem").chmod(0o666),
        lambda tls: (tls / "server.key").chmod(0o644),
    ],
)
async def test_tls_files_that_are_wrong_are_refused_and_the_old_ones_stay(
    serving: RunningDaemon, spoil: Callable[[Path], object]
) -> None:
    asking = Asking(serving)
    before = await shown_by(serving)
    tls = serving.fleet.folder / "tls"
    kept = {path: path.read_bytes() for path in tls.iterdir() if path.is_file()}
    message = await reloaded(serving, "tls.refused", lambda: spoil(tls))
    assert "tls" in message
    assert await shown_by(serving) == before
    for path, content in kept.items():
        path.write_bytes(content)
        path.chmod(0o600)
    assert isinstance(await asking.one(), IssuedCertificate)
    await asking.close()


async def test_a_secret_that_kubernetes_swaps_is_reloaded(fleet: Fleet) -> None:
    """Its folder is sticky and open to all, its files are links to a folder's link, which is replaced."""
    mounted = fleet.folder / "mounted"
    mounted.mkdir()
    mounted.chmod(0o1777)
    for name in ("server.pem", "server.key"):
        (mounted / name).symlink_to(f"..data/{name}")
        fleet.edit(f'"tls/{name}"', f'"mounted/{name}"')

    def swap(version: str) -> None:
        shutil.copytree(fleet.folder / "tls", mounted / version)
        (mounted / "..tmp").symlink_to(version)
        (mounted / "..tmp").rename(mounted / "..data")

    swap("..2026_1")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        before = await shown_by(daemon)
        new_server_certificate(fleet)()
        await reloaded(daemon, "tls.loaded", lambda: swap("..2026_2"))
        assert await shown_by(daemon) != before


async def test_a_folder_that_others_can_change_is_not_read_again(serving: RunningDaemon) -> None:
    folder, before = serving.fleet.folder, await shown_by(serving)
    folder.chmod(0o777)
    said = f"other users can change the folder {folder} of"
    new = new_server_certificate(serving.fleet)
    for event, change in (("tls.refused", new), ("policy.refused", lambda: None)):
        assert said in await reloaded(serving, event, change, hup=event == "policy.refused")
    assert await shown_by(serving) == before
    folder.chmod(0o755)
    await reloaded(serving, "tls.loaded", lambda: None, hup=True)
    assert await shown_by(serving) != before


async def test_clients_of_an_operator_ca_that_is_taken_out_are_cut_off(serving: RunningDaemon) -> None:
    fleet = serving.fleet
    file = fleet.folder / "tls/operator-ca.pem"
    new_ca = FileCa.create("the next operator CA")
    tls = fleet.folder / "tls"
    new_ca.issue_client(tls / "new.pem", tls / "new.key", "quickstart")
    new = ClientTls(tls / "both.pem", tls / "new.pem", tls / "new.key")
    new_pem = new_ca.certificate.public_bytes(Encoding.PEM)
    (tls / "both.pem").write_bytes(file.read_bytes() + new_pem)
    (tls / "old.pem").write_bytes(file.read_bytes())

    asking = Asking(serving)
    assert isinstance(await asking.one(), IssuedCertificate)
    await reloaded(serving, "tls.loaded", lambda: file.write_bytes((tls / "both.pem").read_bytes()))
    assert isinstance(await asking.one(), IssuedCertificate)  # both count meanwhile
    renewed = Asking(serving, new)
    assert isinstance(await renewed.one(), IssuedCertificate)

    await reloaded(serving, "tls.loaded", lambda: file.write_bytes(new_pem))
    assert "is not from an operator CA that the daemon trusts" in await asking.denied()
    assert isinstance(await renewed.one(), IssuedCertificate)
    stale = ClientTls(tls / "old.pem", fleet.tls.certificate, fleet.tls.key)
    async with Client(serving.address, stale, patience=0) as late:
        with pytest.raises(DaemonUnavailableError):
            await late.issuance.authority()
    await asking.close()
    await renewed.close()


async def test_another_operator_ca_is_taken_with_its_crl_or_not_at_all(fleet: Fleet) -> None:
    """Until the CRL of the new CA is there, who is let in and who counts goes on by the old one."""
    tls = fleet.folder / "tls"
    OperatorCa(fleet).revoke()
    fleet.edit('# client_crls = ["tls/operator-ca.crl"]', 'client_crls = ["tls/operator-ca.crl"]')
    old_pem = (tls / "operator-ca.pem").read_bytes()
    next_ca = FileCa.create("the next operator CA")
    next_ca.issue_client(tls / "new.pem", tls / "new.key", "quickstart")
    new = ClientTls(tls / "old.pem", tls / "new.pem", tls / "new.key")  # the daemon's own stays the old CA's
    (tls / "old.pem").write_bytes(old_pem)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        asking = Asking(daemon)
        assert isinstance(await asking.one(), IssuedCertificate)
        pem = next_ca.certificate.public_bytes(Encoding.PEM)
        message = await reloaded(daemon, "tls.refused", lambda: (tls / "operator-ca.pem").write_bytes(pem))
        assert "is not from a CA in [tls] client_ca" in message
        assert isinstance(await asking.one(), IssuedCertificate)
        async with Client(daemon.address, new, patience=0) as early:
            with pytest.raises(DaemonUnavailableError):
                await early.issuance.authority()

        (tls / "operator-ca.key").write_bytes(
            next_ca.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        await reloaded(daemon, "tls.loaded", lambda: OperatorCa(fleet).revoke())
        assert "is not from an operator CA that the daemon trusts" in await asking.denied()
        async with Client(daemon.address, new, patience=5) as late:
            assert (await late.issuance.authority()).subject
        await asking.close()


async def test_a_wrong_tls_file_does_not_keep_a_crl_out(fleet: Fleet) -> None:
    ca = OperatorCa(fleet)
    ca.revoke()
    fleet.edit('# client_crls = ["tls/operator-ca.crl"]', 'client_crls = ["tls/operator-ca.crl"]')
    thief = new_client(fleet, "thief")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        asking = Asking(daemon, thief)
        assert isinstance(await asking.one(), IssuedCertificate)
        key = fleet.folder / "tls/server.key"
        await reloaded(daemon, "tls.refused", lambda: key.write_text("no key"))
        await reloaded(daemon, "crl.loaded", lambda: ca.revoke(thief))
        assert "is on the CRL of its CA" in await asking.denied()
        await asking.close()


async def test_a_policy_is_swapped_in_the_middle_of_a_stream(serving: RunningDaemon) -> None:
    fleet = serving.fleet
    asking = Asking(serving)
    assert isinstance(await asking.one(), IssuedCertificate)
    text = policy(fleet).read_text()

    narrow = text.replace('profiles = ["*"]', 'profiles = ["*"]\ndevice_ids = "none"')
    await reloaded(serving, "policy.loaded", lambda: policy(fleet).write_text(narrow), hup=True)
    refused = await asking.one()
    assert isinstance(refused, Refusal)
    assert refused.reason == "NOT_ALLOWED"
    assert "for the device id" in refused.message

    await reloaded(serving, "policy.loaded", lambda: policy(fleet).write_text(text), hup=True)
    assert isinstance(await asking.one(), IssuedCertificate)
    assert count(serving, "stream.ended") == 0  # it was the same stream all the time

    without = text.replace("cn:quickstart", "cn:somebody")
    await reloaded(serving, "policy.loaded", lambda: policy(fleet).write_text(without), hup=True)
    assert "has no client cn:quickstart" in await asking.denied()
    await asking.close()


async def test_a_policy_that_changes_holds_from_sighup_on_and_not_before(serving: RunningDaemon) -> None:
    fleet = serving.fleet
    line = new_client(fleet, "line")
    async with Client(serving.address, line, patience=5) as client:
        with pytest.raises(NotAllowedError):
            await client.issuance.authority()
        await reloaded(serving, "policy.loaded", lambda: None, hup=True)
        assert (await client.issuance.authority()).subject


async def test_a_policy_that_others_can_change_is_refused_and_the_old_one_stays(
    serving: RunningDaemon,
) -> None:
    message = await reloaded(serving, "policy.refused", lambda: policy(serving.fleet).chmod(0o666), hup=True)
    assert "other users can change" in message


@pytest.mark.parametrize("text", ["no TOML", '[clients.a]\nidentities = ["cn:a"]', None])
async def test_a_policy_that_is_wrong_is_refused_and_the_old_one_stays(
    serving: RunningDaemon, text: str | None
) -> None:
    path = policy(serving.fleet)
    change = path.unlink if text is None else (lambda: path.write_text(text))
    message = await reloaded(serving, "policy.refused", change, hup=True)
    assert "policy.toml" in message
    async with serving.client() as client:
        assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)


@pytest.mark.parametrize("text", ["no TOML", None])
def test_a_daemon_does_not_start_without_a_policy_that_is_right(fleet: Fleet, text: str | None) -> None:
    if text is None:
        policy(fleet).unlink()
    else:
        policy(fleet).write_text(text)
    failed = fleet.run("serve")
    assert failed.returncode == 2
    assert "policy.toml" in failed.stderr


def test_a_daemon_does_not_start_without_a_section_for_access(fleet: Fleet) -> None:
    fleet.edit("[access]\n", "")
    fleet.edit('policy = "policy.toml"\n', "")
    failed = fleet.run("serve")
    assert failed.returncode == 2
    assert "[access]" in failed.stderr


def test_a_daemon_does_not_start_with_a_crl_that_has_ended(fleet: Fleet) -> None:
    OperatorCa(fleet).revoke(ends=-timedelta(hours=1))
    fleet.edit('# client_crls = ["tls/operator-ca.crl"]', 'client_crls = ["tls/operator-ca.crl"]')
    failed = fleet.run("serve")
    assert failed.returncode == 2
    assert "has expired" in failed.stderr
