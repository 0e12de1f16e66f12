"""The ledger's transparency log: appends to its tree, makes signed checkpoints, and proves what is in it.

A signature can't be taken back, so a tree is only signed if it extends the last one that was signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final, NamedTuple

from otahsm.config import CheckpointConfig
from otahsm.errors import (
    ConfigError,
    EvidenceError,
    LedgerTamperedError,
    NotContinuedError,
    NotFoundError,
    OtahsmError,
    RequestRefusedError,
    SigningRefusedError,
    TokenUnavailableError,
)
from otahsm.ledger import Head, Ledger
from otahsm.pki.serial import SerialNumber
from otahsm.system.clock import Clock, microseconds
from otahsm.tlog import (
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    VerifierKey,
    assemble,
    open_checkpoint,
    parse_note,
    verify_consistency,
)
from otahsm.token.pool import SignerPool

_TRIES: Final = 4  # each after another daemon had a checkpoint signed
_TURN_SECONDS: Final = 0.05  # to wait for a step of another replica
_LAST_SECONDS: Final = 5.0  # to wait for a last checkpoint when the daemon shuts down


class Signed(NamedTuple):
    """A checkpoint: the number of leaves, and the signed note."""

    size: int
    note: bytes


class LeafProof(NamedTuple):
    """The leaf of a certificate, and the proof (c2sp.org/tlog-proof) that the log contains it."""

    leaf: bytes
    proof: bytes


class Transparency:
    """The transparency log of one ledger.

    Args:
        ledger: must be open when this is used.
        signers: hold the checkpoint key.
        config: the [checkpoint] section; None if no checkpoints are made.
        key: verifies checkpoints; required with `config`.
        clock: the time of checkpoints.

    Attributes:
        looked: set when the tree continues what signers of this machine signed last, or they know of nothing.
    """

    def __init__(
        self,
        ledger: Ledger,
        signers: SignerPool,
        *,
        config: CheckpointConfig | None,
        key: VerifierKey | None,
        clock: Clock,
    ) -> None:
        self._log = ledger.tree
        self._signers = signers
        self._config = config
        self._key = key
        self._clock = clock
        self._rest_until = 0.0  # on the monotonic clock
        self._failure: OtahsmError | None = None  # of the last attempt to make a checkpoint
        self._making = asyncio.Lock()
        self._has_signed = False  # whether signers have signed a checkpoint for this process
        self._has_looked = False  # whether the tree extends the checkpoint that the ledger had at the start
        self.looked = asyncio.Event()
        if key is None:
            self.looked.set()

    async def run_once(self) -> None:
        """Append what was recorded to the tree, and make a checkpoint if one is due.

        Raises:
            LedgerTamperedError: the tree can't grow, or does not extend the one that was signed last.
            LedgerUnavailableError: the ledger can't be read or written.
            TokenUnavailableError, TokenRefusedError: it can't be signed; it is retried after an interval.
        """
        await self._grow()
        if not self._has_looked:
            await self._check_that_it_grew(await self._head())
            self._has_looked = True
        if not self.looked.is_set() and self._signers.ready:
            await self._check_that_it_continues(await self._head())
            self.looked.set()
            return  # whoever waits to be served comes first
        if time.monotonic() < self._rest_until:
            if self._failure is not None:  # still the current state
                raise self._failure.with_traceback(None)
            return
        self._failure = None
        if await self._is_due():
            interval = self._config.interval_seconds if self._config else 0.0
            self._rest_until = time.monotonic() + interval  # a token that fails is not hammered
            try:
                await self.make_checkpoint()
            except OtahsmError as error:
                self._failure = error
                raise

    async def close(self) -> None:
        """Append everything that was released to the tree, and make a last checkpoint, if that is quick.

        Nothing waits then with a MAC of this CA: another one may be configured next.
        """
        with contextlib.suppress(OtahsmError, TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self._grow()
                if self._key is not None and self._signers.ready:
                    await self.make_checkpoint()

    async def checkpoint(self) -> Signed:
        """Return the latest checkpoint; make one if this key signed none yet. Raises as `make_checkpoint`."""
        key = self._need_key()
        head = await self._head()
        if head.size is not None and _is_signed(head.note, key):
            return Signed(head.size, head.note)
        return await self.make_checkpoint()

    async def make_checkpoint(self) -> Signed:
        """Make a checkpoint of everything recorded; return the latest one if nothing is new.

        Raises:
            ConfigError: there is no [checkpoint].
            LedgerTamperedError: the tree does not extend the one that was signed last.
            LedgerUnavailableError: the ledger can't be read or written.
            TokenUnavailableError, TokenRefusedError: it can't be signed.
        """
        key = self._need_key()
        async with self._making:
            await self._grow()
            head = await self._head()
            size, root = head.tree.size, head.tree.root
            if head.size == size and _is_signed(head.note, key):
                return Signed(size, head.note)
            self._has_looked = False  # if a call finds it tampered with, the job must too
            await self._check_that_it_grew(head)
            self._has_looked = True
            checkpoint = Checkpoint(key.name, size, root)
            signature = await self._signature(checkpoint, head.size or 0)
            self._has_signed = True
            note = assemble(checkpoint.encode(), key, signature)
            kept = await self._log.keep(size, note, microseconds(self._clock()))
            self._failure = None
            return Signed(size, kept if _is_signed(kept, key) else note)  # it may be signed by a former key

    async def prove_inclusion(self, serial: SerialNumber) -> LeafProof:
        """Prove that a certificate is in the log; make a checkpoint if it is newer than the latest.

        Args:
            serial: its serial number.

        Raises:
            NotFoundError: there is no such certificate.
            OtahsmError: as `make_checkpoint`.
        """
        key = self._need_key()
        leaf = await self._log.find(serial)
        if leaf is None:
            await self._grow()
            leaf = await self._log.find(serial)
        if leaf is None:
            raise NotFoundError(f"the ledger has no certificate with the serial number {serial.hex()}")
        size, note = await self.checkpoint()
        if leaf.leaf_index >= size:
            size, note = await self.make_checkpoint()
        hashes = await self._log.prove_inclusion(leaf.leaf_index, size)
        if hashes is None:
            raise LedgerTamperedError("nodes of the tree are missing")
        proof = InclusionProof(leaf.leaf_index, tuple(hashes), note, leaf.content)
        try:
            proof.verify(leaf.content, key)
        except EvidenceError as error:
            raise LedgerTamperedError(f"can't prove what the ledger contains: {error.message}") from None
        return LeafProof(leaf.content, proof.encode())

    async def prove_consistency(self, old_size: int) -> bytes:
        """Prove that the log only grew since it had `old_size` leaves, up to the latest checkpoint.

        If that has no more leaves, a new one is made.

        Returns:
            The proof, in the format of c2sp.org/tlog-witness.

        Raises:
            RequestRefusedError: the log has fewer leaves.
            OtahsmError: as `make_checkpoint`.
        """
        size, note = await self.checkpoint()
        if old_size >= size:
            size, note = await self.make_checkpoint()
        if old_size > size:
            raise RequestRefusedError(
                "old_size",
                f"the log has only {size} leaves, not {old_size}",
                hint="If you have a checkpoint of the log with that many leaves, keep it: it shows that the"
                " ledger was replaced by an older copy.",
            )
        hashes = await self._log.prove_consistency(old_size, size)
        if hashes is None:
            raise LedgerTamperedError("nodes of the tree are missing")
        return ConsistencyProof(old_size, tuple(hashes), note).encode()

    async def _signature(self, checkpoint: Checkpoint, last: int) -> bytes:
        """Have a checkpoint signed, with a proof that it continues what the signers signed last.

        Args:
            checkpoint: the checkpoint.
            last: the size of the one that they may have signed last; they say if it was another.
        """
        for _ in range(_TRIES):
            proof: list[bytes] | None = []
            if 0 < last < checkpoint.size:
                proof = await self._log.prove_consistency(last, checkpoint.size)
            if proof is None:
                raise LedgerTamperedError("nodes of the tree are missing")
            try:
                answer = await self._signers.sign_checkpoint(checkpoint, last, proof)
            except NotContinuedError as error:
                raise LedgerTamperedError(error.message, hint=error.hint) from None
            if isinstance(answer, bytes):
                return answer
            last = answer.size
        raise TokenUnavailableError("other daemons had checkpoints signed meanwhile, again and again")

    def _need_key(self) -> VerifierKey:
        if self._key is None:
            raise ConfigError(
                "the daemon signs no checkpoints: its configuration has no [checkpoint] section",
                hint="Add the section, and create its key with `otahsm ledger init-key`.",
            )
        return self._key

    async def _is_due(self) -> bool:
        if self._config is None or not self._signers.ready:
            return False
        head = await self._head()
        if head.tree.size in (0, head.size):
            return False
        waited = (microseconds(self._clock()) - head.made_at) / 1e6
        # At the start at once: signers know whether the ledger is an older copy. And a clock that went back
        # must not prevent it.
        return not self._has_signed or not 0 <= waited < self._config.interval_seconds

    async def _grow(self) -> None:
        """Append all pending leaves."""
        while True:
            step = await self._log.grow()
            if step.problem:
                raise LedgerTamperedError(f"the tree can't grow: {step.problem}")
            if not step.more:
                return
            if not step.taken:
                await asyncio.sleep(_TURN_SECONDS)

    async def _head(self) -> Head:
        head = await self._log.head()
        if head is None:
            raise LedgerTamperedError("the state of the tree is corrupt")
        return head

    async def _check_that_it_continues(self, head: Head) -> None:
        """Check that the tree extends the one that signers of this machine signed last."""
        try:
            last = await self._signers.last_checkpoint(self._need_key().name)
        except SigningRefusedError:
            return  # they know of nothing: they sign no checkpoint, either
        if last.size == 0:
            return
        hashes = None
        if last.size <= head.tree.size:
            hashes = await self._log.prove_consistency(last.size, head.tree.size)
        try:
            if hashes is None:
                raise EvidenceError("The ledger has fewer leaves, or lacks nodes.")  # noqa: TRY301
            verify_consistency(last.size, last.root, head.tree.size, head.tree.root, hashes)
        except EvidenceError as error:
            raise LedgerTamperedError(
                f"the tree does not continue the one of {last.size} leaves that signers signed last:"
                f" {error.message}",
                hint=NotContinuedError.default_hint,
            ) from None

    async def _check_that_it_grew(self, head: Head) -> None:
        """Check that the tree extends the one of the latest checkpoint."""
        if head.size is None:
            return
        try:
            old = Checkpoint.parse(parse_note(head.note).text)
            hashes = await self._log.prove_consistency(old.size, head.tree.size)
            if hashes is None:
                raise EvidenceError("Nodes of the tree are missing, or the tree has shrunk.")  # noqa: TRY301
            verify_consistency(old.size, old.root, head.tree.size, head.tree.root, hashes)
        except EvidenceError as error:
            raise LedgerTamperedError(
                f"the tree does not extend the one that was signed at {head.size} leaves: {error.message}"
            ) from None


def _is_signed(note: bytes, key: VerifierKey) -> bool:
    try:
        open_checkpoint(note, key)
    except EvidenceError:
        return False
    return True
