"""What a library says of a file, a key or a connection is for programmers: operators read our words."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
import typer

from otahsm.cli.commands.ca.options import _take_answers
from otahsm.cli.commands.device.providing import _base_path
from otahsm.cli.commands.ledger.evidence import _der
from otahsm.cli.commands.targets import read_targets
from otahsm.cli.main import app
from otahsm.client.rpc_errors import from_rpc
from otahsm.config import load_config
from otahsm.daemon.edge import read_caller
from otahsm.errors import OtahsmError
from otahsm.line.csr_files import load_csr
from otahsm.line.device_rows import read_rows
from otahsm.pki.bundle import order_bundle
from otahsm.pki.chain import load_chain, load_issuer
from otahsm.pki.crls.clients import parse_client_crls
from otahsm.pki.crls.reading import describe_crl
from otahsm.pki.csr import check_csr
from otahsm.pki.keytypes.spki import load_public_key
from otahsm.pki.profile import Profile

FOREIGN = re.compile(
    r"cryptography\.io|ParseError|Malformed[A-Z]|Unable to load|ASN\.1|asn1|codec|unarmor|Errno|<string>"
    r"|set_int_max_str_digits|Expecting|recursion|char \d"
)
PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
NOW = datetime(2026, 12, 1, tzinfo=UTC)
CONTEXT = typer.Context(typer.main.get_command(app))

OF_FILES: list[tuple[Callable[[Path], object], bytes]] = [
    (lambda path: load_chain(path.read_bytes(), str(path)), PEM),
    (lambda path: load_chain(path.read_bytes(), str(path)), b"junk"),
    (lambda path: order_bundle({str(path): path.read_bytes()}), PEM),
    (lambda path: describe_crl(path.read_bytes(), str(path)), b"junk"),
    (lambda path: parse_client_crls(path.read_bytes(), str(path), [], NOW), b"junk"),
    (read_caller, PEM),
    (read_caller, b"junk"),
    (load_csr, PEM.replace(b"MIIB", b"MII")),
    (_der, PEM),
    (lambda path: read_targets(path, ""), b"a\n\xff\n"),
    (load_config, b"\xff"),
    (load_config, b"a = " + b"1" * 5000),
    (load_config, b"a = " + b"[" * 5000),
    (lambda path: _take_answers(CONTEXT, path), b"\xff"),
    (_base_path, b"a = 1"),
    (_base_path, b"\xff"),
    (lambda path: list(read_rows(path.rename(path.with_suffix(".jsonl")), "a")), b'{"a"'),
    (lambda path: list(read_rows(path.rename(path.with_suffix(".jsonl")), "a")), b"[" * 100_000),
]
OF_OTHERS: list[Callable[[bytes], object]] = [
    load_issuer,
    load_public_key,
    lambda content: check_csr(content, Profile()),
]


@pytest.mark.parametrize(("read", "content"), OF_FILES)
def test_a_file_that_can_not_be_read_is_named_in_our_words(
    tmp_path: Path, read: Callable[[Path], object], content: bytes
) -> None:
    path = tmp_path / "given"
    path.write_bytes(content)
    with pytest.raises(OtahsmError) as raised:
        read(path)
    assert str(path) in raised.value.message
    assert not FOREIGN.search(raised.value.message), raised.value.message


@pytest.mark.parametrize("read", OF_OTHERS)
@pytest.mark.parametrize("content", [b"junk", b"", b"\x30\x80", b"\x30\x03\x02\x01\x01", PEM])
def test_what_can_not_be_parsed_is_said_in_our_words(read: Callable[[bytes], object], content: bytes) -> None:
    with pytest.raises(OtahsmError) as raised:
        read(content)
    assert not FOREIGN.search(raised.value.message), raised.value.message


LAST = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
OF_GRPC = {
    LAST + "Failed to connect to remote host: connect: Connection refused (111)": "Connection refused",
    LAST + "Ssl handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED": "the TLS handshake failed",
    "DNS resolution failed for a:1: C-ares status is not ARES_SUCCESS": "its name can't be resolved",
    "recvmsg:Connection reset by peer": "Connection reset by peer",
}


@pytest.mark.parametrize(("details", "reason"), OF_GRPC.items())
def test_why_a_daemon_can_not_be_reached_is_said_in_our_words(details: str, reason: str) -> None:
    metadata = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, metadata, metadata, details)
    assert from_rpc(error, "there:1").message == f"can't reach the daemon at there:1: {reason}"
