"""otahsm.toml: what is wrong is named, what is secret is not shown, and paths start from the file."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from otahsm.config import (
    Config,
    load_config,
    section,
)
from otahsm.errors import ConfigError
from otahsm.pkcs11_names import PinSource

from support.configurations import BASE, TOKEN_URI, parse, refusal, shipped

SECRET = "hunter2-the-pin"
SECTIONS = [
    ("daemon",),
    ("tls",),
    ("token",),
    ("ca",),
    ("ledger",),
    ("issuance",),
    ("profiles", "ota-connect"),
    ("client",),
]


def inside(table: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        table = table[key]
    return table


@pytest.mark.parametrize("path", [(), *SECTIONS], ids=".".join)
def test_an_unknown_key_is_an_error_in_every_section(path: tuple[str, ...]) -> None:
    table = shipped()
    parse(table)
    inside(table, path)["pin"] = SECRET
    error = refusal(table)
    assert ".".join((*path, "pin")) in error.message
    assert SECRET not in error.message + error.hint


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (path, key, value)
        for path in SECTIONS
        for key in inside(shipped(), path)
        for value in ([SECRET], {"nested": SECRET})
        if key != "environment"
    ],
)
def test_a_value_of_the_wrong_type_is_named_and_never_shown(
    path: tuple[str, ...], key: str, value: object
) -> None:
    table = shipped()
    inside(table, path)[key] = value
    error = refusal(table)
    assert ".".join((*path, key)) in error.message
    assert SECRET not in error.message + error.hint


@pytest.mark.parametrize("path", SECTIONS, ids=".".join)
def test_no_number_is_made_of_another_type(path: tuple[str, ...]) -> None:
    for key, value in inside(shipped(), path).items():
        if isinstance(value, int | float):
            for other in (True, f"{value}", math.inf, *([float(value)] if isinstance(value, int) else [])):
                table = shipped()
                inside(table, path)[key] = other
                kind = "whole number" if isinstance(value, int) else "(finite )?number"
                assert re.search(rf"{'.'.join((*path, key))}: must be a {kind}", refusal(table).message)
    assert parse({"issuance": {"wait_for_signer_seconds": 5}}).issuance.wait_for_signer_seconds == 5


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("daemon",), "listen", SECRET),
        (("daemon",), "drain_seconds", SECRET),
        (("token",), "signers", SECRET),
        (("token",), "uri", SECRET),
        (("token",), "uri", f"pkcs11:token=T?module-path=/m.so&pin-value={SECRET}"),
        (("token",), "uri", f"pkcs11:token=T?module-path=/m.so&pin-source={SECRET}"),
        (("token",), "uri", f"pkcs11:token=T?module-path=/m.so&{SECRET}"),
        (("ca",), "key", SECRET),
        (("ca",), "key", f"pkcs11:object=a;id=%01?pin-value={SECRET}"),
        (("issuance",), "batch_size", SECRET),
        (("profiles", "ota-connect"), "csr_extras", SECRET),
        (("profiles", "ota-connect"), "key_types", [SECRET]),
        ((), "token", SECRET),
        ((), "ledger", SECRET),
    ],
)
def test_a_secret_in_the_wrong_place_never_appears_in_the_message(
    path: tuple[str, ...], key: str, value: object
) -> None:
    table = shipped()
    inside(table, path)[key] = value
    assert SECRET not in refusal(table).message


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("daemon",), "listen", "7443"),
        (("daemon",), "listen", ":7443"),
        (("daemon",), "listen", "localhost:http"),
        (("daemon",), "listen", "localhost:65536"),
        (("daemon",), "drain_seconds", 0),
        (("token",), "signers", 0),
        (("token",), "signers", 65),
        (("token",), "sign_timeout_seconds", 0),
        (("token",), "uri", ""),
        (("token",), "uri", "pkcs11:?module-path=/m.so&pin-source=file:pin"),  # which token?
        (("token",), "uri", "pkcs11:slot-id=0?module-path=/m.so&pin-source=file:pin"),
        (("token",), "uri", "pkcs11:token=T?pin-source=file:pin"),
        (("token",), "uri", "pkcs11:token=T?module-path=/m.so"),
        (("token",), "uri", "pkcs11:token=T;object=key?module-path=/m.so&pin-source=file:pin"),
        (("token",), "uri", "pkcs11:token=T?module-path=/m.so&pin-source=pin"),
        (("ca",), "key", "pkcs11:"),
        (("ca",), "key", "pkcs11:token=T"),
        (("ca",), "key", "pkcs11:object=a;type=public"),
        (("ca",), "key", "pkcs11:object=a?module-path=/m.so"),
        (("ca",), "key", "pkcs11:object=a;id=01%0"),
        (("ca",), "mechanism", "CKM_MD5_RSA_PKCS"),
        (("ca",), "accept", ["everything"]),
        (("issuance",), "batch_size", 0),
        (("issuance",), "batch_size", 1025),
        (("issuance",), "default_profile", "another"),
        (("profiles", "ota-connect"), "device_id", "(unclosed"),
        (("profiles", "ota-connect"), "validity_days", 0),
        (("profiles", "ota-connect"), "backdate_minutes", -1),
        (("profiles", "ota-connect"), "key_types", []),
        (("profiles", "ota-connect"), "key_types", ["rsa-1024"]),
        (("profiles", "ota-connect"), "key_usage", ["key_cert_sign"]),
        (("profiles", "ota-connect"), "extended_key_usage", []),
        ((), "profiles", {}),
    ],
)
def test_a_value_out_of_range_is_refused(path: tuple[str, ...], key: str, value: object) -> None:
    table = shipped()
    inside(table, path)[key] = value
    assert key in refusal(table).message


def test_all_mistakes_are_told_at_once() -> None:
    message = refusal({"daemon": {"listen": "nowhere", "speed": 1}, "tokens": {}}).message
    assert "daemon.listen" in message
    assert "daemon.speed" in message
    assert "tokens" in message


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"daemon": {"speed": 1}}, "daemon.speed: unknown key"),
        ({"daemon": {"listn": "a:1"}}, "daemon.listn: unknown key (did you mean listen?)"),
        (
            {"profiles": {"ota-connect": {"validity_day": 1}}},
            "profiles.ota-connect.validity_day: unknown key (did you mean validity_days?)",
        ),
        ({"daemon": {"listen": 1}}, "daemon.listen: must be a string"),
        ({"ledger": 1}, "ledger: must be a table"),
        ({"ledger": {"path": 1}}, "ledger.path: must be a path, written as a string"),
        ({"ledger": {}}, "ledger: set either path or url"),
        ({"ledger": {"url": "a"}}, "ledger.url: must match the regular expression ^postgresql://"),
        ({"profiles": {}}, "profiles: must not be empty"),
        ({"issuance": {"preparers": 0}}, "issuance.preparers: must be at least 1, not 0"),
        ({"issuance": {"batch_size": 2000}}, "issuance.batch_size: must be at most 1024, not 2000"),
        ({"issuance": {"batch_size": "many"}}, "issuance.batch_size: must be a whole number"),
        (
            {"issuance": {"wait_for_signer_seconds": 0}},
            "issuance.wait_for_signer_seconds: must be more than 0, not 0",
        ),
        (
            {"profiles": {"ota-connect": {"extended_key_usage": ["signing"]}}},
            "profiles.ota-connect.extended_key_usage.0: must be 'client_auth' or 'server_auth'",
        ),
    ],
    ids=str,
)
def test_a_message_names_the_key_and_what_is_allowed(table: dict[str, Any], message: str) -> None:
    assert refusal(table).message == f"otahsm.toml is invalid: {message}"


def test_relative_paths_start_from_the_file_and_absolute_ones_stay() -> None:
    config = parse(shipped())
    assert section(config.ca, "ca").certificate == BASE / "ca/fleet-root.pem"
    assert section(config.tls, "tls").key == BASE / "tls/server.key"
    assert section(config.ledger, "ledger").path == BASE / "ledger/ledger.sqlite3"
    assert section(config.token, "token").uri.pin == PinSource("file", str(BASE / "secrets/pin"))
    assert section(config.token, "token").uri.module == Path("/usr/lib/softhsm/libsofthsm2.so")
    assert section(config.client, "client").devices == BASE / "devices"


def test_a_home_directory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/operator")
    config = parse({"ledger": {"path": "~/ledger.sqlite3"}})
    assert section(config.ledger, "ledger").path == Path("/home/operator/ledger.sqlite3")


def test_a_files_paths_start_from_its_own_folder_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/otahsm.toml").write_text('[ledger]\npath = "ledger.sqlite3"\n')
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("etc/otahsm.toml"))
    assert section(config.ledger, "ledger").path == tmp_path / "etc/ledger.sqlite3"


def test_an_empty_file_is_all_defaults_and_misses_what_has_none(tmp_path: Path) -> None:
    (tmp_path / "otahsm.toml").touch()
    config = load_config(tmp_path / "otahsm.toml")
    assert config == Config()
    for name in ("tls", "token", "ca", "ledger", "client"):
        with pytest.raises(ConfigError, match=rf"no \[{name}\] section") as raised:
            section(getattr(config, name), name)
        assert "quickstart" in raised.value.hint


def test_nobody_can_type_a_pin_for_signers_at_a_socket() -> None:
    table = shipped()
    table["token"]["signer_socket"] = "/run/otahsm/signer.sock"
    parse(table)
    table["token"]["uri"] = table["token"]["uri"].replace("file:secrets/pin", "prompt:")
    assert "can't prompt for the PIN" in refusal(table).message


URL = "http://crl.example.com/fleet.crl"
SHARDED = "http://crl.example.com/fleet-{shard}.crl"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"url": SHARDED, "shards": 2},
        {"url": "https://10.0.0.1:8443/pki/v1/{shard}", "shards": 4096},
        {"url": "http://crl:65535/a/b/c_d~e.crl"},
        {"validity_hours": 2, "refresh_hours": 1},
    ],
    ids=str,
)
def test_a_crl_may_be_anywhere_on_the_web(change: dict[str, Any]) -> None:
    crl = section(parse({"crl": {"url": URL, "directory": "crl", **change}}).crl, "crl")
    assert crl.model_dump(include=set(change)) == change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"url": "ldap://crl.example.com/fleet.crl"}, "http or https"),
        ({"url": "ftp://crl.example.com/fleet.crl"}, "http or https"),
        ({"url": "file:///etc/fleet.crl"}, "http or https"),
        ({"url": "crl.example.com/fleet.crl"}, "http or https"),
        ({"url": "http://crl.example.com"}, "name of the file"),
        ({"url": "http://crl.example.com/"}, "name of the file"),
        ({"url": "http://crl.example.com/crl/"}, "name of the file"),
        ({"url": "http://crl.example.com/.."}, "name of the file"),
        ({"url": "http:///fleet.crl"}, "plain"),
        ({"url": "http://CRL.example.com/fleet.crl"}, "lower case"),
        ({"url": "HTTP://crl.example.com/fleet.crl"}, "lower case"),
        ({"url": "http://user:secret@crl.example.com/fleet.crl"}, "plain"),
        ({"url": "http://[::1]/fleet.crl"}, "plain"),
        ({"url": "http://crl.example.com:65536/fleet.crl"}, "plain"),
        ({"url": "http://crl.example.com:0/fleet.crl"}, "plain"),
        ({"url": "http://crl..example.com/fleet.crl"}, "plain"),
        ({"url": "http://crl.example.com/fleet.crl?x=1"}, "plain"),
        ({"url": "http://crl.example.com/fleet.crl#x"}, "plain"),
        ({"url": "http://crl.example.com/fleet crl"}, "plain"),
        ({"url": "http://crl.example.com/fl%C3%A9et.crl"}, "plain"),
        ({"url": "http://crl.example.com/fl\u00e9et.crl"}, "plain"),
        ({"url": URL + "\n"}, "plain"),
        ({"url": "http://crl.example.com/" + "x" * 233}, "255"),
        ({"url": "http://crl.example.com/fleet-{Shard}.crl", "shards": 2}, "plain"),
        ({"url": "http://crl.example.com/{shard}/{shard}.crl", "shards": 2}, "plain"),
        ({"url": "http://crl-{shard}.example.com/fleet.crl", "shards": 2}, "last part"),
        ({"url": "http://crl.example.com/{shard}/fleet.crl", "shards": 2}, "last part"),
        ({"url": "http://crl.example.com/fleet.pem"}, "must not end in .pem"),
        ({"shards": 2}, "must contain {shard}"),
        ({"url": SHARDED}, "must not contain {shard}"),
        ({"url": SHARDED, "shards": 0}, "crl.shards"),
        ({"url": SHARDED, "shards": 4097}, "crl.shards"),
        ({"refresh_hours": 0}, "crl.refresh_hours"),
        ({"validity_hours": 24, "refresh_hours": 24}, "less than validity_hours"),
        ({"refresh_hours": 168}, "less than validity_hours"),
        ({"validity_hours": 8785}, "crl.validity_hours"),
    ],
    ids=str,
)
def test_a_crl_that_can_not_be_published_is_refused(change: dict[str, Any], named: str) -> None:
    message = refusal({"crl": {"url": URL, "directory": "crl", **change}}).message
    assert named in message
    assert "secret" not in message


def test_a_configuration_can_not_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        Config().daemon.drain_seconds = 1


@pytest.mark.parametrize(
    "content",
    [b"[daemon", b"listen = ", b"\xff\xfe", b"a = 1\na = 2\n"],
    ids=["cut", "no value", "bytes", "twice"],
)
def test_a_file_that_is_no_toml_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "otahsm.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="can't read") as raised:
        load_config(path)
    assert str(path) in raised.value.message


def test_a_missing_file_is_named_and_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read") as raised:
        load_config(tmp_path / "otahsm.toml")
    assert "quickstart" in raised.value.hint


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        load_config(tmp_path)


def test_a_client_has_one_target_or_several() -> None:
    table = shipped()
    for written, read in {
        "ca.example:7443": ("ca.example:7443",),
        ("a.example:1", "[::1]:2"): ("a.example:1", "[::1]:2"),
    }.items():
        table["client"]["target"] = written if isinstance(written, str) else list(written)
        client = parse(table).client
        assert client is not None
        assert client.target == read


@pytest.mark.parametrize("target", [[], "", "ca.example", ["a.example:1", "b.example"], [7443]])
def test_a_target_that_is_no_address_is_refused(target: object) -> None:
    table = shipped()
    table["client"]["target"] = target
    assert "client.target" in refusal(table).message


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a = " + "[" * 2000, "nested too deeply"),
        ("a = " + "{a=" * 2000, "nested too deeply"),
        ("a = " + "1" * 5000, "too many digits"),
    ],
)
def test_a_file_that_python_can_not_hold_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "otahsm.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"can't read .*otahsm.toml: .*{why}"):
        load_config(path)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("~nobody-of-this-name/guard", "a user that does not exist here"),
        ("state\0login", "must not contain a NUL"),
    ],
)
def test_a_path_that_can_be_none_is_refused_wherever_it_stands(path: str, why: str) -> None:
    quoted = path.replace("\0", "%00")
    for key, value in {
        "guard_dir": path,
        "uri": TOKEN_URI.replace("/usr/lib/softhsm", quoted),
        "uri ": TOKEN_URI.replace("file:secrets", f"file:{quoted}"),
    }.items():
        table = shipped()
        table["token"][key.strip()] = value
        message = refusal(table).message
        assert f"token.{key.strip()}: " in message
        assert why in message


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "missing ): ("),
        ("a{1001}", "invalid repetition size: {1001}"),
        ("(?!x).*", "invalid perl operator: (?!; RE2 has no look-around, no backreferences"),
        (r"(.)\1", r"invalid escape sequence: \1; RE2 has no look-around, no backreferences"),
        ("cam-[0-9]{,6}", "write {0,6} for {,6}"),
    ],
)
def test_a_pattern_that_re2_does_not_support_is_refused(pattern: str, why: str) -> None:
    message = refusal({"profiles": {"ota-connect": {"device_id": pattern}}}).message
    assert f"profiles.ota-connect.device_id: not a valid RE2 regular expression: {why}" in message


@pytest.mark.parametrize("port", ["\u00b2", "\u0661", "0" * 5000, "65536", ""])
def test_what_is_no_port_is_not_repeated(port: str) -> None:
    message = refusal({"daemon": {"listen": f"127.0.0.1:{port}"}}).message
    assert message.endswith("must be host:port, as in 127.0.0.1:7443")


def test_what_is_no_subject_is_not_repeated() -> None:
    message = refusal({"profiles": {"ota-connect": {"subject": [f"O={{{SECRET} }}"]}}}).message
    assert "profiles.ota-connect.subject.0: the value is not a valid template" in message
    assert SECRET not in message
