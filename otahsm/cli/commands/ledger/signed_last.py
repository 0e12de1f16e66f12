"""What a ledger says was signed last, verified: what the signers of a machine may go on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from otahsm.cli.output.times import show_time
from otahsm.config import Config, section
from otahsm.errors import ConfigError, EvidenceError, LedgerTamperedError, RequestRefusedError
from otahsm.ledger import Published, check_that_it_grew, read_published, snapshot
from otahsm.pki.crls.distribution import AUTHORITIES, COMPLETE
from otahsm.pki.crls.reading import CrlDescription, check_crl_signature, describe_crl, entries_of
from otahsm.pki.issuer import Issuer
from otahsm.system.clock import from_microseconds
from otahsm.system.files import read_file
from otahsm.templates import counted
from otahsm.tlog import Checkpoint, VerifierKey, open_checkpoint
from otahsm.token.desk.codec import CrlToSign, LastCheckpoint, encode_entries
from otahsm.token.desk.memory import Known
from otahsm.token.setup import Mandate

CheckThatItGrew = Callable[[LastCheckpoint], None]


class SignedLast(NamedTuple):
    """What was signed last, as the ledger has it.

    Attributes:
        known: the same, for the signers.
        log: the name of the log; empty if the configuration has none.
        size: the number of leaves of the newest checkpoint; without one, of the tree.
        root: its root.
        made_at: when the checkpoint was made, in microseconds since the Unix epoch; None if there is none.
        numbers: the CRL numbers of each CA, by its name.
    """

    known: Known
    log: str
    size: int
    root: bytes
    made_at: int | None
    numbers: Mapping[str, Sequence[int]]

    @property
    def crls(self) -> int:
        """The number of CRLs."""
        return sum(map(len, self.numbers.values()))

    @property
    def title(self) -> str:
        """What it is, in a line."""
        log = f"{self.log} at " if self.log else "a ledger of "
        leaves = counted(self.size, "leaf", "leaves")
        return f"{log}{leaves}, root {self.root.hex()}, {counted(self.crls, 'CRL')}"

    def fields(self) -> dict[str, str]:
        """Return it in words."""
        made = "never: the ledger has no checkpoint"
        if self.made_at is not None:
            made = f"{show_time(from_microseconds(self.made_at))}, by the ledger"
        return {
            "log": self.log or "none: there is no [checkpoint]",
            "leaves": str(self.size),
            "root": self.root.hex(),
            "signed": made,
            **{
                f"CRLs of [{f'authorities.{name}' if name else 'ca'}]": _numbers(numbers)
                for name, numbers in self.numbers.items()
            },
        }

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "log": self.log or None,
            "size": self.size,
            "root": self.root.hex(),
            "checkpoint_made_at": self.made_at,
            "crl_numbers": {name or "ca": list(numbers) for name, numbers in self.numbers.items()},
        }


@contextmanager
def signed_last(
    settings: Config, mandate: Mandate, keys: Sequence[VerifierKey]
) -> Iterator[tuple[SignedLast, CheckThatItGrew]]:
    """Read and verify what was signed last, in a snapshot of the ledger that [ledger] names.

    Args:
        settings: the configuration.
        mandate: what the signers of the configuration sign.
        keys: the log's verifier keys; former ones, too, if one of them signed the newest checkpoint.

    Yields:
        It, and what checks that the ledger's tree continues a checkpoint.

    Raises:
        ConfigError, LedgerUnavailableError: there is no ledger, or it can't be read.
        LedgerTamperedError: the checkpoint or a CRL is not signed by the configured keys, or the tree does
            not continue the checkpoint.
    """
    with snapshot(section(settings.ledger, "ledger")) as connection:
        published = read_published(connection)

        def grew(last: LastCheckpoint) -> None:
            try:
                check_that_it_grew(connection, published.head, last.size, last.root)
            except EvidenceError as error:
                what = f"the checkpoint of {counted(last.size, 'leaf', 'leaves')} that was signed"
                raise LedgerTamperedError(
                    f"the ledger does not continue {what}: {error.message}",
                    hint="It was changed, or an older copy was restored. If you restored it yourself, run"
                    " `otahsm ledger accept`. If not, keep the ledger as it is.",
                ) from None

        yield _verified(published, mandate, keys, grew), grew


def check_kept(kept: Sequence[Checkpoint], grew: CheckThatItGrew) -> None:
    """Check that the ledger continues checkpoints that were kept elsewhere. Raises LedgerTamperedError."""
    for checkpoint in kept:
        grew(LastCheckpoint(checkpoint.size, checkpoint.root))


def kept_crls(paths: Sequence[Path], mandate: Mandate) -> Known:
    """Read CRLs that were published, and verify them. Raises ConfigError: it is none of a CA that signs."""
    issuers = [item.issuer for item in mandate.authorities.values() if item.crl_seconds]
    crls: dict[bytes, list[CrlToSign]] = {}
    for path in paths:
        content = read_file(path)
        for issuer in issuers:
            try:
                crls.setdefault(issuer.key_identifier, []).append(_crl(content, issuer))
                break
            except (RequestRefusedError, ValueError):
                continue
        else:
            raise ConfigError(
                f"{path} is not a CRL of a CA in the configuration that signs CRLs",
                hint="`otahsm crl show` says what it is.",
            )
    return Known({}, crls)


def _verified(
    published: Published, mandate: Mandate, keys: Sequence[VerifierKey], grew: CheckThatItGrew
) -> SignedLast:
    tree = published.head.tree
    last, made_at = LastCheckpoint(tree.size, tree.root), None
    log = mandate.checkpoint and mandate.checkpoint.verifier_key
    if log and published.head.size is not None:
        checkpoint = _opened(published.head.note, published.head.size, [log, *keys])
        last, made_at = LastCheckpoint(checkpoint.size, checkpoint.root), published.head.made_at
        grew(last)
    issuers = {name: item.issuer for name, item in mandate.authorities.items() if item.crl_seconds}
    crls = {name: _crls(published, issuer) for name, issuer in issuers.items()}
    return SignedLast(
        Known(
            {log.vkey: last} if log else {},
            {issuer.key_identifier: crls[name] for name, issuer in issuers.items()},
        ),
        log.name if log else "",
        last.size,
        last.root,
        made_at,
        {name: sorted(crl.number for crl in each) for name, each in crls.items()},
    )


def _opened(note: bytes, size: int, keys: Sequence[VerifierKey]) -> Checkpoint:
    try:
        checkpoint = open_checkpoint(note, *keys)
        if checkpoint.size != size:
            raise EvidenceError(f"It is for {checkpoint.size} leaves.")  # noqa: TRY301
    except EvidenceError as error:
        raise LedgerTamperedError(
            f"the ledger's newest checkpoint, of {size} leaves, can't be trusted: {error.message}",
            hint="If the log's key was replaced since it was signed, name the former one with --key. If not,"
            " keep the ledger as it is, and find out who changed it.",
        ) from None
    return checkpoint


def _crls(published: Published, issuer: Issuer) -> list[CrlToSign]:
    crls = []
    for issuer_key_id, scope, number, der in published.crls:
        if issuer_key_id == issuer.key_identifier:
            try:
                crl = _crl(der, issuer)
                if (crl.number, crl.scope) != (number, scope):
                    raise ValueError("it is another CRL than its row says")  # noqa: TRY301
                crls.append(crl)
            except (RequestRefusedError, ValueError) as error:
                raise LedgerTamperedError(
                    f"the ledger's CRL {number} {scope} can't be trusted: {error}".replace("  ", " ")
                ) from None
    return crls


def _crl(der: bytes, issuer: Issuer) -> CrlToSign:
    """Return a CRL as it was asked for. Raises RequestRefusedError, ValueError: it can't be trusted."""
    check_crl_signature(der, issuer)
    described = describe_crl(der)
    if described.number is None or described.next_update is None:
        raise ValueError("it has no number, or no end")
    this_update, next_update = (int(at.timestamp()) for at in (described.this_update, described.next_update))
    return CrlToSign(
        _scope_of(described), described.number, this_update, next_update, encode_entries(entries_of(der))
    )


def _scope_of(crl: CrlDescription) -> str:
    if crl.only_authorities:
        return AUTHORITIES
    return crl.distribution_point or COMPLETE


def _numbers(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none"
    span = f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
    return f"{len(numbers)}: number {span}"


def confirmed_size(given: str, size: int) -> None:
    """Check what somebody typed to confirm. Raises ConfigError: it is not the number of leaves."""
    if given.strip().replace(",", "") != str(size):
        raise ConfigError(
            f"{given.strip()!a} is not the number of leaves, {size}; nothing was changed",
            hint="Compare it with what is known elsewhere, and run the command again.",
        )
