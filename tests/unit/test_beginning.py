"""How the signers of a machine begin: with nothing, with what a ledger has, or anew; never by chance."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from otahsm.errors import ConfigError, LedgerTamperedError, SigningRefusedError, TokenUnavailableError
from otahsm.tlog import Checkpoint
from otahsm.token.desk.beginning import accept, begin, join, known_here, merge, missing
from otahsm.token.desk.codec import NO_CHECKPOINT, CrlToSign, LastCheckpoint
from otahsm.token.desk.journal_reading import MachineJournal
from otahsm.token.desk.memory import Known, Memory

from support.desks import (
    FOUR,
    ISSUER,
    LAST,
    LEAVES,
    PROOF,
    THREE,
    VERIFIER,
    Signer,
    crl,
    entry,
    sign_checkpoint,
    sign_crl,
)

KEY = ISSUER.key_identifier
ONE = Checkpoint(VERIFIER.name, 1, LEAVES[0])
SHARD = "http://crl.example.com/1.crl"


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signed")


@pytest.fixture
def new(tmp_path: Path) -> Signer:
    """The signer of a machine that knows nothing."""
    signer = Signer(tmp_path / "other")
    for path in (signer.folder / "last").iterdir():
        path.unlink()
    return signer


def last(checkpoint: Checkpoint) -> LastCheckpoint:
    return LastCheckpoint(checkpoint.size, checkpoint.root)


def ledgers(*crls: CrlToSign, checkpoint: LastCheckpoint = last(THREE)) -> Known:  # noqa: B008 - a constant
    return Known({VERIFIER.vkey: checkpoint}, {KEY: crls})


def grew(_: LastCheckpoint) -> None:
    """The ledger's tree continues every checkpoint."""


def begun(signer: Signer) -> list[str]:
    journal = MachineJournal(signer.folder)
    assert list(journal.entries()) is not None
    assert journal.findings == []
    return journal.begun


def test_a_new_ledger_begins_with_nothing_and_once(new: Signer) -> None:
    assert (
        missing(new.mandate, known_here(new.mandate))
        == begin(new.mandate)
        == ledgers(checkpoint=NO_CHECKPOINT)
    )
    assert isinstance(sign_crl(new, LAST)[0], bytes)
    assert isinstance(sign_checkpoint(new, THREE), bytes)
    (line,) = begun(new)
    assert line.startswith("begun 2")
    assert line.endswith(" as new: 1 log and 1 CA")
    # Again, it takes nothing back.
    assert begin(new.mandate) == Known({}, {})
    assert isinstance(sign_crl(new, crl(5))[0], SigningRefusedError)
    assert len(begun(new)) == 1


def test_a_ca_that_is_added_begins_alone(new: Signer) -> None:
    log = new.mandate.checkpoint
    new.mandate = new.mandate._replace(checkpoint=None)
    assert begin(new.mandate) == Known({}, {KEY: ()})
    sign_crl(new, LAST)
    new.mandate = new.mandate._replace(checkpoint=log)
    assert begin(new.mandate) == Known({VERIFIER.vkey: NO_CHECKPOINT}, {})
    new.restart()
    assert isinstance(sign_crl(new, crl(5))[0], SigningRefusedError)
    assert isinstance(sign_checkpoint(new, THREE), bytes)


def test_a_ca_that_may_not_sign_crls_needs_no_beginning(new: Signer) -> None:
    silent = new.mandate.authorities[""]._replace(crl_seconds=0)
    assert begin(new.mandate._replace(authorities={"": silent}, checkpoint=None)) == Known({}, {})


def test_a_machine_that_joins_continues_what_the_ledger_has(new: Signer) -> None:
    nothing = known_here(new.mandate)
    assert nothing == Known({}, {})
    shard = crl(4, entry(7), scope=SHARD)
    join(new.mandate, ledgers(LAST, shard), nothing, "the log at 3 leaves")
    assert known_here(new.mandate).checkpoints == {VERIFIER.vkey: last(THREE)}
    assert set(known_here(new.mandate).crls[KEY]) == {LAST, shard}
    for refused in (*sign_crl(new, crl(6)), *sign_crl(new, crl(5, scope=SHARD))):  # without a revoked device
        assert isinstance(refused, SigningRefusedError)
    assert isinstance(sign_checkpoint(new, ONE, last=3), SigningRefusedError)
    assert isinstance(sign_crl(new, crl(6, entry(7), entry(9)))[0], bytes)
    assert isinstance(sign_checkpoint(new, FOUR, PROOF, 3), bytes)
    assert [line.split(" ", 2)[::2] for line in begun(new)] == [["joined", "the log at 3 leaves"]]


def test_who_joins_again_keeps_the_newest_of_both(signer: Signer) -> None:
    sign_crl(signer, crl(3, entry(7)), crl(3, scope=SHARD))
    sign_checkpoint(signer, THREE)
    here = known_here(signer.mandate)
    both = merge(here, ledgers(LAST, crl(3, scope=SHARD), checkpoint=last(FOUR)), grew)
    assert both.checkpoints == {VERIFIER.vkey: last(FOUR)}
    assert set(both.crls[KEY]) == {LAST, crl(3, scope=SHARD)}
    # A checkpoint that was signed, and that the ledger doesn't have yet, though its tree has grown so far.
    older = ledgers(crl(3, entry(7)), crl(3, scope=SHARD), checkpoint=NO_CHECKPOINT)
    assert merge(here, older, grew).checkpoints == {VERIFIER.vkey: last(THREE)}


@pytest.mark.parametrize(
    ("crls", "said"),
    [
        ([], "the ledger has none of its scope"),
        ([crl(4, entry(7), entry(9))], "the ledger has 4 as the newest"),
        ([crl(6, entry(9))], "1 revocation is missing"),
        ([crl(5, entry(7), entry(9), next_update=LAST.next_update - 60)], "does not continue"),
    ],
)
def test_a_ledger_that_lacks_a_crl_or_a_revocation_is_not_joined(
    signer: Signer, crls: Sequence[CrlToSign], said: str
) -> None:
    sign_crl(signer, LAST)
    with pytest.raises(LedgerTamperedError, match=said) as caught:
        merge(known_here(signer.mandate), ledgers(*crls), grew)
    assert "`otahsm ledger accept`" in caught.value.hint


def test_a_ledger_whose_tree_does_not_continue_what_was_signed_is_not_joined(signer: Signer) -> None:
    sign_checkpoint(signer, THREE)

    def did_not_grow(checkpoint: LastCheckpoint) -> None:
        raise LedgerTamperedError(f"no {checkpoint.size}")

    with pytest.raises(LedgerTamperedError, match="no 3"):
        merge(known_here(signer.mandate), ledgers(checkpoint=last(FOUR)), did_not_grow)


def test_what_is_signed_while_an_operator_thinks_is_not_overwritten(signer: Signer) -> None:
    before = known_here(signer.mandate)
    sign_crl(signer, LAST)
    with pytest.raises(ConfigError, match="have signed meanwhile"):
        join(signer.mandate, ledgers(), before, "the log")
    assert isinstance(sign_crl(signer, crl(6))[0], SigningRefusedError)
    assert begun(signer) == []


def test_signers_go_on_from_an_older_ledger_on_an_operators_word_alone(signer: Signer) -> None:
    sign_crl(signer, LAST, crl(8, entry(7), scope=SHARD))
    sign_checkpoint(signer, FOUR)
    older = ledgers(crl(2, entry(7)), checkpoint=last(THREE))
    replaced = accept(signer.mandate, older, "the log at 3 leaves", "restored\nthe backup")
    assert (replaced.crls, replaced.checkpoints) == (2, 1)
    assert replaced.kept is not None
    assert len(list(replaced.kept.iterdir())) == 5
    # From now on, that is what must be continued: it is not believed what comes next.
    assert isinstance(sign_crl(signer, crl(6))[0], SigningRefusedError)
    assert isinstance(sign_checkpoint(signer, ONE, last=3), SigningRefusedError)
    # Numbers never go back, of a CRL that the ledger has nothing of either.
    assert isinstance(sign_crl(signer, crl(5, entry(7)))[0], SigningRefusedError)
    assert isinstance(sign_crl(signer, crl(8, scope=SHARD))[0], SigningRefusedError)
    assert isinstance(sign_crl(signer, crl(9, entry(7)))[0], bytes)
    assert isinstance(sign_crl(signer, crl(9, scope=SHARD))[0], bytes)
    assert isinstance(sign_checkpoint(signer, FOUR, PROOF, 3), bytes)
    journal = MachineJournal(signer.folder)
    assert len(list(journal.entries())) == 7  # six signatures, and the acceptance
    assert [reason.split(" ", 1)[1] for reason in journal.accepted] == [r"restored\nthe backup"]
    assert [how.split(" ", 2)[2] for how in journal.begun] == ["the log at 3 leaves"]


def test_a_machine_that_accepted_a_ledger_can_join_it(signer: Signer) -> None:
    sign_crl(signer, LAST, crl(8, entry(7), scope=SHARD))
    older = ledgers(crl(2, entry(7)))
    accept(signer.mandate, older, "the log", "restored")
    here = known_here(signer.mandate)
    join(signer.mandate, merge(here, older, grew), here, "the log")
    assert isinstance(sign_crl(signer, crl(5, entry(7)))[0], SigningRefusedError)
    assert isinstance(sign_crl(signer, crl(8, scope=SHARD))[0], SigningRefusedError)
    assert isinstance(sign_crl(signer, crl(6, entry(7)))[0], bytes)


def test_a_damaged_memory_is_replaced_on_an_operators_word(signer: Signer) -> None:
    sign_crl(signer, LAST)
    (path,) = (signer.folder / "last").glob("crl-*")
    path.write_bytes(b"x")
    with pytest.raises(SigningRefusedError, match="can't read"):
        known_here(signer.mandate)
    accept(signer.mandate, ledgers(LAST), "the log", "the disk failed")
    assert isinstance(sign_crl(signer, crl(6))[0], SigningRefusedError)
    assert isinstance(sign_crl(signer, crl(6, entry(7), entry(9)))[0], bytes)


def test_a_machine_that_is_stopped_while_it_accepts_knows_nothing(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_crl(signer, LAST)

    def stop(*_: object) -> None:
        raise TokenUnavailableError("stopped")

    with monkeypatch.context() as stopped:
        stopped.setattr(Memory, "begin", stop)
        with pytest.raises(TokenUnavailableError):
            accept(signer.mandate, ledgers(), "the log", "restored")
    assert known_here(signer.mandate) == Known({}, {})
    assert isinstance(sign_crl(signer, crl(6, entry(7), entry(9)))[0], SigningRefusedError)


def test_who_gives_no_reason_or_is_somebody_else_is_refused(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_crl(signer, LAST)
    before = known_here(signer.mandate)
    with pytest.raises(ConfigError, match="the reason is empty"):
        accept(signer.mandate, ledgers(), "the log", " ")
    with monkeypatch.context() as other:
        other.setattr(os, "geteuid", lambda: 12345)
        for change in (
            lambda: accept(signer.mandate, ledgers(), "the log", "why not"),
            lambda: join(signer.mandate, ledgers(), before, "the log"),
            lambda: begin(signer.mandate),
        ):
            with pytest.raises(ConfigError, match="belongs to the user") as caught:
                change()
            assert "sudo -u" in caught.value.hint
    assert known_here(signer.mandate) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_writes_as_the_signers_user(signer: Signer) -> None:
    signers = 12345
    with tempfile.TemporaryDirectory() as name:
        guard = Path(name)  # pytest's folders are root's alone
        os.chown(guard, signers, signers)
        mandate = signer.mandate._replace(folder=guard / "signed")
        begin(mandate)
        join(mandate, ledgers(LAST), known_here(mandate), "the log")
        accept(mandate, ledgers(LAST), "the log", "restored")
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in guard.rglob("*")}
    assert owners == {(signers, signers)}
    assert (os.geteuid(), os.getegid()) == (0, 0)
