"""The configuration of registration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otahsm.errors import (
    ConfigError,
)
from otahsm.registration.backends import Backend

from support.registering import (
    SECRET,
    WHEN,
    nested,
    settings,
)

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
