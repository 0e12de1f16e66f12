"""Reads, checks and prints evidence for `otahsm ledger`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.cli.output.fields import print_fields, print_json
from otahsm.config import CheckpointConfig, load_verifier_key, read_verifier_key
from otahsm.errors import ConfigError, EvidenceError, OtahsmError
from otahsm.system.files import read_file
from otahsm.templates import counted
from otahsm.tlog import (
    CERTIFICATE_KINDS,
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    VerifierKey,
    open_checkpoint,
    parse_leaf,
    parse_note,
)

KeysOption = Annotated[
    list[Path] | None,
    typer.Option("--key", help="A verifier key of the log. Repeatable. Default: [checkpoint] verifier_key."),
]


@contextmanager
def about(path: Path, kind: type[OtahsmError] = ConfigError) -> Iterator[None]:
    """Name the file in an EvidenceError of the block, and raise it as another class."""
    try:
        yield
    except EvidenceError as error:
        raise kind(f"{path}: {error.message}") from None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without verifying it. Raises ConfigError: it can't be read, or it is none."""
    return _parse_checkpoint(path, read_file(path))


def open_kept(path: Path, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Read and verify a checkpoint. Raises ConfigError as `read_checkpoint`, EvidenceError."""
    note = read_file(path)  # once: it may be a pipe
    _parse_checkpoint(path, note)
    with about(path, EvidenceError):
        return open_checkpoint(note, *keys)


def _parse_checkpoint(path: Path, note: bytes) -> Checkpoint:
    with about(path):
        return Checkpoint.parse(parse_note(note).text)


def trusted_keys(paths: Sequence[Path] | None, config: CheckpointConfig | None) -> list[VerifierKey]:
    """Read the keys that are named, else the configuration's, if it has one."""
    if paths:
        return [read_verifier_key(path, "--key") for path in paths]
    return [load_verifier_key(config)] if config else []


def known_checkpoints(paths: Sequence[Path], keys: Sequence[VerifierKey]) -> list[Checkpoint]:
    """Read checkpoints that were kept elsewhere, and verify them. Raises ConfigError, EvidenceError."""
    if paths and not keys:
        raise ConfigError("there is no key to verify checkpoints with", hint="Name one with --key.")
    return [open_kept(path, keys) for path in paths]


def check_inclusion(
    proof: InclusionProof, keys: Sequence[VerifierKey], certificate: Path | None, *, as_json: bool
) -> None:
    """Verify that the log has the leaf in a proof, and that the leaf is the certificate's.

    Raises:
        EvidenceError: it is not proven.
        ConfigError: the certificate can't be read.
    """
    checkpoint = proof.verify(proof.extra, *keys)
    leaf = parse_leaf(proof.extra)
    if certificate is not None:
        is_about_one = leaf.get("kind") in CERTIFICATE_KINDS
        if not is_about_one or leaf.get("der") != _der(certificate):
            raise EvidenceError(f"The proof is not about the certificate {certificate}.")
    if as_json:
        print_json({"leaf": leaf, "index": proof.index, **_fields(checkpoint)})
        return
    print_fields("Leaf", {name: str(value) for name, value in leaf.items()})
    print_fields("Checkpoint", {name: str(value) for name, value in _fields(checkpoint).items()})
    typer.echo(f"Proven: the log has this as leaf {proof.index}.")


def check_consistency(
    proof: ConsistencyProof, keys: Sequence[VerifierKey], since: Path, *, as_json: bool
) -> None:
    """Verify that a log only grew since an older checkpoint. Raises EvidenceError, ConfigError."""
    old = open_kept(since, keys)
    new = proof.verify(old, *keys)
    if as_json:
        print_json({"old_size": old.size, **_fields(new)})
        return
    print_fields("Checkpoint", {name: str(value) for name, value in _fields(new).items()})
    typer.echo(f"Proven: the log only grew, from {counted(old.size, 'leaf', 'leaves')} to {new.size}.")


def _fields(checkpoint: Checkpoint) -> dict[str, str | int]:
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


def _der(path: Path) -> str:
    content = read_file(path)
    try:
        if b"-----BEGIN" in content:
            content = x509.load_pem_x509_certificates(content)[0].public_bytes(Encoding.DER)
    except ValueError:
        raise ConfigError(f"{path} is not a certificate") from None
    return content.hex()
