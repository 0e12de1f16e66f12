"""Registration keeps secrets, and speaks to a backend that it trusts only."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from otahsm.errors import (
    BackendUntrustedError,
    ConfigError,
)
from otahsm.line.run_state import RunState
from otahsm.registration.backends import Backend

from support.backend import Reply, Seen, backend_running
from support.gateways import Signer, authority
from support.harness import READY_SECONDS
from support.registering import (
    SECRET,
    fill,
    known,
    run,
    script,
    settings,
    start_command,
)


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
        pytest.raises(BackendUntrustedError, match=f"nothing was sent to .*{reason}"),
    ):
        run(tmp_path, f"https://127.0.0.1:{backend.port}", **options)
    assert not backend.seen
    assert {(one.state, one.attempts) for one in known(tmp_path).values()} == {("waiting", 0)}


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
    assert "refused the token: 401 Unauthorized: [secret]" in outputs
    assert SECRET not in outputs
    assert SECRET.encode() not in everything_in(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"file": "missing"}, "can't read .* in .*/missing: No such file"),
        ({"file": "open"}, "other users can read"),
        ({"file": "empty"}, "is empty"),
        ({"file": "lines"}, "is not a valid header value"),
        ({"file": "letters"}, "is not a valid header value"),
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
