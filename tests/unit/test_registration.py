"""Registration: every device reaches the backend, whatever happens to the backend, the network or the run."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.client import IssuedCertificate
from otahsm.client.values import CertificateRequest
from otahsm.config import RegistrationConfig, parse_config, section
from otahsm.errors import (
    BackendRefusedError,
    BackendUnavailableError,
    BackendUntrustedError,
    ConfigError,
    FolderError,
)
from otahsm.line import Device, DeviceFolders, Run
from otahsm.line.layouts import LayoutName
from otahsm.line.run_state import RunState
from otahsm.pki import SerialNumber
from otahsm.registration.backends import Backend
from otahsm.registration.collecting import Collected, certificate_of, collect
from otahsm.registration.outbox import Outbox, Registered, TryOutcome
from otahsm.registration.registering import register

from support.authority import leaf, root_of
from support.backend import BackendServer, Reply, Script, Seen, backend_running
from support.gateways import Signer, authority
from support.harness import OTAHSM, READY_SECONDS, free_port

SECRET = "s3cr3t-of-the-registry"
SERIAL = 0x17
WHEN = datetime(2030, 1, 1, tzinfo=UTC)
DER = leaf("any", "ec-p256", serial=SERIAL)
PEM = x509.load_der_x509_certificate(DER).public_bytes(Encoding.PEM).decode()
ASKED = ["device issue", "--profile", "gold"]


def issued(device_id: str, serial: int = SERIAL, certificate: bytes = DER) -> IssuedCertificate:
    request = CertificateRequest(b"csr", device_id)
    return IssuedCertificate(
        request, device_id, SerialNumber(serial), (certificate,), WHEN, WHEN, replayed=False
    )


def fill(folder: Path, *devices: str | Device, announce: bool = True, profile: str = "gold") -> None:
    """Have devices issued, as far as the book knows; enter them for registration."""
    opened = DeviceFolders(folder, b"")
    known = [device if isinstance(device, Device) else Device(device) for device in devices]
    order = Run.open(opened, ASKED, known, resume=False)
    if announce:
        order.announce(profile)
    order.record(
        [issued(device.device_id) for device in known],
        {device.device_id: device for device in known},
    )
    opened.close()


def nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {"a": "b"}
    for _ in range(depth):
        table = {"a": table}
    return table


def settings(folder: Path, url: str, **more: Any) -> RegistrationConfig:
    table = {"kind": "webhook", "url": url, "timeout_seconds": 10, **more}
    config = parse_config({"registration": table}, base=folder, source="otahsm.toml")
    return section(config.registration, "registration")


def run(
    folder: Path,
    url: str,
    *,
    patience: float = 20.0,
    tell: Callable[[Registered], None] | None = None,
    **more: Any,
) -> list[Registered]:
    """Register what waits; return what was told."""
    told: list[Registered] = []
    config = settings(folder, url, **more)

    def hear(one: Registered) -> None:
        told.append(one)
        if tell is not None:
            tell(one)

    with contextlib.closing(Outbox(folder, config.timeout_seconds)) as outbox, outbox:
        register(
            outbox,
            Backend(config),
            hear,
            parallel=config.parallel,
            patience=patience,
        )
    return told


def known(folder: Path) -> dict[str, Registered]:
    with contextlib.closing(Outbox(folder)) as outbox:
        return {one.device_id: one for one in outbox.all()}


def rows(folder: Path) -> list[sqlite3.Row]:
    with contextlib.closing(RunState(folder)) as book:
        return book.read("SELECT * FROM registrations ORDER BY id")


def script(*replies: Reply) -> Script:
    """Answer with each in turn, the last one for ever."""
    return lambda _seen, number: replies[min(number, len(replies)) - 1]


# What the backend sees.

KINDS = [
    (
        {"kind": "community-edition"},
        "PUT",
        "/api/v1/devices",
        {"credentials": PEM, "uuid": "dev", "deviceId": "dev", "deviceName": "dev", "deviceType": "Other"},
    ),
    (
        {"kind": "community-edition", "method": "POST", "url": "/"},
        "POST",
        "/api/v1/devices",
        {"credentials": PEM, "uuid": "dev", "deviceId": "dev", "deviceName": "dev", "deviceType": "Other"},
    ),
    (
        {"kind": "foundries", "headers": {"OSF-TOKEN": {"env": "REGISTRY"}}},
        "PUT",
        "/ota/devices/",
        {"client.pem": PEM, "name": "dev"},
    ),
    (
        {"kind": "foundries", "headers": {"OSF-TOKEN": {"env": "REGISTRY"}}, "group": "line-{plant}"},
        "PUT",
        "/ota/devices/",
        {"client.pem": PEM, "name": "dev", "group": "line-Ulm"},
    ),
    (
        {},
        "POST",
        "/",
        {"device_id": "dev", "serial": "17", "profile": "gold", "certificate": PEM},
    ),
    (
        {
            "url": "/v2/units/{device_id}/{serial}?source=otahsm",
            "method": "PUT",
            "body": {"unit": {"id": "{device_id}", "tags": ["{plant}", "{{x}}", 3, True]}, "n": 1.5},
        },
        "PUT",
        "/v2/units/dev/17?source=otahsm",
        {"unit": {"id": "dev", "tags": ["Ulm", "{x}", 3, True]}, "n": 1.5},
    ),
    (
        {"kind": "community-edition", "body": {"credentials": "{certificate}", "deviceName": "{plant}"}},
        "PUT",
        "/api/v1/devices",
        {"credentials": PEM, "deviceName": "Ulm"},
    ),
]


@pytest.mark.parametrize(("config", "method", "path", "body"), KINDS)
def test_the_backend_is_told_what_its_kind_expects(
    config: dict[str, Any],
    method: str,
    path: str,
    body: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REGISTRY", SECRET)
    fill(tmp_path, Device("dev", {"plant": "Ulm"}))
    with backend_running() as backend:
        (told,) = run(tmp_path, backend.url + config.pop("url", ""), **config)
    assert (told.state, told.answer) == ("done", "201 Created: {}")
    (seen,) = backend.seen
    assert (seen.method, seen.path, seen.json) == (method, path, body)
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.headers.get("OSF-TOKEN") == (SECRET if config.get("kind") == "foundries" else None)


def test_headers_come_from_the_text_a_file_the_environment_and_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    (tmp_path / "token").chmod(0o600)
    monkeypatch.setenv("REGISTRY", "of the environment")
    fill(tmp_path, "dev")
    headers = {
        "X-Text": "plain",
        "Authorization": {"prefix": "Bearer ", "file": "token"},
        "X-Env": {"env": "REGISTRY"},
        "X-Command": {"command": "printf 'of a command'"},
        "content-type": "application/vnd.unit+json",
    }
    with backend_running() as backend:
        run(tmp_path, backend.url, headers=headers)
    seen = backend.seen[0].headers
    assert seen["X-Text"] == "plain"
    assert seen["Authorization"] == f"Bearer {SECRET}"
    assert (seen["X-Env"], seen["X-Command"]) == ("of the environment", "of a command")
    assert seen["content-type"] == "application/vnd.unit+json"
    assert "Content-Type" not in seen


HOSTILE = (
    '"}, {"admin": true, \\" \\u0000 \n\r\t {device_id} {{ }} %s \x00\x1b[31m \u2028 \U0001f600 </script>'
)


def test_no_value_can_change_the_json_or_the_path(tmp_path: Path) -> None:
    fill(tmp_path, Device("a:b+c", {"plant": HOSTILE, "device_id": "another", "certificate": "none"}))
    body = {"id": "{device_id}", "pem": "{certificate}", "plant": "<{plant}>"}
    with backend_running() as backend:
        run(tmp_path, f"{backend.url}/units/{{device_id}}", body=body)
    assert backend.seen[0].json == {"id": "a:b+c", "pem": PEM, "plant": f"<{HOSTILE}>"}
    assert backend.seen[0].path == "/units/a%3Ab%2Bc"


def test_a_device_that_lacks_a_value_fails_alone_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    fill(tmp_path, "without", Device("with", {"plant": "Ulm"}))
    with backend_running() as backend:
        run(tmp_path, backend.url, body={"device_id": "{device_id}", "plant": "{plant}"})
    assert backend.times == {"with": 1}
    assert {name: one.state for name, one in known(tmp_path).items()} == {"without": "failed", "with": "done"}
    assert "needs a value for plant" in known(tmp_path)["without"].answer


# What becomes of answers.


@pytest.mark.parametrize("status", [200, 201, 202, 204, 409])
def test_a_backend_that_knows_the_device_is_done_and_the_certificate_kept_no_longer(
    status: int, tmp_path: Path
) -> None:
    fill(tmp_path, "dev")
    body = b"" if status == 204 else b'{"code":"conflicting_device"}'
    with backend_running(script(Reply(status, body))) as backend:
        (told,) = run(tmp_path, backend.url)
        assert not run(tmp_path, backend.url)
    assert (told.state, told.attempts) == ("done", 1)
    assert told.answer.startswith(str(status))
    assert len(backend.seen) == 1
    (row,) = rows(tmp_path)
    assert row["certificate"] is None


@pytest.mark.parametrize("status", [400, 402, 404, 405, 410, 422, 499])
def test_what_is_refused_is_kept_with_the_answer_and_asked_for_again_when_it_is_wanted(
    status: int, tmp_path: Path
) -> None:
    fill(tmp_path, "bad", "good")
    refuse = {"bad"}

    def judge(seen: Seen, _number: int) -> Reply:
        return Reply(status, b"no:\n\x1b[31m bad") if seen.json["device_id"] in refuse else Reply()

    with backend_running(judge) as backend:
        run(tmp_path, backend.url)
        assert known(tmp_path)["good"].state == "done"
        assert known(tmp_path)["bad"].state == "failed"
        assert known(tmp_path)["bad"].answer.startswith(f"{status} ")
        assert known(tmp_path)["bad"].answer.endswith(": no: [31m bad")
        assert not run(tmp_path, backend.url)
        assert backend.times == {"bad": 1, "good": 1}
        refuse.clear()
        with contextlib.closing(Outbox(tmp_path)) as outbox:
            outbox.retry_failed()
        (told,) = run(tmp_path, backend.url)
    assert (told.device_id, told.state, told.attempts) == ("bad", "done", 2)
    assert backend.times == {"bad": 2, "good": 1}


@pytest.mark.parametrize(
    "passing",
    [
        *(Reply(status) for status in (408, 425, 429, 500, 503)),
        Reply(raw=b"no HTTP\r\n\r\n"),
        Reply(raw=b"HTTP/1.1 20"),
        Reply(headers={"Content-Length": "0"}, drip=0.2),
    ],
    ids=["408", "425", "429", "500", "503", "no HTTP", "cut", "slow"],
)
def test_what_passes_is_asked_again(passing: Reply, tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with backend_running(script(passing, Reply())) as backend:
        first, second = run(tmp_path, backend.url, timeout_seconds=1)
    assert (first.state, first.attempts) == ("waiting", 1)
    assert first.due_at is not None
    assert first.answered_at is not None
    assert first.due_at > first.answered_at
    assert (second.state, second.attempts) == ("done", 2)
    assert [seen.json for seen in backend.seen] == [backend.seen[0].json] * 2


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    times = []

    def busy_once(_seen: Seen, number: int) -> Reply:
        times.append(time.monotonic())
        return Reply(503, headers={"Retry-After": "2"}) if number == 1 else Reply()

    with backend_running(busy_once) as backend:
        run(tmp_path, backend.url)
    assert times[1] - times[0] >= 2


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_a_run_ends_when_the_backend_wants_longer_than_its_patience_and_the_next_waits_too(
    *, as_date: bool, tmp_path: Path
) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(20)))
    when = datetime.now(UTC) + timedelta(hours=1)
    value = format_datetime(when, usegmt=True) if as_date else "3600"
    with backend_running(script(Reply(429, headers={"Retry-After": value}))) as backend:
        (told,) = run(tmp_path, backend.url)
        assert told.due_at is not None
        assert abs(told.due_at - when) < timedelta(minutes=5)
        assert len(backend.seen) == 1  # the others were spared
        backend.script = script(Reply())
        assert len(run(tmp_path, backend.url)) == 19
        assert len(backend.seen) == 20
    assert known(tmp_path)[told.device_id].state == "waiting"


@pytest.mark.parametrize("value", ["soon", "", "-5", "1e9", "9" * 5000, "Mon, 99 Foo 2030 00:00:00 GMT"])
def test_a_retry_after_that_makes_no_sense_is_no_trouble(value: str, tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with backend_running(script(Reply(503, headers={"Retry-After": value}), Reply())) as backend:
        assert [one.state for one in run(tmp_path, backend.url)] == ["waiting", "done"]


def test_a_backend_that_comes_up_later_gets_everything(tmp_path: Path) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(30)))
    port = free_port()
    with contextlib.ExitStack() as stack:
        up: list[BackendServer] = []

        def start(one: Registered) -> None:
            if not up:
                assert one.state == "waiting"
                assert one.answer.startswith("no answer: ")
                up.append(stack.enter_context(backend_running(port=port)))

        run(tmp_path, f"http://127.0.0.1:{port}", tell=start)
        assert set(up[0].times) == {f"d{number}" for number in range(30)}
    assert {one.state for one in known(tmp_path).values()} == {"done"}


def test_a_backend_that_is_away_is_asked_for_one_device_at_a_time_and_named_in_the_end(
    tmp_path: Path,
) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(1000)))
    told: list[Registered] = []
    with pytest.raises(BackendUnavailableError, match=r"can't reach http://127\.0\.0\.1:\d+: no answer"):
        run(tmp_path, f"http://127.0.0.1:{free_port()}", patience=1, tell=told.append)
    assert 1 <= len(told) < 20
    assert {one.state for one in known(tmp_path).values()} == {"waiting"}
    assert all(row["certificate"] == DER for row in rows(tmp_path))


def test_a_backend_that_breaks_down_in_the_middle_is_not_hammered(tmp_path: Path) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(300)))
    with backend_running(lambda _seen, number: Reply() if number <= 20 else Reply(503)) as backend:
        run(tmp_path, backend.url, patience=2)
    assert 21 <= len(backend.seen) <= 20 + 8 + 12  # what was under way, and one at a time
    assert sum(one.state == "done" for one in known(tmp_path).values()) == 20


def test_the_waits_of_a_device_grow_and_outlive_the_run(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    waits = []
    with backend_running(script(Reply(503))) as backend:
        for _ in range(7):
            (told,) = run(tmp_path, backend.url, patience=0)
            assert told.due_at is not None
            assert told.answered_at is not None
            waits.append((told.due_at - told.answered_at).total_seconds())
            assert not run(tmp_path, backend.url, patience=0)  # it is not due
            with contextlib.closing(RunState(tmp_path)) as book, book.transaction() as connection:
                connection.execute("UPDATE registrations SET due_at = 0")
    assert told.attempts == len(backend.seen) == 7
    assert all(
        longest / 2 <= wait <= longest for wait, longest in zip(waits, (1, 2, 4, 8, 16, 30, 30), strict=True)
    )


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_ends_the_run_and_loses_nothing(status: int, tmp_path: Path) -> None:
    devices = [f"d{number}" for number in range(50)]
    fill(tmp_path, *devices)
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "token").chmod(0o600)
    headers = {"Authorization": {"file": "token"}}
    with backend_running(script(Reply(status, b"who are you?"))) as backend:
        with pytest.raises(BackendRefusedError, match=f"refuses the token: {status} .*who are you") as raised:
            run(tmp_path, backend.url, headers=headers)
        assert len(backend.seen) == 1
        assert "Pending devices are kept" in raised.value.hint
        assert {(one.state, one.attempts) for one in known(tmp_path).values()} == {("waiting", 0)}
        backend.script = script(Reply())
        assert len(run(tmp_path, backend.url, headers=headers)) == 50


def test_a_token_that_ran_out_in_the_middle_is_read_again(tmp_path: Path) -> None:
    devices = [f"d{number}" for number in range(60)]
    fill(tmp_path, *devices)
    token = tmp_path / "token"
    token.write_text("first")
    token.chmod(0o600)

    def expires(seen: Seen, number: int) -> Reply:
        if number == 30:
            token.write_text("second")
        expected = "first" if number < 30 else "second"
        return Reply() if seen.headers["Authorization"] == f"Bearer {expected}" else Reply(401)

    with backend_running(expires) as backend:
        told = run(tmp_path, backend.url, headers={"Authorization": {"prefix": "Bearer ", "file": "token"}})
    assert {one.device_id for one in told} == set(devices)
    assert {(one.state, one.attempts) for one in told} == {("done", 1)}


def test_a_redirect_is_not_followed_and_ends_the_run(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    with backend_running() as elsewhere:
        to = {"Location": f"{elsewhere.url}/devices?token={SECRET}"}
        with (
            backend_running(script(Reply(307, headers=to))) as backend,
            pytest.raises(BackendRefusedError, match=f"redirects to {elsewhere.url}/devices: ") as raised,
        ):
            run(tmp_path, backend.url)
    assert len(backend.seen) == 1
    assert not elsewhere.seen
    assert "Correct url" in raised.value.hint
    assert {one.state for one in known(tmp_path).values()} == {"waiting"}


def test_a_huge_answer_is_not_read_and_cut(tmp_path: Path) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(8)))
    with backend_running(script(Reply(200, b"x" * 50_000_000))) as backend:
        told = run(tmp_path, backend.url, parallel=1)
    assert {one.state for one in told} == {"done"}
    assert max(len(one.answer) for one in told) < 250
    assert backend.connections == 8  # what is left of an answer can't be before the next one


def test_a_device_is_done_once_the_backend_says_so_whatever_is_missing_of_its_answer(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with backend_running(script(Reply(201, b"{}", {"Content-Length": "1000"}))) as backend:
        (told,) = run(tmp_path, backend.url, timeout_seconds=1)
    assert told.state == "done"


def test_connections_are_kept_and_one_that_was_closed_meanwhile_costs_no_try(tmp_path: Path) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(40)))
    with backend_running() as backend:
        assert {one.attempts for one in run(tmp_path, backend.url, parallel=2)} == {1}
    assert backend.connections <= 2
    fill(tmp_path, *(f"e{number}" for number in range(40)))
    with backend_running(script(Reply(hangs_up=True))) as backend:
        assert {(one.state, one.attempts) for one in run(tmp_path, backend.url)} == {("done", 1)}
    assert backend.connections == 40


def test_an_answer_is_read_to_its_end_when_the_backend_closes_the_connection_after_it(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    reply = Reply(201, b"whole" * 20, {"Connection": "close"}, hangs_up=True)
    with backend_running(script(reply)) as backend:
        told = run(tmp_path, backend.url)
    assert {(one.state, one.answer) for one in told} == {("done", "201 Created: " + "whole" * 20)}


# TLS.


def files_of(signer: Signer, folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "server.pem", folder / "server.key"
    certificate.write_bytes(signer.pem)
    key.write_bytes(signer.key_pem)
    return certificate, key


def test_the_backend_is_verified_with_the_ca_that_is_named(tmp_path: Path) -> None:
    ca = authority("registry CA")
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    fill(tmp_path, "dev")
    with backend_running(tls=files_of(ca.server(["127.0.0.1"]), tmp_path)) as backend:
        (told,) = run(tmp_path, backend.url, ca="ca.pem")
    assert told.state == "done"


@pytest.mark.parametrize(
    ("server", "options", "reason"),
    [
        (["127.0.0.1"], {}, "not trusted: (self-signed|unable)"),
        (["127.0.0.1"], {"ca": "other.pem"}, "not trusted: unable"),
        (["registry.example"], {"ca": "ca.pem"}, "not trusted: IP address mismatch"),
        (None, {}, "no TLS"),
    ],
    ids=["system's CAs", "another CA", "another host", "no TLS"],
)
def test_a_backend_that_is_not_trusted_is_told_nothing(
    server: list[str] | None, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    ca = authority("registry CA")
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    (tmp_path / "other.pem").write_bytes(authority("another CA").pem)
    fill(tmp_path, "a", "b")
    tls = None if server is None else files_of(ca.server(server), tmp_path)
    with (
        backend_running(tls=tls) as backend,
        pytest.raises(BackendUntrustedError, match=f"was told nothing: .*{reason}"),
    ):
        run(tmp_path, f"https://127.0.0.1:{backend.port}", **options)
    assert not backend.seen
    assert {(one.state, one.attempts) for one in known(tmp_path).values()} == {("waiting", 0)}


# Runs that are killed, and runs at once.


def start_command(folder: Path, url: str, *options: str, more: str = "") -> subprocess.Popen[str]:
    config = folder.parent / "otahsm.toml"
    names = "\n".join(f'{name} = "none"' for name in ("ca", "certificate", "key"))
    config.write_text(
        f'[client]\ntarget = "127.0.0.1:1"\n{names}\ndevices = "{folder}"\npatience_seconds = 10\n'
        f'[registration]\nkind = "webhook"\nurl = "{url}"\n{more}\n'
    )
    return subprocess.Popen(
        [*OTAHSM, "device", "register", "--config", str(config), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_runs_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "devices"
    devices = [f"d{number}" for number in range(200)]
    fill(folder, *devices)
    with backend_running() as backend:
        for killed_at in (20, 90, 150):
            pass_on, arrived = threading.Event(), threading.Event()

            def hold(
                _seen: Seen,
                number: int,
                killed_at: int = killed_at,
                pass_on: threading.Event = pass_on,
                arrived: threading.Event = arrived,
            ) -> Reply:
                if number >= killed_at:  # the run dies while it waits for answers
                    arrived.set()
                    pass_on.wait(READY_SECONDS)
                return Reply()

            backend.script = hold
            command = start_command(folder, backend.url)
            assert arrived.wait(READY_SECONDS)
            command.send_signal(signal.SIGKILL)
            command.communicate()
            pass_on.set()
        backend.script = script(Reply())
        command = start_command(folder, backend.url)
        output, errors = command.communicate(timeout=READY_SECONDS)
        assert command.returncode == 0, errors
    assert backend.times.keys() == set(devices)
    assert sum(backend.times.values()) <= len(devices) + 3 * 8
    assert {one.state for one in known(folder).values()} == {"done"}
    assert "0 failed, 0 wait" in output


def test_two_commands_at_once_share_the_work_and_ask_for_nothing_twice(tmp_path: Path) -> None:
    folder = tmp_path / "devices"
    devices = [f"d{number}" for number in range(150)]
    fill(folder, *devices)
    both = threading.Barrier(2)

    def meet(_seen: Seen, number: int) -> Reply:
        if number <= 2:  # both are at work, since each begins with one
            both.wait(READY_SECONDS)
        return Reply()

    with backend_running(meet) as backend:
        commands = [start_command(folder, backend.url, "--json") for _ in range(2)]
        outputs = [command.communicate(timeout=READY_SECONDS) for command in commands]
    assert [command.returncode for command in commands] == [0, 0], outputs
    assert backend.times == dict.fromkeys(devices, 1)
    told = [{json.loads(line).get("device_id") for line in output.splitlines()} for output, _ in outputs]
    assert told[0] & told[1] == {None}  # the summaries
    assert told[0] | told[1] == {*devices, None}


def test_an_answer_that_comes_too_late_does_not_undo_another_runs(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with contextlib.closing(Outbox(tmp_path)) as slow, contextlib.closing(Outbox(tmp_path)) as fast:
        (registration,) = slow.claim(8)
        assert not fast.claim(8)
        with fast.book.transaction() as connection:  # the claim ends
            connection.execute("UPDATE registrations SET due_at = 0")
        (again,) = fast.claim(8)
        fast.settle([TryOutcome(again, "done", "201 Created")])
        (told,) = slow.settle([TryOutcome(registration, "failed", "400 Bad HttpRequest")])
        assert (told.state, told.answer, told.attempts) == ("done", "201 Created", 1)
        slow.release([registration.number])
        assert slow.due_in() == (None, False)


def test_a_run_beside_others_leaves_what_they_have_in_hand(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with contextlib.closing(Outbox(tmp_path, 30)) as one, one:
        assert len(one.claim(1)) == 1
        with contextlib.closing(Outbox(tmp_path, 30)) as other, other:
            assert not other.claim(1)
    with contextlib.closing(Outbox(tmp_path, 30)) as next_one, next_one:
        assert len(next_one.claim(1)) == 1  # nobody has it in hand any more


def test_a_run_that_watches_takes_what_comes_later_until_it_is_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "devices"
    fill(folder, "first")
    with backend_running() as backend:
        command = start_command(folder, backend.url, "--watch", "--json")
        assert command.stdout is not None
        assert json.loads(command.stdout.readline())["device_id"] == "first"
        fill(folder, "second")
        assert json.loads(command.stdout.readline())["device_id"] == "second"
        command.send_signal(signal.SIGINT)
        output, errors = command.communicate(timeout=READY_SECONDS)
    assert command.returncode == 130, errors
    summary = json.loads(output)
    assert (summary["registered"], summary["waiting"]) == (2, 0)


# Secrets.


def everything_in(folder: Path) -> bytes:
    return b"".join(
        path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "token"
    )


def test_a_secret_is_in_no_output_and_no_file_even_if_the_backend_says_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "devices"
    fill(folder, "failed", "waits")
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "token").chmod(0o600)

    def tell_all(seen: Seen, _number: int) -> Reply:
        status = 400 if seen.json["device_id"] == "failed" else 503
        told = f"you are {seen.headers['Authorization']}"
        return Reply(status, told.encode(), {"X-Echo": told})

    with backend_running(tell_all) as backend:
        headers = 'headers = { Authorization = { prefix = "Bearer ", file = "token" } }'
        outputs = ""
        for options in (["--patience", "0"], ["--patience", "0", "--json"]):
            with contextlib.closing(RunState(folder)) as book, book.transaction() as connection:
                connection.execute("UPDATE registrations SET due_at = 0, state = 'waiting'")
            command = start_command(folder, backend.url, *options, more=headers)
            outputs += "".join(command.communicate(timeout=READY_SECONDS))
        backend.script = script(Reply(401, SECRET.encode()))
        refused = start_command(folder, backend.url, "--retry-failed", more=headers)
        outputs += "".join(refused.communicate(timeout=READY_SECONDS))
    assert refused.returncode == 2
    assert {seen.headers["Authorization"] for seen in backend.seen} == {f"Bearer {SECRET}"}
    assert "Bearer [secret]" in outputs
    assert "refuses the token: 401 Unauthorized: [secret]" in outputs
    assert SECRET not in outputs
    assert SECRET.encode() not in everything_in(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"file": "missing"}, "can't read .* in .*/missing: No such file"),
        ({"file": "open"}, "only its owner can read"),
        ({"file": "empty"}, "is empty"),
        ({"file": "lines"}, "what no header may have"),
        ({"file": "letters"}, "what no header may have"),
        ({"file": "octets"}, "not UTF-8"),
        ({"env": "NO_SUCH_NAME"}, "the environment variable NO_SUCH_NAME is empty"),
        ({"command": "false"}, "exited with status 1"),
        ({"command": "no-such-program --token"}, "can't run"),
    ],
    ids=str,
)
def test_a_secret_that_can_not_be_read_is_named_before_anyone_is_asked(
    header: dict[str, str], message: str, tmp_path: Path
) -> None:
    contents = {"open": SECRET, "empty": "", "lines": f"{SECRET}\nX-Admin: 1", "letters": f"{SECRET}\u00e9"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o644 if name == "open" else 0o600)
    (tmp_path / "octets").write_bytes(SECRET.encode() + b"\xff")
    (tmp_path / "octets").chmod(0o600)
    config = settings(tmp_path, "https://registry.example.com", headers={"Authorization": header})
    with pytest.raises(ConfigError, match=message) as raised:
        Backend(config)
    assert "Authorization" in raised.value.message
    assert SECRET not in f"{raised.value.message} {raised.value.hint}"


# Devices that nobody has entered.


@pytest.mark.parametrize("layout", ["seed", "aktualizr", "flat", "tar"])
def test_devices_that_were_issued_before_are_entered_from_their_folders(
    layout: LayoutName, tmp_path: Path
) -> None:
    opened = DeviceFolders(tmp_path, root_of("ec-p256"), layout=layout)
    certificates = {name: leaf(name, "ec-p256", serial=SERIAL) for name in ("a", "b")}
    opened.finish({name: [certificate] for name, certificate in certificates.items()})
    opened.close()
    fill(tmp_path, Device("a", {"plant": "Ulm"}), "b", "gone", announce=False)
    fill(tmp_path, Device("a", {"plant": "of a later order"}), announce=False)
    with contextlib.closing(RunState(tmp_path)) as book:
        assert collect(book) == Collected(2, 1)
        assert collect(book) == Collected(0, 1)
    entered = [(row["device_id"], row["serial"], row["profile"], row["attributes"]) for row in rows(tmp_path)]
    assert entered == [("a", "17", "gold", '{"plant": "Ulm"}'), ("b", "17", "gold", "{}")]
    with backend_running() as backend:
        run(tmp_path, backend.url)
    sent = [x509.load_pem_x509_certificate(seen.json["certificate"].encode()) for seen in backend.seen]
    assert {certificate.public_bytes(Encoding.DER) for certificate in sent} == set(certificates.values())


def test_what_was_entered_or_registered_is_not_entered_again_but_a_new_certificate_is(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with backend_running() as backend:
        run(tmp_path, backend.url)
    with contextlib.closing(RunState(tmp_path)) as book:
        assert collect(book) == Collected(0, 0)
        renewed = leaf("dev", "ec-p256", serial=0x99)
        opened = DeviceFolders(tmp_path, root_of("ec-p256"))
        opened.finish({"dev": [renewed]})
        order = Run.open(opened, ["renewal"])
        order.record_complete(["dev"])  # of what serial number is not known
        assert collect(book) == Collected(0, 0)
        order.record([issued("dev", 0x99, renewed)])
        assert collect(book) == Collected(1, 0)
        opened.close()
    assert [row["serial"] for row in rows(tmp_path)] == ["17", "99"]


def test_thousands_of_devices_are_entered(tmp_path: Path) -> None:
    devices = [f"d{number}" for number in range(1500)]
    for device in devices:
        (tmp_path / f"{device}.client.pem").write_text(PEM)
    fill(tmp_path, *devices, announce=False)
    with contextlib.closing(RunState(tmp_path)) as book:
        assert collect(book) == Collected(1500, 0)
    assert {row["device_id"] for row in rows(tmp_path)} == set(devices)


@pytest.mark.parametrize("content", [b"", b"no PEM", PEM.encode()[:300], b"\xff" * 100])
def test_a_broken_certificate_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dev.client.pem").write_bytes(content)
    (tmp_path / "dev.tar").write_bytes(content)
    assert certificate_of(tmp_path, "dev") is None


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"/devices is no folder") as raised:
        Outbox(tmp_path / "devices")
    assert "--devices" in raised.value.hint
    assert not (tmp_path / "devices").exists()


# The configuration.

TOKEN = {"OSF-TOKEN": {"env": "REGISTRY"}}
HTTPS = "https://registry.example.com"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "torizon"}, "registration.kind"),
        ({"url": "registry.example.com"}, "http or https URL"),
        ({"url": "ftp://registry.example.com"}, "http or https URL"),
        ({"url": f"https://me:{SECRET}@registry.example.com"}, "without user, password or fragment"),
        ({"url": f"{HTTPS}/#{SECRET}"}, "fragment"),
        ({"url": f"{HTTPS}:99999"}, "not a valid URL"),
        ({"url": f"{HTTPS}:0"}, "http or https URL"),
        ({"url": f"{HTTPS}/a b"}, "http or https URL"),
        ({"url": f"{HTTPS}/a\r\nX: y"}, "http or https URL"),
        ({"url": "https://[::1"}, "not a valid URL"),
        ({"url": "https:///devices"}, "http or https URL"),
        ({"url": f"{HTTPS}/{{plant}}"}, "only {device_id} and {serial}"),
        ({"url": "https://{device_id}.example.com"}, "only {device_id} and {serial}"),
        ({"url": f"{HTTPS}/{{device_id"}, "not a valid URL"),
        ({"url": f"{HTTPS}/{{device_id}}", "kind": "community-edition"}, "needs the base URL of its API"),
        ({"url": f"{HTTPS}/?a=b", "kind": "community-edition"}, "needs the base URL of its API"),
        ({"method": "DELETE"}, "registration.method"),
        ({"headers": {"Host": "another"}}, "registration.headers.Host"),
        ({"headers": {"Content-Length": "1"}}, "not a valid header name"),
        ({"headers": {"X:": "y"}}, "not a valid header name"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "two headers have the same name"),
        ({"headers": {"X": "a\r\nY: b"}}, "visible ASCII"),
        ({"headers": {"X": ""}}, "visible ASCII"),
        ({"headers": {"X": {}}}, "must be a string, or one of"),
        ({"headers": {"X": {"env": "A", "file": "b"}}}, "must be a string, or one of"),
        ({"headers": {"X": {"env": "A", "prefix": "\n"}}}, "prefix"),
        ({"headers": {"X": {"token": SECRET}}}, "registration.headers.X"),
        ({"headers": {"X": [SECRET]}}, "registration.headers.X"),
        ({"kind": "foundries"}, "OSF-TOKEN"),
        ({"url": "http://registry.example.com", "headers": TOKEN}, "so url must be https"),
        ({"url": "http://registry.example.com", "ca": "ca.pem"}, "needs an https url"),
        ({"group": "a"}, "group needs"),
        ({"group": "a", "kind": "foundries", "headers": TOKEN, "body": {"a": "b"}}, "group needs"),
        ({"group": f"{{{SECRET}", "kind": "foundries", "headers": TOKEN}, "not a valid template"),
        ({"body": {}}, "registration.body"),
        ({"body": {"a": {"b": ["x", f"{{{SECRET}"]}}}, "body.a.b[1] is not a valid template"),
        ({"body": nested(33)}, "registration.body: tables and lists are nested more than 32 deep"),
        ({"body": {"a": WHEN}}, "body.a can't be written as JSON"),
        ({"body": {"a": float("nan")}}, "body.a can't be written as JSON"),
        ({"timeout_seconds": 0}, "registration.timeout_seconds"),
        ({"parallel": 0}, "registration.parallel"),
        ({"token": SECRET}, "registration.token"),
    ],
    ids=str,
)
def test_what_can_not_work_is_refused_and_no_secret_shown(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        settings(tmp_path, **{"url": HTTPS, **change})
    assert named in raised.value.message
    assert SECRET not in raised.value.message


@pytest.mark.parametrize("url", ["http://localhost:8080", "http://127.0.0.1", "http://[::1]:8080/v1"])
def test_a_secret_may_go_to_this_machine_without_tls(url: str, tmp_path: Path) -> None:
    assert settings(tmp_path, url, headers=TOKEN).parts.scheme == "http"


def test_a_ca_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(ConfigError, match=f"ca .*/{name}, or it"):
            Backend(settings(tmp_path, HTTPS, ca=name))
