"""Checkpoints are as c2sp.org/tlog-checkpoint says, whose example is read.

Some of the hostile ones are from github.com/transparency-dev/formats (log/checkpoint_test.go, Apache-2.0).
"""

from __future__ import annotations

import os
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otahsm.cli.commands.ledger.evidence import open_kept
from otahsm.errors import EvidenceError
from otahsm.tlog import (
    EMPTY_ROOT,
    MAX_SIZE,
    Checkpoint,
    VerifierKey,
    assemble,
    open_checkpoint,
    parse_note,
    text_to_sign,
)

from support.transparency import Log, sign

SPECIFICATIONS_EXAMPLE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9"
    "nTo+zyWE+xeMcTOAYQ8=\n"
)
ROOT = bytes(range(32))
ROOT_TEXT = b64encode(ROOT).decode()

lines = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1)


def test_the_specifications_example_is_read_and_written() -> None:
    text = parse_note(SPECIFICATIONS_EXAMPLE.encode()).text
    checkpoint = Checkpoint.parse(text)
    assert checkpoint.origin == "example.com/behind-the-sofa"
    assert checkpoint.size == 20852163
    assert checkpoint.root.hex() == "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62"
    assert checkpoint.encode() == text


@settings(deadline=None)
@given(lines, st.integers(1, MAX_SIZE), st.binary(min_size=32, max_size=32), st.lists(lines))
def test_what_is_written_is_what_is_read(origin: str, size: int, root: bytes, extensions: list[str]) -> None:
    checkpoint = Checkpoint(origin, size, root, tuple(extensions))
    assert Checkpoint.parse(checkpoint.encode()) == checkpoint


def test_a_checkpoint_is_three_lines() -> None:
    assert Checkpoint("log.example", 0, EMPTY_ROOT).encode().decode() == (
        "log.example\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    )
    assert Checkpoint("log.example", 12, ROOT, ("a", "b c")).encode().decode() == (
        f"log.example\n12\n{ROOT_TEXT}\na\nb c\n"
    )


HOSTILE = {
    "nothing": "",
    "an empty line": "\n",
    "two lines": "log\n12\n",
    "no last newline": f"log\n12\n{ROOT_TEXT}",
    "no origin": f"\n12\n{ROOT_TEXT}\n",
    "no size": f"log\n\n{ROOT_TEXT}\n",
    "no root": "log\n12\n\n",
    "an empty extension line": f"log\n12\n{ROOT_TEXT}\n\n",
    "an empty line before an extension": f"log\n12\n{ROOT_TEXT}\n\nmore\n",
    "words for a size": f"log\nbananas\n{ROOT_TEXT}\n",
    "a negative size": f"log\n-34\n{ROOT_TEXT}\n",
    "a signed size": f"log\n+34\n{ROOT_TEXT}\n",
    "a leading zero": f"log\n012\n{ROOT_TEXT}\n",
    "two zeroes": f"log\n00\n{b64encode(EMPTY_ROOT).decode()}\n",
    "a space before the size": f"log\n 12\n{ROOT_TEXT}\n",
    "a separator in the size": f"log\n1_2\n{ROOT_TEXT}\n",
    "digits that are not ASCII": f"log\n٣٤\n{ROOT_TEXT}\n",
    "a size past the limit": f"log\n{MAX_SIZE + 1}\n{ROOT_TEXT}\n",
    "a size of 28 digits": f"log\n3438945738945739845734895735\n{ROOT_TEXT}\n",
    "a size of a million digits": f"log\n{'1' * 1_000_000}\n{ROOT_TEXT}\n",
    "a root that is no base64": "log\n12\nThisIsn'tBase64\n",
    "a root of 7 octets": "log\n12\nYmFuYW5hcw==\n",
    "a root of 33 octets": f"log\n12\n{b64encode(bytes(33)).decode()}\n",
    "a root without padding": f"log\n12\n{ROOT_TEXT[:-1]}\n",
    "a root with bits left over": f"log\n12\n{ROOT_TEXT[:-2]}9=\n",
    "a root with a space": f"log\n12\n{ROOT_TEXT} \n",
    "another root for the empty tree": f"log\n0\n{ROOT_TEXT}\n",
    "a carriage return": f"log\n12\r\n{ROOT_TEXT}\r\n",
    "a control character": f"l\x00og\n12\n{ROOT_TEXT}\n",
    "a control character in an extension": f"log\n12\n{ROOT_TEXT}\n\x1b[31m\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(EvidenceError):
        Checkpoint.parse(text.encode())


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(EvidenceError, match="UTF-8"):
        Checkpoint.parse(b"\xff\n1\n" + ROOT_TEXT.encode() + b"\n")


@settings(deadline=None)
@given(st.binary(), st.text())
def test_any_octets_are_a_checkpoint_or_an_evidence_error(octets: bytes, text: str) -> None:
    surroundings = (
        b"%b",
        b"log\n%b\n" + ROOT_TEXT.encode() + b"\n",
        b"log\n12\n" + ROOT_TEXT.encode() + b"\n%b",
    )
    for surrounding in surroundings:
        for hostile in (octets, text.encode(errors="surrogatepass")):
            try:
                checkpoint = Checkpoint.parse(surrounding % hostile)
            except EvidenceError:
                continue
            assert checkpoint.encode() == surrounding % hostile


@pytest.mark.parametrize(
    ("origin", "size", "root", "extensions"),
    [
        ("", 1, ROOT, ()),
        ("a\nb", 1, ROOT, ()),
        ("a\tb", 1, ROOT, ()),
        ("\ud800", 1, ROOT, ()),
        ("log", -1, ROOT, ()),
        ("log", MAX_SIZE + 1, ROOT, ()),
        ("log", 0, ROOT, ()),
        ("log", 1, ROOT[1:], ()),
        ("log", 1, ROOT, ("",)),
        ("log", 1, ROOT, ("a\nb",)),
    ],
)
def test_there_are_no_checkpoints_that_could_not_be_read(
    origin: str, size: int, root: bytes, extensions: tuple[str, ...]
) -> None:
    with pytest.raises(EvidenceError):
        Checkpoint(origin, size, root, extensions)


def test_a_signed_checkpoint_is_opened_with_the_logs_key() -> None:
    log, other = Log(), Log()
    log.append([b"a", b"b"])
    assert open_checkpoint(log.signed(2), log.verifier) == log.checkpoint(2)
    assert open_checkpoint(log.signed(0), other.verifier, log.verifier) == log.checkpoint(0)
    for keys in ((), (other.verifier,)):
        with pytest.raises(EvidenceError, match="None of the trusted keys"):
            open_checkpoint(log.signed(2), *keys)


def test_a_checkpoint_about_another_log_is_refused() -> None:
    log, other = Log(), Log(origin="other.example/log")
    text = other.checkpoint(0).encode()
    note = assemble(text, log.verifier, sign(log.key, text))
    with pytest.raises(EvidenceError, match="not about the log"):
        open_checkpoint(note, log.verifier)
    with pytest.raises(EvidenceError, match="not about the log"):
        open_checkpoint(note, log.verifier, other.verifier)


def test_a_signed_note_that_is_no_checkpoint_is_refused() -> None:
    log = Log()
    text = text_to_sign("no checkpoint\n")
    with pytest.raises(EvidenceError, match="truncated"):
        open_checkpoint(assemble(text, log.verifier, sign(log.key, text)), log.verifier)


def test_the_published_key_of_another_name_does_not_open_it() -> None:
    log = Log()
    renamed = VerifierKey("ota.example/other", log.verifier.signature_type, log.verifier.public_key)
    with pytest.raises(EvidenceError, match="None of the trusted keys"):
        open_checkpoint(log.signed(0), renamed)


def test_a_kept_checkpoint_may_come_from_a_pipe(tmp_path: Path) -> None:
    log = Log()
    log.append([b"a leaf"])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pipe.write_bytes, log.signed(1))
        assert open_kept(pipe, [log.verifier]) == log.checkpoint(1)
