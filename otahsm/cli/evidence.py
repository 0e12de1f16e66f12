"""Reads, checks and prints evidence for `otahsm ledger`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.cli.files import new_path
from otahsm.cli.tables import print_fields, print_json
from otahsm.config import CheckpointConfig
from otahsm.errors import ConfigError, EvidenceError, RequestRefusedError
from otahsm.pki import SerialNumber
from otahsm.tlog import (
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    VerifierKey,
    open_checkpoint,
    parse_leaf,
)

if TYPE_CHECKING:  # it needs SQL, which an auditor's machine has not
    from otahsm.ledger import Verdict

_EVERY: Final = 1.0  # second


def read_evidence(path: Path) -> bytes:
    """Read a file. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}", hint="Is the path right?") from None


def write_evidence(path: Path | None, octets: bytes) -> None:
    """Write a new file, never over one that exists; or to standard output. Raises FolderError."""
    if path is None:
        sys.stdout.buffer.write(octets)
        return
    with new_path(path, 0o644) as temporary:
        temporary.write_bytes(octets)


def read_key(path: Path) -> VerifierKey:
    """Read a verifier key: one line. Raises ConfigError, EvidenceError."""
    try:
        return VerifierKey.parse(read_evidence(path).decode().removesuffix("\n"))
    except UnicodeDecodeError:
        raise EvidenceError(f"{path} is not text.") from None


def trusted_keys(paths: Sequence[Path] | None, config: CheckpointConfig | None) -> list[VerifierKey]:
    """Read the keys that are named, or else the one of the configuration; none if there is no such."""
    if paths:
        return [read_key(path) for path in paths]
    return [read_key(config.verifier_key)] if config else []


def known_checkpoints(paths: Sequence[Path], keys: Sequence[VerifierKey]) -> list[Checkpoint]:
    """Read checkpoints that were kept elsewhere, and verify them. Raises ConfigError, EvidenceError."""
    if paths and not keys:
        raise ConfigError("there is no key to verify checkpoints with", hint="Name one with --key.")
    return [open_checkpoint(read_evidence(path), *keys) for path in paths]


def parse_serial(text: str) -> SerialNumber:
    """Parse a serial number in hexadecimal, with or without colons. Raises BadParameter."""
    try:
        return SerialNumber.from_hex(text)
    except RequestRefusedError:
        raise typer.BadParameter("SERIAL is a number in hexadecimal, of at most 20 octets") from None


def check_inclusion(
    proof: InclusionProof, keys: Sequence[VerifierKey], certificate: Path | None, *, as_json: bool
) -> None:
    """Verify that a log holds the leaf that comes with a proof, and that it is the certificate's.

    Raises:
        EvidenceError: it is not proven.
        ConfigError: the certificate can't be read.
    """
    checkpoint = proof.verify(proof.extra, *keys)
    leaf = parse_leaf(proof.extra)
    if certificate is not None and (leaf.get("kind"), leaf.get("der")) != ("certificate", _der(certificate)):
        raise EvidenceError(f"The proof is about another certificate than {certificate}.")
    if as_json:
        print_json({"leaf": leaf, "index": proof.index, **_fields(checkpoint)})
        return
    print_fields("Leaf", {name: str(value) for name, value in leaf.items()})
    print_fields("Checkpoint", {name: str(value) for name, value in _fields(checkpoint).items()})
    typer.echo(f"Proven: the log holds this as leaf {proof.index}.")


def check_consistency(
    proof: ConsistencyProof, keys: Sequence[VerifierKey], since: Path, *, as_json: bool
) -> None:
    """Verify that a log only grew since an older checkpoint. Raises EvidenceError, ConfigError."""
    old = open_checkpoint(read_evidence(since), *keys)
    new = proof.verify(old, *keys)
    if as_json:
        print_json({"old_size": old.size, **_fields(new)})
        return
    print_fields("Checkpoint", {name: str(value) for name, value in _fields(new).items()})
    typer.echo(f"Proven: the log only grew, from {old.size} leaves to {new.size}.")


def print_verdict(verdict: Verdict, *, seconds: float, signed: bool, as_json: bool) -> None:
    """Print what a verification found."""
    if as_json:
        print_json(
            {
                "good": verdict.good,
                "leaves": verdict.leaves,
                "root": verdict.root.hex() if verdict.root else None,
                "waiting": verdict.waiting,
                "checkpoints": verdict.checkpoints,
                "signatures_verified": signed,
                "signed_size": verdict.signed_size,
                "seconds": round(seconds, 3),
                "findings": verdict.count,
                "first": [finding._asdict() for finding in verdict.findings],
            }
        )
        return
    for where, what in verdict.findings:
        typer.secho(f"{where}: {what}", fg=typer.colors.RED)
    if verdict.count > len(verdict.findings):
        typer.echo(f"and {verdict.count - len(verdict.findings)} more")
    covered = "no checkpoint covers any"
    if verdict.signed_size is not None:
        vouched = "signed" if signed else "in a checkpoint whose signature was not verified"
        covered = f"the first {verdict.signed_size} are {vouched}"
    rate = verdict.leaves / max(seconds, 1e-9)
    typer.echo(
        f"{verdict.leaves} leaves and {verdict.checkpoints} checkpoints in {seconds:.1f} s ({rate:.0f} leaves"
        f" a second); {covered}; {verdict.waiting} entries wait to become leaves"
    )
    typer.echo("Everything fits." if verdict.good else f"{verdict.count} THINGS DO NOT FIT.")


class Counter:
    """Shows on a terminal how far it is; use it as a context manager.

    Attributes:
        seconds: how long it took.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self.seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._began
        if self._terminal:
            sys.stderr.write("\r\033[K")

    def show(self, count: int) -> None:
        """Show a count, but not more than once a second."""
        now = time.monotonic()
        if self._terminal and now - self._shown >= _EVERY:
            self._shown = now
            sys.stderr.write(f"\r{count} {self._what} ({count / (now - self._began):.0f} a second)")
            sys.stderr.flush()


def _fields(checkpoint: Checkpoint) -> dict[str, str | int]:
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


def _der(path: Path) -> str:
    content = read_evidence(path)
    try:
        if b"-----BEGIN" in content:
            content = x509.load_pem_x509_certificates(content)[0].public_bytes(Encoding.DER)
    except ValueError as error:
        raise ConfigError(f"{path} is no certificate: {error}") from None
    return content.hex()
