"""What a backend is told when devices are registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otahsm.line import Device

from support.backend import backend_running
from support.registering import (
    PEM,
    SECRET,
    fill,
    known,
    run,
)

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
