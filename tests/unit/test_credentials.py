"""credentials.zip: what a device may have comes out of it, and nothing else; whatever somebody made of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from asn1crypto import pkcs12 as asn1_pkcs12
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.errors import ConfigError
from otahsm.gateway.credentials import Credentials, read_credentials
from otahsm.gateway.server_ca import ServerCa
from otahsm.gateway.url import parse_gateway_url

from support.credentials import CLIENT, GOOD, INTERMEDIATE, OTHER, ROOT, read, refused
from support.gateways import DAY, NOW, SECRET, URL, authority, build_side, make_zip, p12
from support.programs import openssl

EXPIRED = authority("old root", NOW - 20 * DAY, NOW - 10 * DAY)
FUTURE = authority("next root", NOW + 10 * DAY, NOW + 20 * DAY)


def fingerprint(credentials: Credentials) -> str:
    assert credentials.ca is not None
    return credentials.ca.fingerprint


def test_community_edition_has_its_ca_as_pem_which_counts_more_than_the_p12(tmp_path: Path) -> None:
    entries = {**build_side(), **GOOD, "autoprov_credentials.p12": p12(CLIENT, OTHER)}
    credentials = read(tmp_path, entries)
    assert str(credentials.url) == URL
    assert credentials.ca is not None
    assert credentials.ca.pem == ROOT.pem
    assert credentials.ca.source.endswith("credentials.zip: server_ca.pem")
    assert set(credentials.stays_here) == {*build_side(), "autoprov_credentials.p12"}


def test_ota_connect_has_its_ca_in_the_p12(tmp_path: Path) -> None:
    entries = {**build_side(), "autoprov.url": URL.encode()}
    credentials = read(tmp_path, {**entries, "autoprov_credentials.p12": p12(CLIENT, OTHER)})
    assert fingerprint(credentials) == OTHER.fingerprint
    assert credentials.ca is not None
    assert credentials.ca.source.endswith("credentials.zip: autoprov_credentials.p12")


@pytest.mark.parametrize("option", ["-legacy", "-nomac", "-noenc"])
def test_a_p12_is_read_as_older_and_other_programs_make_it(tmp_path: Path, option: str) -> None:
    for name, content in {"own": CLIENT.pem, "key": CLIENT.key_pem, "ca": OTHER.pem}.items():
        (tmp_path / name).write_bytes(content)
    options = ["-keypbe", "NONE", "-certpbe", "NONE"] if option == "-noenc" else [option]
    made = openssl(
        "pkcs12", "-export", "-in", tmp_path / "own", "-inkey", tmp_path / "key", "-passout", "pass:",
        "-certfile", tmp_path / "ca", "-out", tmp_path / "p12", *options,
    )  # fmt: skip
    assert made.good, made.text
    entries = {"autoprov.url": b"gw", "autoprov_credentials.p12": (tmp_path / "p12").read_bytes()}
    assert fingerprint(read(tmp_path, entries)) == OTHER.fingerprint


def test_an_old_archive_has_its_address_in_autoprov_without_a_scheme(tmp_path: Path) -> None:
    credentials = read(tmp_path, {"autoprov": b"\xef\xbb\xbfGateway.example\r\n", "server_ca.pem": ROOT.pem})
    assert str(credentials.url) == "https://gateway.example:8000"


def test_the_address_in_autoprov_url_counts_more_than_that_in_autoprov(tmp_path: Path) -> None:
    assert str(read(tmp_path, {**GOOD, "autoprov": b"old.example"}).url) == URL


def test_torizon_has_a_provision_json_that_stays_here_and_no_ca(tmp_path: Path) -> None:
    credentials = read(tmp_path, {"autoprov.url": URL.encode(), "provision.json": SECRET, **build_side()})
    assert credentials.ca is None
    assert "provision.json" in credentials.stays_here


def test_a_secret_that_nobody_knows_of_yet_stays_here_too(tmp_path: Path) -> None:
    assert read(tmp_path, {**GOOD, "targets1.sec": SECRET}).stays_here == ("targets1.sec",)


def test_a_file_with_an_odd_name_that_nobody_needs_is_no_reason_to_refuse(tmp_path: Path) -> None:
    assert str(read(tmp_path, {**GOOD, "Icon\r": b""}).url) == URL  # as macOS adds it


def test_nothing_in_what_is_returned_has_a_byte_of_a_secret(tmp_path: Path) -> None:
    secret_pem = ROOT.pem + ROOT.key_pem
    credentials = read(tmp_path, {**build_side(), **GOOD, "server_ca.pem": secret_pem})
    assert credentials.ca is not None
    assert credentials.ca.pem == ROOT.pem
    assert SECRET.decode() not in repr(credentials)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://gw.example:30443", "https://gw.example:30443"),
        ("https://gw.example:30443/", "https://gw.example:30443"),
        ("https://gw.example", "https://gw.example:443"),
        ("HTTPS://GW.Example.:8443\r\n", "https://gw.example:8443"),
        ("\ufeff gw.example \n", "https://gw.example:8000"),
        ("gw.example:8001", "https://gw.example:8001"),
        ("https://gw.example/api/v0/robot/", "https://gw.example:443/api/v0/robot"),
        ("192.0.2.7", "https://192.0.2.7:8000"),
        ("[2001:db8::7]:443", "https://[2001:db8::7]:443"),
        ("https://ota_ce:30443", "https://ota_ce:30443"),
    ],
)
def test_an_address_becomes_what_aktualizr_puts_its_paths_behind(text: str, url: str) -> None:
    assert str(parse_gateway_url(text, "a file")) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://gw.example:8000",
        "https://user:hunter2@gw.example",
        "https://gw.example:0",
        "https://gw.example:65536",
        "https://gw.example:",
        "-connect",
        "--help:8000",
        "gw.example;reboot",
        "gw.example\nother.example",
        "gw example",
        "https://gw.example?token=hunter2",
        "https://gw.example#a",
        "https://gw.ex\u00e4mple",
        "[::zz]:443",
        "https:///path",
        "<html>",
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="the gateway's address in a file is invalid") as caught:
        parse_gateway_url(text, "a file")
    assert "hunter2" not in caught.value.message


def choose(*pems: bytes) -> ServerCa:
    return ServerCa.read(b"".join(pems), NOW, "a file")


def test_of_a_whole_chain_the_root_is_chosen_in_any_order_and_the_others_are_named() -> None:
    leaf = INTERMEDIATE.server(("gw.example",))
    for pems in ((leaf.pem, INTERMEDIATE.pem, ROOT.pem, ROOT.pem), (ROOT.pem, leaf.pem, INTERMEDIATE.pem)):
        chosen = choose(*pems)
        assert chosen.pem == ROOT.pem
        assert set(chosen.left_out) == {"CN=gw: no CA", "CN=gateway intermediate: an intermediate CA"}


def test_the_root_that_the_others_are_below_is_chosen() -> None:
    chosen = choose(OTHER.pem, INTERMEDIATE.pem, ROOT.pem)
    assert chosen.fingerprint == ROOT.fingerprint
    assert "CN=p12 root: another root" in chosen.left_out


def test_a_root_that_has_expired_is_left_out_when_there_is_its_successor() -> None:
    chosen = choose(EXPIRED.pem, ROOT.pem, FUTURE.pem)
    assert chosen.fingerprint == ROOT.fingerprint
    assert len([line for line in chosen.left_out if "another root, is valid from" in line]) == 2


def test_of_a_root_that_was_renewed_the_certificate_that_ends_last_is_chosen() -> None:
    longer = authority("gateway root", end=NOW + 3000 * DAY, key=ROOT.key)
    assert choose(ROOT.pem, longer.pem, INTERMEDIATE.pem).fingerprint == longer.fingerprint


def test_an_expired_root_is_not_replaced_by_another_that_signed_nothing() -> None:
    below = EXPIRED.authority("below")
    with pytest.raises(ConfigError, match=r"CN=old root is valid from .* and not now"):
        choose(EXPIRED.pem, below.pem, ROOT.pem)


@pytest.mark.parametrize("signer", [EXPIRED, FUTURE], ids=["expired", "not-yet"])
def test_a_root_that_is_not_valid_now_is_refused_with_its_dates(tmp_path: Path, signer: object) -> None:
    assert signer in {EXPIRED, FUTURE}
    certificate = (EXPIRED if signer is EXPIRED else FUTURE).certificate
    path = make_zip(tmp_path / "c.zip", {**GOOD, "server_ca.pem": certificate.public_bytes(Encoding.PEM)})
    message = refused(path).message
    assert f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M}" in message
    assert f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M}" in message
    middle = certificate.not_valid_before_utc + timedelta(days=5)
    assert read_credentials(path, middle).ca is not None  # the time is the caller's


def test_two_roots_of_which_each_could_be_it_are_refused_by_name_and_fingerprint() -> None:
    with pytest.raises(ConfigError, match="several roots") as caught:
        choose(ROOT.pem, OTHER.pem)
    assert ROOT.fingerprint in caught.value.message
    assert OTHER.fingerprint in caught.value.message


def test_an_intermediate_alone_is_refused_and_the_missing_root_is_named() -> None:
    with pytest.raises(ConfigError, match=r"CN=gateway intermediate is an intermediate CA.*CN=gateway root"):
        choose(INTERMEDIATE.pem)


def test_a_servers_certificate_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no CA certificate .*CN=gw"):
        choose(INTERMEDIATE.server(("gw.example",)).pem)


def test_a_root_that_only_has_the_right_name_is_not_above() -> None:
    impostor = authority("gateway root")
    assert choose(impostor.pem, ROOT.pem, INTERMEDIATE.pem).fingerprint == ROOT.fingerprint


def test_a_name_that_would_move_the_cursor_is_shown_harmless() -> None:
    assert choose(authority("evil\x1b[2J").pem).subject == r"CN=evil\x1b[2J"


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        path = make_zip(tmp_path / "c.zip", {**GOOD, "server_ca.pem": content})
        assert "server_ca.pem contains no readable PEM certificate" in refused(path).message


def test_a_pem_that_is_wrong_is_not_made_good_by_the_p12(tmp_path: Path) -> None:
    entries = {**GOOD, "server_ca.pem": b"", "autoprov_credentials.p12": p12(CLIENT, OTHER)}
    refused(make_zip(tmp_path / "c.zip", entries))


def with_password(tmp_path: Path) -> bytes:
    for name, content in {"own": CLIENT.pem, "key": CLIENT.key_pem}.items():
        (tmp_path / name).write_bytes(content)
    made = openssl(
        "pkcs12", "-export", "-in", tmp_path / "own", "-inkey", tmp_path / "key", "-passout", "pass:hunter2",
        "-out", tmp_path / "p12",
    )  # fmt: skip
    assert made.good, made.text
    return (tmp_path / "p12").read_bytes()


def hashed_for_hours(_: Path) -> bytes:
    file = asn1_pkcs12.Pfx.load(p12(CLIENT, OTHER))
    file["mac_data"]["iterations"] = 2**31 - 1
    content: bytes = file.dump(force=True)
    return content


def another_type(_: Path) -> bytes:
    """Have an object descriptor where the number of iterations is."""
    content = bytearray(p12(CLIENT, OTHER))
    content[content.rindex(b"\x02\x02")] ^= 5
    return bytes(content)


def made_of(content: bytes) -> Callable[[Path], bytes]:
    return lambda _: content


@pytest.mark.parametrize(
    "make",
    [with_password, hashed_for_hours, another_type, *map(made_of, (b"", b"\x30\x80", b"0" * 999))],
    ids=["password", "iterations", "type", "empty", "indefinite", "nested"],
)
def test_a_p12_that_can_not_be_read_is_refused(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    entries = {"autoprov.url": URL.encode(), "autoprov_credentials.p12": make(tmp_path)}
    assert (
        "not a PKCS#12 file with an empty password" in refused(make_zip(tmp_path / "c.zip", entries)).message
    )


def test_a_p12_without_a_ca_has_none(tmp_path: Path) -> None:
    entries = {"autoprov.url": URL.encode(), "autoprov_credentials.p12": p12(CLIENT)}
    assert read(tmp_path, entries).ca is None


def test_an_archive_without_an_address_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "c.zip", {**build_side(), "server_ca.pem": ROOT.pem})
    assert "neither autoprov.url nor autoprov" in refused(path).message
