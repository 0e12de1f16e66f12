"""Verifies the ledger: recomputes the tree, and reports which rows were changed, removed or added.

Every leaf is computed from its rows and compared with its hash. The tree of these hashes is compared with the
nodes, the state of the tree and every checkpoint. Every entry must be a leaf or pending. To hide a changed
row, one must change its hash, all nodes above it, and the checkpoints; but these are signed, and the newest
is also kept elsewhere.

Memory is bounded: rows are read in order of the leaves, in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, exists, false, func, or_, select

from otahsm.errors import EvidenceError
from otahsm.ledger.schema import checkpoints, intents, leaves, nodes, pending_leaves
from otahsm.ledger.tree.derived import check_derived
from otahsm.ledger.tree.entry_kind import Entry
from otahsm.ledger.tree.log_entries import KINDS, is_of_an_intent, name_entry, read_leaves
from otahsm.ledger.tree.pending import MacKeys
from otahsm.ledger.tree.sequencer import STORED_LEVELS, read_tree
from otahsm.ledger.tree.verdict import MAX_FINDINGS, Verdict
from otahsm.pki.serial import SerialNumber
from otahsm.tlog import Checkpoint, CompactTree, VerifierKey, leaf_hash, open_checkpoint, parse_note
from otahsm.tlog import Row as NodeRow

_MOST: Final = 1 << 62  # leaves, and one more is a number of the database still
_CHUNK: Final = 1024  # leaves; databases limit the number of parameters


def verify(
    connection: Connection,
    keys: Sequence[VerifierKey] = (),
    known: Sequence[Checkpoint] = (),
    progress: Callable[[int], None] = lambda _: None,
    mac_keys: MacKeys | None = None,
) -> Verdict:
    """Verify a ledger.

    Args:
        connection: from `snapshot`.
        keys: the log's verifier keys; if there are none, the signatures of checkpoints are not verified.
        known: checkpoints that were kept elsewhere, already verified by the caller.
        progress: called from time to time with the number of leaves done.
        mac_keys: of the MACs on pending leaves; None if they can't be verified.
    """
    ordered = sorted(known, key=lambda checkpoint: checkpoint.size)
    run = _Verification(connection, tuple(keys), ordered, mac_keys)
    run.read_leaves(progress)
    run.check_end()
    run.check_entries()
    check_derived(connection, run.verdict)
    return run.verdict


class _Verification:
    """One pass over the leaves, and the checks after it."""

    def __init__(
        self,
        connection: Connection,
        keys: tuple[VerifierKey, ...],
        known: Sequence[Checkpoint],
        mac_keys: MacKeys | None,
    ) -> None:
        self.verdict = Verdict()
        self._mac_keys = mac_keys
        self._connection = connection
        self._keys = keys
        self._known = known
        self._tree: CompactTree | None = CompactTree()
        self._end = 0  # the index that the next leaf should have
        self._confirmed = 0  # the number of leaves with a root that matched a checkpoint
        self._root_is_wrong = False

    def read_leaves(self, progress: Callable[[int], None]) -> None:
        """Check the leaves, in order."""
        self._compare_checkpoints(-1, 0)
        while rows := self._connection.execute(_NEXT, {"first": self._end}).all():
            self._check_rows(rows)
            begin = self._end
            for row in rows:
                if row.leaf_index != self._end:
                    missing = _range(self._end, row.leaf_index)
                    self.verdict.find(missing, "missing: removed from the tree")
                    self._tree = None
                self._end = row.leaf_index + 1
                self.verdict.leaves += 1
            self._extend(begin, [row.hash for row in rows])
            progress(self.verdict.leaves)
        if self._tree is not None:
            self.verdict.root = self._tree.root

    def _check_rows(self, rows: Sequence[Row[Any]]) -> None:
        """Compare each leaf's hash with its rows."""
        entries = [Entry(row.kind, row.intent_id) for row in rows]
        for row, entry, leaf in zip(rows, entries, self._read(entries), strict=True):
            if leaf is None:
                self.verdict.find(
                    f"leaf {row.leaf_index}",
                    f"{self._name(entry)} is missing: it was removed, or changed to another kind",
                )
            elif leaf_hash(leaf) != row.hash:
                self.verdict.find(
                    f"leaf {row.leaf_index}", f"{self._name(entry)} differs from the log: it was changed"
                )

    def _read(self, entries: Sequence[Entry]) -> list[bytes | None]:
        """Read leaves; a leaf whose rows have values of wrong types is None."""
        try:
            return read_leaves(self._connection, entries)
        except (TypeError, ValueError):
            if len(entries) == 1:
                return [None]
            return [leaf for entry in entries for leaf in self._read([entry])]

    def _extend(self, begin: int, hashes: list[bytes]) -> None:
        """Append to the tree, stopping at each size that has a checkpoint."""
        stops = [size for size in self._checkpoint_sizes(begin, self._end) if size < self._end]
        for first, end in zip([begin, *stops], [*stops, self._end], strict=True):
            if self._tree is not None:
                try:
                    self._tree, rows = self._tree.extend(hashes[first - begin : end - begin])
                except (TypeError, ValueError):
                    self.verdict.find(_range(first, end), "a hash is not 32 octets")
                    self._tree = None
                else:
                    self._compare_nodes(rows)
            self._compare_checkpoints(first, end)

    def _checkpoint_sizes(self, begin: int, end: int) -> list[int]:
        """Return the sizes in (begin, end] that have a checkpoint, here or elsewhere."""
        stored = self._connection.execute(_SIZES, {"begin": begin, "end": end}).scalars()
        return sorted({*stored, *(item.size for item in self._known if begin < item.size <= end)})

    def _compare_nodes(self, rows: Sequence[NodeRow]) -> None:
        for level, first, hashes in rows:
            if not level or level % STORED_LEVELS:
                continue
            bounds = {"level": level, "first": first, "end": first + len(hashes)}
            stored = {row.number: row.hash for row in self._connection.execute(_NODES, bounds)}
            for number, hashed in enumerate(hashes, first):
                if stored.get(number) != hashed:
                    covers = _range(number << level, (number + 1) << level)
                    wrong = "differs from its leaves" if number in stored else "is missing"
                    self.verdict.find(
                        f"node {number} of level {level}", f"{wrong}, {covers}: one was changed"
                    )

    def _compare_checkpoints(self, above: int, size: int) -> None:
        """Check the checkpoints with sizes in (above, size]; `size` is the current size of the tree."""
        for row in self._connection.execute(_CHECKPOINTS, {"begin": above, "end": size}):
            self.verdict.checkpoints += 1
            self._compare(f"checkpoint {row.size}", self._open(row), row.size)
        for checkpoint in self._known:
            if above < checkpoint.size <= size:
                self._compare(f"the checkpoint of {checkpoint.size} leaves from elsewhere", checkpoint, size)

    def _open(self, row: Row[Any]) -> Checkpoint | None:
        try:
            note = row.note if isinstance(row.note, bytes) else b""
            if self._keys:
                checkpoint = open_checkpoint(note, *self._keys)
            else:
                checkpoint = Checkpoint.parse(parse_note(note).text)
        except EvidenceError as error:
            self.verdict.find(f"checkpoint {row.size}", error.message)
            return None
        if checkpoint.size != row.size:
            self.verdict.find(f"checkpoint {row.size}", f"its note is for {checkpoint.size} leaves")
            return None
        return checkpoint

    def _compare(self, name: str, checkpoint: Checkpoint | None, size: int) -> None:
        if checkpoint is None or self._tree is None:
            return  # already reported
        if checkpoint.root == self._tree.root:
            self._confirmed = size
            self.verdict.signed_size = size
        elif not self._root_is_wrong:  # all later roots are wrong too
            self._root_is_wrong = True
            since = _range(self._confirmed, size)
            self.verdict.find(name, f"its root differs from that of the leaves; the change is in {since}")

    def check_end(self) -> None:
        """Check the stored state of the tree, and that nothing extends beyond it."""
        try:
            stored: CompactTree | None = read_tree(self._connection)
        except ValueError as error:
            self.verdict.find("tree", f"its state is corrupt: {error}")
            stored = None
        if stored is not None and stored.size != self._end:
            self.verdict.find("tree", f"its state has {stored.size} leaves, the table {self._end}")
        elif stored is not None and self._tree is not None and stored != self._tree:
            self.verdict.find("tree", "its state does not match its leaves")
        self._check_beyond()

    def _check_beyond(self) -> None:
        for index in self._stream(_IN_NO_TREE):
            self.verdict.find(f"leaf {index}", "is not part of the tree: it was added")
        for size in self._connection.execute(_IMPOSSIBLE).scalars():
            self.verdict.find(f"checkpoint {size}", "is of no tree: it was added")
        for size in self._connection.execute(_BEYOND, {"end": self._end}).scalars():
            self.verdict.checkpoints += 1
            self.verdict.find(
                f"checkpoint {size}", f"the ledger has only {self._end} leaves: some were removed at the end"
            )
        for checkpoint in self._known:
            if checkpoint.size > self._end:
                self.verdict.find(
                    f"the checkpoint of {checkpoint.size} leaves from elsewhere",
                    f"the ledger has only {self._end} leaves: it was truncated, or replaced by an older copy",
                )
        for level in self._connection.execute(_LEVELS).scalars().all():
            is_stored = isinstance(level, int) and level > 0 and level % STORED_LEVELS == 0
            ours = nodes.c.number.between(0, (self._end >> level) - 1) if is_stored else false()
            for number in self._stream(_EXTRA_NODES.where(nodes.c.level == level, ~ours)):
                where = f"node {number!a:.30} of level {level!a:.30}"
                self.verdict.find(where, "is not part of the tree: it was added")

    def check_entries(self) -> None:
        """Check that every entry is a leaf or pending, and that pending entries exist."""
        for kind, entries in KINDS.items():
            found = entries.ids.subquery()
            logged = exists().where(leaves.c.kind == kind, leaves.c.intent_id == found.c.id)
            waits = exists().where(pending_leaves.c.kind == kind, pending_leaves.c.intent_id == found.c.id)
            for intent_id in self._stream(select(found.c.id).where(~logged, ~waits)):
                self.verdict.find(
                    f"{_ROWS[entries.key.table.name]} {intent_id}",
                    f"{self._name(Entry(kind, intent_id))} has no leaf: it was added, or its leaf removed",
                )
        for row in self._connection.execute(_TWICE):
            name = self._name(Entry(row.kind, row.intent_id))
            self.verdict.find(f"unlogged {row.last}", f"{name} is pending more than once: it was added")
        waiting = self._stream(select(pending_leaves.c.id).order_by(pending_leaves.c.id))
        while ids := list(islice(waiting, _CHUNK)):
            self._check_waiting(self._connection.execute(_WAITING, {"first": ids[0], "last": ids[-1]}).all())

    def _check_waiting(self, rows: Sequence[Row[Any]]) -> None:
        self.verdict.waiting += len(rows)
        self.verdict.unverified_waiting += len(rows) if self._mac_keys is None else 0
        entries = [Entry(row.kind, row.intent_id) for row in rows]
        for row, entry, leaf in zip(rows, entries, self._read(entries), strict=True):
            if self._mac_keys is not None and not self._mac_keys.vouch(row):
                self.verdict.find(
                    f"unlogged {row.id}", f"{self._name(entry)} was not queued by a daemon with our MAC key"
                )
            elif leaf is None or leaf_hash(leaf) != row.hash:
                self.verdict.find(
                    f"unlogged {row.id}", f"{self._name(entry)} is missing, or differs from what was recorded"
                )
            if row.leaf_index is not None:
                self.verdict.find(
                    f"unlogged {row.id}",
                    f"{self._name(entry)} is already leaf {row.leaf_index}: it was added",
                )

    def _stream(self, query: Select[int]) -> Iterator[int]:
        """Yield numbers without loading them all."""
        return iter(self._connection.execute(query.execution_options(yield_per=_CHUNK)).scalars())

    def _name(self, entry: Entry) -> str:
        name = name_entry(entry)
        if not is_of_an_intent(entry.kind) or self.verdict.count >= MAX_FINDINGS:
            return name  # or it won't be reported
        row = self._connection.execute(_INTENT, {"id": entry.intent_id}).first()
        if row is None:
            return f"{name}, which does not exist,"
        serial = SerialNumber.from_key(row.serial).hex() if isinstance(row.serial, bytes) else "unknown"
        return f"{name}, serial number {serial}, device {row.device_id!a},"


def _range(begin: int, end: int) -> str:
    return f"leaf {begin}" if end - begin == 1 else f"leaves {begin} to {end - 1}"


_ROWS: Final = {
    "intents": "intent",
    "events": "event",
    "batches": "batch",
    "quotas": "quota",
    "crl_urls": "CRL URL",
    "acts": "act",
}
_NEXT: Final = (
    select(leaves)
    .where(leaves.c.leaf_index >= bindparam("first"), leaves.c.leaf_index < _MOST)
    .order_by(leaves.c.leaf_index)
    .limit(_CHUNK)
)
_IN_NO_TREE: Final = select(leaves.c.leaf_index).where(
    or_(leaves.c.leaf_index < 0, leaves.c.leaf_index >= _MOST)
)
_NODES: Final = select(nodes.c.number, nodes.c.hash).where(
    nodes.c.level == bindparam("level"),
    nodes.c.number >= bindparam("first"),
    nodes.c.number < bindparam("end"),
)
_LEVELS: Final = select(nodes.c.level).distinct()
_EXTRA_NODES: Final = select(nodes.c.number)
_CHECKPOINTS: Final = (
    select(checkpoints)
    .where(checkpoints.c.size > bindparam("begin"), checkpoints.c.size <= bindparam("end"))
    .order_by(checkpoints.c.size)
)
_SIZES: Final = select(checkpoints.c.size).where(
    checkpoints.c.size > bindparam("begin"), checkpoints.c.size <= bindparam("end")
)
_IMPOSSIBLE: Final = select(checkpoints.c.size).where(checkpoints.c.size < 0)
_BEYOND: Final = select(checkpoints.c.size).where(checkpoints.c.size > bindparam("end"))
_TWICE: Final = (
    select(pending_leaves.c.kind, pending_leaves.c.intent_id, func.max(pending_leaves.c.id).label("last"))
    .group_by(pending_leaves.c.kind, pending_leaves.c.intent_id)
    .having(func.count() > 1)
)
_WAITING: Final = (
    select(pending_leaves, leaves.c.leaf_index)
    .outerjoin(
        leaves, (leaves.c.kind == pending_leaves.c.kind) & (leaves.c.intent_id == pending_leaves.c.intent_id)
    )
    .where(pending_leaves.c.id >= bindparam("first"), pending_leaves.c.id <= bindparam("last"))
    .order_by(pending_leaves.c.id)
)
_INTENT: Final = select(intents.c.serial, intents.c.device_id).where(intents.c.id == bindparam("id"))
