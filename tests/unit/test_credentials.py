"""credentials.zip: what a device may have comes out of it, and nothing else; whatever somebody made of it."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zipfile
from base64 import encodebytes
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from asn1crypto import pkcs12 as asn1_pkcs12
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otahsm.errors import ConfigError, OtahsmError
from otahsm.gateway.credentials import Credentials, read_credentials
from otahsm.gateway.server_ca import ServerCa
from otahsm.gateway.small_zip import MAX_ARCHIVE_BYTES, MAX_ENTRY_BYTES
from otahsm.gateway.url import parse_gateway_url

from support.gateways import DAY, NOW, SECRET, URL, authority, build_side, make_zip, p12
from support.programs import openssl

ROOT = authority("gateway root")
INTERMEDIATE = ROOT.authority("gateway intermediate")
OTHER = authority("p12 root")
CLIENT = OTHER.server((), name="autoprov")
EXPIRED = authority("old root", NOW - 20 * DAY, NOW - 10 * DAY)
FUTURE = authority("next root", NOW + 10 * DAY, NOW + 20 * DAY)
GOOD = {"autoprov.url": URL.encode(), "server_ca.pem": ROOT.pem}


def read(tmp_path: Path, entries: dict[str, bytes]) -> Credentials:
    return read_credentials(make_zip(tmp_path / "credentials.zip", entries), NOW)


def fingerprint(credentials: Credentials) -> str:
    assert credentials.ca is not None
    return credentials.ca.fingerprint


def refused(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_credentials(path, NOW)
    assert caught.value.hint != ConfigError.default_hint
    assert "\n" not in caught.value.message
    return caught.value


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
    with pytest.raises(ConfigError, match="the gateway's address in a file is wrong") as caught:
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


# Hostile archives.


def patched(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def encrypted(path: Path) -> Path:
    with zipfile.ZipFile(make_zip(path, GOOD)) as archive:
        offset = archive.start_dir
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the general purpose bits of the first entry, in its own header and in the directory
    content[offset + 8] |= 1
    path.write_bytes(content)
    return path


def compressed_otherwise(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("autoprov.url", URL)
    return path


def twice(path: Path) -> Path:
    make_zip(path, {**GOOD, "AUTOPROV.URL": b"evil.example"})
    return patched(path, b"AUTOPROV.URL", b"autoprov.url")


def link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("server_ca.pem")
        entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
        archive.writestr("autoprov.url", URL)
    return path


def bomb(path: Path) -> Path:
    return make_zip(path, {**GOOD, "server_ca.pem": bytes(10 * MAX_ENTRY_BYTES)})


def bomb_that_lies(path: Path) -> Path:
    """Say that a megabyte of zeros is as large as it may be."""
    bomb(path)
    return patched(path, struct.pack("<I", 10 * MAX_ENTRY_BYTES), struct.pack("<I", MAX_ENTRY_BYTES))


def in_the_directory(offset: int, value: bytes) -> Callable[[Path], Path]:
    """Change what the archive's directory says of its first entry (APPNOTE.TXT, section 4.3.12)."""

    def change(path: Path) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("autoprov.url", URL)
        content = bytearray(path.read_bytes())
        start = content.index(b"PK\x01\x02") + offset
        content[start : start + len(value)] = value
        path.write_bytes(content)
        return path

    return change


def many(path: Path) -> Path:
    return make_zip(path, {**GOOD, **{f"file-{number}": b"" for number in range(300)}})


def huge_beside(path: Path) -> Path:
    return make_zip(path, {**GOOD, "treehub.json": bytes(17 << 20)})


def too_large_a_file(path: Path) -> Path:
    path.write_bytes(bytes(MAX_ARCHIVE_BYTES + 1))
    return path


def named(name: str) -> Callable[[Path], Path]:
    return lambda path: make_zip(path, {**GOOD, name: b"x"})


def written(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def truncated(path: Path) -> Path:
    content = make_zip(path, GOOD).read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (encrypted, "autoprov.url is encrypted"),
        (compressed_otherwise, "compressed in a way that is not supported"),
        (twice, "'autoprov.url' is in it twice"),
        (link, "'server_ca.pem' is a link"),
        (bomb, "server_ca.pem has more than 65536 bytes"),
        (bomb_that_lies, "server_ca.pem is damaged"),
        (in_the_directory(6, b"\xff"), "is no ZIP archive"),  # the version that is needed
        (in_the_directory(8, b"\x20"), "autoprov.url is damaged"),  # "compressed patched data"
        (in_the_directory(20, b"\x00\x90\x00\x00" * 2), "autoprov.url is damaged"),  # beyond the end
        (in_the_directory(42, b"\xff\xff\x00\x00"), "autoprov.url is damaged"),  # behind the end
        (many, "it holds 302 files"),
        (huge_beside, "which no credentials have"),
        (too_large_a_file, "has more than 1048576 bytes"),
        (named("creds/autoprov.url"), "'creds/autoprov.url' is not that of a file at its top"),
        (named("../../etc/cron.d/x"), "is not that of a file at its top"),
        (named("/etc/passwd"), "is not that of a file at its top"),
        (named("..\\x"), "is not that of a file at its top"),
        (named(".."), "is not that of a file at its top"),
        (written(b""), "is empty"),
        (written(b"this is a text"), "is no ZIP archive"),
        (written(b"PK\x03\x04"), "is no ZIP archive"),
        (truncated, "is no ZIP archive, or only a part of one"),
        (folder, "is no file"),
        (pipe, "is no file"),
        (lambda path: path, "No such file or directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_archive_gets_one_clear_error(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    assert reason in refused(make(tmp_path / "credentials.zip")).message


def test_an_archive_that_the_disk_does_not_give_gets_one_clear_error() -> None:
    assert "Input/output error" in refused(Path("/proc/self/mem")).message


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    entries = {"autoprov.url": URL.encode(), "server_ca.pem": ROOT.pem + INTERMEDIATE.pem}
    return make_zip(tmp_path_factory.mktemp("zip") / "c.zip", entries).read_bytes()


def right_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(OtahsmError):
        credentials = read_credentials(path, NOW)
        assert str(credentials.url) == URL
        assert credentials.ca is None or credentials.ca.pem == ROOT.pem


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4), keep=st.floats(0.3, 1))
def test_a_damaged_archive_gives_the_right_value_or_one_of_our_errors(
    tmp_path: Path, archive: bytes, flips: list[tuple[float, int]], keep: float
) -> None:
    content = bytearray(archive)
    for place, bits in flips:
        content[int(place * (len(content) - 1))] ^= bits
    right_or_refused(tmp_path / "c.zip", bytes(content))
    right_or_refused(tmp_path / "c.zip", bytes(content[: int(keep * len(content))]))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1), bits=st.integers(1, 255), what=st.sampled_from(["p12", "pem", "der"]))
def test_damage_inside_an_entry_gives_a_value_or_one_of_our_errors(
    tmp_path: Path, place: float, bits: int, what: str
) -> None:
    content = bytearray(p12(CLIENT, OTHER) if what == "p12" else ROOT.pem)
    if what == "der":
        content = bytearray(ROOT.certificate.public_bytes(Encoding.DER))
    content[int(place * (len(content) - 1))] ^= bits
    entry = bytes(content)
    if what == "der":
        entry = b"-----BEGIN CERTIFICATE-----\n" + encodebytes(entry) + b"-----END CERTIFICATE-----\n"
    name = "autoprov_credentials.p12" if what == "p12" else "server_ca.pem"
    with contextlib.suppress(OtahsmError):
        read(tmp_path, {"autoprov.url": URL.encode(), name: entry})
