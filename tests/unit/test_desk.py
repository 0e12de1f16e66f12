"""What a daemon that was taken over has signed: what the mandate gives, in order, and written down."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509

from otahsm.errors import SigningRefusedError
from otahsm.pki.certificate import Binding, Validity, assemble, build_tbs
from otahsm.pki.crls.building import Reason
from otahsm.pki.crls.distribution import AUTHORITIES, COMPLETE
from otahsm.pki.keytypes import signature_is_valid
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import Profile
from otahsm.pki.root import build_root_tbs
from otahsm.pki.serial import SerialNumber
from otahsm.pki.template import ProfileTemplate, Terms
from otahsm.tlog import Checkpoint, VerifierKey, root_of
from otahsm.token.desk import codec
from otahsm.token.desk.codec import NO_CHECKPOINT, CertificateToSign, CrlToSign, LastCrl, encode_entries
from otahsm.token.desk.crls import build
from otahsm.token.desk.memory import Known, Memory
from otahsm.token.setup import PROBE

from support.attacks.forging import key_of
from support.authority import issuer_of
from support.desks import (
    FOUR,
    ISSUER,
    LAST,
    LEAVES,
    NOW,
    PROFILES,
    PROOF,
    SECONDS,
    SPKI,
    THREE,
    VERIFIER,
    WEEK,
    Signer,
    crl,
    entry,
    serial_at,
    sign_checkpoint,
    sign_crl,
    values,
)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signed")


def test_a_certificate_of_the_mandate_is_signed_and_written_down(signer: Signer) -> None:
    item = values("device-7", profile="named", attributes=(("plant", "Ulm"),))
    (signature,) = signer.ask(codec.encode_certificates("named", [item]))
    tbs = ProfileTemplate(Terms(PROFILES["named"], ISSUER, None)).fill(
        item.serial, item.binding, item.attributes
    )
    assert isinstance(signature, bytes)
    assert signature_is_valid(ISSUER.public_key, ISSUER.algorithm, signature, tbs)
    certificate = x509.load_der_x509_certificate(assemble(tbs, ISSUER.algorithm, signature))
    assert certificate.subject.rfc4514_string() == "OU=Ulm,O=Acme,CN=device-7"
    assert signer.journal()[-1] == f"certificate {item.serial.key.hex()} {sha256(tbs).hexdigest()}"
    assert signer.refusals() == 0


def other_tbs(tbs: bytes) -> CertificateToSign:
    return values()._replace(tbs_sha256=sha256(tbs).digest())


SUB_CA = build_root_tbs(
    common_name="device-1",
    spki=SPKI,
    algorithm=ISSUER.algorithm,
    serial=serial_at(),
    validity=Validity(ISSUER.not_before, ISSUER.not_after),
    kind="root",
)
LONG = build_tbs(
    Binding("device-1", SPKI),
    PROFILES["ota-connect"],
    ISSUER,
    serial_at(),
    Validity(ISSUER.not_before, ISSUER.not_after),
)
SERVER = build_tbs(
    Binding("device-1", SPKI),
    Profile(extended_key_usage=("server_auth",)),
    ISSUER,
    serial_at(),
    Validity(NOW, NOW + timedelta(days=1)),
)
MINUTES = timedelta(minutes=1)

# What a daemon that was taken over might ask the CA's key for, under the profile `ota-connect`.
CERTIFICATES = {
    "a sub-CA": other_tbs(SUB_CA),
    "a certificate as long as the CA": other_tbs(LONG),
    "a certificate of a server": other_tbs(SERVER),
    "an empty CRL": other_tbs(build(CrlToSign(COMPLETE, 9, SECONDS, SECONDS + 9, b""), ISSUER)),
    "what was never journalled": values()._replace(tbs_sha256=bytes(32)),
    "an id that the profile refuses": values("gateway"),
    "an id that is a path": values("../device-1"),
    "an id that looks like another": values("device-1\u0661"),
    "no id": values(""),
    "a key of another type": values(spki=encode_spki(key_of("ed25519").public_key())),
    "a key and more": values(spki=SPKI + b"\x30\x00"),
    "no key at all": values(spki=b"\x30\x05\x30\x00\x03\x01\x00"),
    "a serial number of before": values(serial=serial_at(NOW - 11 * MINUTES)),
    "a serial number of later": values(serial=serial_at(NOW + 11 * MINUTES)),
    "a serial number without chance": values()._replace(serial=SerialNumber((SECONDS * 1000) << 112 | 1)),
    "the serial number 1": values()._replace(serial=SerialNumber(1)),
    "a name that the profile lacks": values()._replace(attributes=(("plant", "Ulm"),)),
}


@pytest.mark.parametrize("what", CERTIFICATES)
def test_what_the_mandate_does_not_give_is_refused_and_its_neighbours_are_signed(
    signer: Signer, what: str
) -> None:
    good = [values("device-1"), values("device-2")]
    request = codec.encode_certificates("ota-connect", [good[0], CERTIFICATES[what], good[1]])
    one, refused, other = signer.ask(request, 3)
    assert isinstance(refused, SigningRefusedError)
    assert isinstance(one, bytes)
    assert isinstance(other, bytes)
    assert signer.refusals() == 1


@pytest.mark.parametrize(
    ("profile", "item", "why"),
    [
        ("another", values(), "there is no profile"),
        ("", values(), "there is no profile"),
        ("named", values(), "would not be the one that was journalled|needs the attribute plant"),
        ("named", values()._replace(attributes=(("plant", "CN=device-9"),)), "CN="),
        ("named", values()._replace(attributes=(("plant", "x" * 65),)), "1 to 64"),
    ],
)
def test_another_profile_gives_nothing_else(
    signer: Signer, profile: str, item: CertificateToSign, why: str
) -> None:
    (refused,) = signer.ask(codec.encode_certificates(profile, [item]))
    assert isinstance(refused, SigningRefusedError)
    with pytest.raises(SigningRefusedError, match=why):
        raise refused


def test_a_clock_at_which_the_ca_is_not_valid_gives_nothing(signer: Signer) -> None:
    signer.now = ISSUER.not_after + timedelta(seconds=1)
    late = values()._replace(serial=serial_at(signer.now))
    (refused,) = signer.ask(codec.encode_certificates("ota-connect", [late]))
    assert isinstance(refused, SigningRefusedError)
    assert "is valid from" in refused.message


@pytest.mark.parametrize(
    "request_",
    [
        [b"sign", SUB_CA],
        [b"", SUB_CA],
        [SUB_CA],
        [b"0", SUB_CA],
        [codec.PROBE, SUB_CA],
        [codec.CHECKPOINT, SUB_CA],
        [codec.CERTIFICATES],
        [codec.CERTIFICATES, b"ota-connect", SUB_CA],
        [codec.CERTIFICATES, b"\xff"],
        [codec.CERTIFICATES, b"ota-connect", b"", b"", b"", b""],
        [codec.CERTIFICATES, b"ota-connect", bytes(52), b"\xff", SPKI, b""],
        [codec.CERTIFICATES, b"ota-connect", bytes(52), b"device-1", SPKI, b"["],
        [codec.CERTIFICATES, b"named", bytes(52), b"device-1", SPKI, b"[" * 100_000],
        [codec.CERTIFICATES, b"named", bytes(52), b"device-1", SPKI, b"7"],
        [codec.CERTIFICATES, b"named", bytes(52), b"device-1", SPKI, b'[["plant"]]'],
        [codec.CRLS],
        [codec.CRLS, b"", SUB_CA, b""],
        [codec.CRLS, b"", b"[]", b""],
        [codec.CRLS, b"", b'[null, "1", 2, 3]', b""],
        [codec.CHECKPOINT, b"x", b"1", bytes(32)],
        [codec.CHECKPOINT, b"0", b"1_0", bytes(32)],
        [codec.CHECKPOINT, b"0", b"1"],
        [codec.LAST_NUMBERS, b"another"],
        [codec.LAST_NUMBERS],
    ],
)
def test_nothing_else_is_signed(signer: Signer, request_: list[bytes]) -> None:
    answers = list(signer.desk.handle(request_))
    assert not any(answer.startswith(codec.encode_signature(b"")) for answer in answers)
    assert signer.refusals() == max(len(answers), 0)
    assert [line.split()[0] for line in signer.journal()][2:] == ["refused"] * len(answers)


def test_the_probe_is_the_signers_own_line(signer: Signer) -> None:
    (signature,) = signer.ask([codec.PROBE])
    assert isinstance(signature, bytes)
    assert signature_is_valid(ISSUER.public_key, ISSUER.algorithm, signature, PROBE)


def test_a_request_for_no_certificate_gets_no_answer(signer: Signer) -> None:
    assert signer.ask(codec.encode_certificates("ota-connect", []), 0) == []


# CRLs


def test_a_crl_that_continues_the_last_one_is_signed(signer: Signer) -> None:
    for made in (crl(1), crl(2, entry(7)), crl(3, entry(7), entry(9)), crl(3, entry(7), entry(9))):
        (signature,) = sign_crl(signer, made)
        tbs = build(made, ISSUER)
        assert isinstance(signature, bytes)
        assert signature_is_valid(ISSUER.public_key, ISSUER.algorithm, signature, tbs)
        facts = f"{ISSUER.key_identifier.hex()} {made.number} {sha256(tbs).hexdigest()}"
        assert signer.journal()[-1] == f'crl {facts} ""'
    assert signer.refusals() == 0


CRLS = {
    "an empty one": crl(6),
    "one without a revocation": crl(6, entry(9), entry(11)),
    "one with a revocation of later": crl(6, entry(7, at=NOW + MINUTES), entry(9)),
    "one with another reason": crl(6, entry(7, Reason.SUPERSEDED), entry(9)),
    "a lower number": crl(4, entry(7), entry(9)),
    "the same number": crl(5, entry(7), entry(9), entry(11)),
    "the same number and another time": crl(5, entry(7), entry(9), next_update=SECONDS + 60),
    "no number": crl(-1, entry(7), entry(9)),
    "a number without an end": crl(1 << 159, entry(7), entry(9)),
    "the last number that there is": crl((1 << 63) - 1, entry(7), entry(9)),
    "a number far above the last one": crl(6 + (1 << 32), entry(7), entry(9)),
    "one that is valid for too long": crl(6, entry(7), entry(9), next_update=SECONDS + WEEK + 601),
    "one that is not valid any more": crl(6, entry(7), entry(9), next_update=SECONDS),
    "one of yesterday": crl(6, entry(7), entry(9), this_update=SECONDS - 86400),
    "one of tomorrow": crl(6, entry(7), entry(9), this_update=SECONDS + 86400),
    "one of the year 10000": crl(6, entry(7), entry(9), next_update=1 << 48),
    "one with a serial number twice": crl(6, entry(7), entry(9), entry(9)),
    "one with the serial number 0": CrlToSign(
        COMPLETE, 6, SECONDS, SECONDS + 9, encode_entries([entry(7), entry(9)]) + bytes(29)
    ),
    "one with half an entry": crl(6)._replace(entries=LAST.entries + b"\0"),
    "one with a reason that there isn't": crl(6)._replace(entries=LAST.entries + b"\1" * 28 + b"\xff"),
}


@pytest.mark.parametrize("what", CRLS)
def test_a_crl_that_takes_back_what_was_signed_is_refused(signer: Signer, what: str) -> None:
    (signature,) = sign_crl(signer, LAST)
    assert isinstance(signature, bytes)
    (refused,) = sign_crl(signer, CRLS[what])
    assert isinstance(refused, SigningRefusedError)
    assert signer.refusals() == 1
    (signature,) = sign_crl(signer, crl(6, entry(7), entry(9)))  # nothing of it was remembered
    assert isinstance(signature, bytes)


def test_each_scope_has_a_last_crl_of_its_own(signer: Signer) -> None:
    shard = "http://crl.example.com/1.crl"
    for answer in sign_crl(signer, LAST, crl(5, scope=shard), crl(5, scope=AUTHORITIES)):
        assert isinstance(answer, bytes)
    refused, signed = sign_crl(signer, crl(6), crl(6, entry(7), scope=shard))
    assert isinstance(refused, SigningRefusedError)
    assert isinstance(signed, bytes)
    assert isinstance(sign_crl(signer, crl(7, scope=shard))[0], SigningRefusedError)
    far = 5 + (1 << 32)
    assert isinstance(sign_crl(signer, crl(far, entry(7), entry(9)))[0], bytes)
    assert isinstance(sign_crl(signer, crl(far + 1, scope=f"{shard}1"))[0], bytes)  # numbers are the CA's
    assert isinstance(sign_crl(signer, crl(far << 1, scope=f"{shard}2"))[0], SigningRefusedError)


def test_what_was_signed_last_outlives_the_signer_and_is_that_of_all_signers(signer: Signer) -> None:
    sign_crl(signer, LAST)
    signer.restart()
    assert isinstance(sign_crl(signer, crl(6))[0], SigningRefusedError)
    another = Signer(signer.folder)
    assert isinstance(sign_crl(another, crl(6))[0], SigningRefusedError)
    assert isinstance(sign_crl(another, crl(7, entry(7), entry(9)))[0], bytes)
    assert isinstance(sign_crl(signer, crl(6, entry(7), entry(9)))[0], SigningRefusedError)


def test_two_crls_of_one_scope_at_once_are_refused(signer: Signer) -> None:
    answers = list(signer.desk.handle(codec.encode_crls("", [LAST, crl(6)])))
    assert not any(answer.startswith(codec.encode_signature(b"")) for answer in answers)
    assert signer.refusals() == 1


def test_a_ca_that_there_isnt_signs_no_crl(signer: Signer) -> None:
    answers = sign_crl(signer, LAST, crl(1, scope=AUTHORITIES), authority="another")
    assert all(isinstance(answer, SigningRefusedError) for answer in answers)
    assert signer.refusals() == 1


@pytest.mark.parametrize("content", [b"", b"x", b"[]\n", b'["other", 5, 1, 2]\n', b"[" * 100_000])
def test_a_memory_that_is_damaged_is_no_memory_of_nothing(signer: Signer, content: bytes) -> None:
    sign_crl(signer, LAST)
    (path,) = (signer.folder / "last").glob("crl-*")
    path.write_bytes(content)
    (refused,) = sign_crl(signer, crl(6))
    assert isinstance(refused, SigningRefusedError)
    assert f"can't read {path}" in refused.message


SHARD = "http://crl.example.com/1.crl"


@pytest.mark.parametrize(
    "scope",
    [
        "http://CRL.example.com/1.crl",
        "HTTP://crl.example.com/1.crl",
        f"{SHARD}#",
        f"{SHARD}?",
        f"{SHARD}\t",
        f" {SHARD}",
        "http://crl.example.com/%31.crl",
        "http://crl.example.com:80/1.crl ",
        "http://x/\x1b[2J",
        "http://ex\u00e4mple.com/1.crl",
        "\ud800",
        "complete",
        "x" * 300,
    ],
)
def test_a_scope_has_one_name(signer: Signer, scope: str) -> None:
    assert isinstance(sign_crl(signer, crl(5, entry(7), scope=SHARD))[0], bytes)
    (refused,) = sign_crl(signer, crl(6, scope=scope))
    assert isinstance(refused, SigningRefusedError)


def test_what_no_honest_daemon_asks_for_is_refused(signer: Signer) -> None:
    for made in (crl(5, entry(7), scope=AUTHORITIES), crl((1 << 159) - 1), crl(1 << 63), crl(0)):
        assert isinstance(sign_crl(signer, made)[0], SigningRefusedError)
    access = signer.mandate.authorities[""]
    signer.mandate = signer.mandate._replace(authorities={"": access._replace(crl_seconds=0)})
    signer.restart()
    (refused,) = sign_crl(signer, crl(1))
    assert isinstance(refused, SigningRefusedError)
    assert "does not allow its key to sign CRLs" in refused.message


def test_a_daemon_is_told_the_last_number_of_each_scope(signer: Signer) -> None:
    def last() -> dict[str, LastCrl]:
        return codec.decode_last_crls(list(signer.desk.handle(codec.encode_last_numbers(""))))

    assert last() == {}
    sign_crl(signer, LAST, crl(9, scope=SHARD), crl(2, scope=AUTHORITIES))
    assert last() == {COMPLETE: LastCrl(5), SHARD: LastCrl(9), AUTHORITIES: LastCrl(2)}
    restored = Known({}, {ISSUER.key_identifier: [crl(4), crl(12, scope=AUTHORITIES)]})
    Memory(signer.folder).replace(restored, "accepted", signer.folder / "kept")
    assert last() == {
        COMPLETE: LastCrl(5, is_forgotten=True),
        SHARD: LastCrl(9, is_forgotten=True),
        AUTHORITIES: LastCrl(12),
    }
    (path, *_) = (signer.folder / "last").glob("crl-*")
    path.write_bytes(b"x")
    with pytest.raises(SigningRefusedError, match="can't read"):
        last()


# Checkpoints


def test_a_checkpoint_that_continues_the_last_one_is_signed_by_the_key_of_the_log(signer: Signer) -> None:
    for checkpoint, last, proof in ((THREE, 0, ()), (FOUR, 3, PROOF), (FOUR, 4, ()), (FOUR, 4, PROOF)):
        signature = sign_checkpoint(signer, checkpoint, proof, last)
        assert isinstance(signature, bytes)
        VERIFIER.verify(checkpoint.encode(), signature)
        assert not signature_is_valid(ISSUER.public_key, ISSUER.algorithm, signature, checkpoint.encode())
        assert signer.journal()[-1] == (
            f"checkpoint {checkpoint.size} {checkpoint.root.hex()} {VERIFIER.name}"
        )


def test_a_daemon_that_thinks_of_another_last_one_is_told_which_it_was(signer: Signer) -> None:
    assert sign_checkpoint(signer, FOUR, PROOF, 3) == NO_CHECKPOINT
    assert isinstance(sign_checkpoint(signer, THREE), bytes)
    for last in (0, 2, 4):
        assert sign_checkpoint(signer, FOUR, PROOF, last) == (3, THREE.root)
    assert signer.refusals() == 0


FORKED = Checkpoint(VERIFIER.name, 4, root_of([*LEAVES[:2], LEAVES[3], LEAVES[2]]))
CHECKPOINTS: dict[str, tuple[Checkpoint, Sequence[bytes]]] = {
    "a smaller tree": (Checkpoint(VERIFIER.name, 2, root_of(LEAVES[:2])), []),
    "an empty tree": (Checkpoint(VERIFIER.name, 0, sha256().digest()), []),
    "another tree of the size": (Checkpoint(VERIFIER.name, 3, root_of(LEAVES[1:])), []),
    "another tree that is larger": (FORKED, PROOF),
    "one without a proof": (FOUR, []),
    "one with a proof that is too short": (FOUR, PROOF[:2]),
    "one with a proof that is too long": (FOUR, [*PROOF, bytes(32)]),
    "one with a proof of no hashes": (FOUR, [b"x", b"y", b"z"]),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_checkpoint_of_another_tree_is_refused(signer: Signer, what: str) -> None:
    assert isinstance(sign_checkpoint(signer, THREE), bytes)
    signer.restart()
    refused = sign_checkpoint(signer, *CHECKPOINTS[what], last=3)
    assert isinstance(refused, SigningRefusedError)
    assert signer.refusals() == 1
    assert isinstance(sign_checkpoint(signer, FOUR, PROOF, 3), bytes)


@pytest.mark.parametrize("content", [b"", b"[]", b'[3, "00"]', b'["3", "00"]', b"[" * 100_000])
def test_a_last_checkpoint_that_is_damaged_is_not_none(signer: Signer, content: bytes) -> None:
    sign_checkpoint(signer, THREE)
    (path,) = (signer.folder / "last").glob("checkpoint-*")
    path.write_bytes(content)
    refused = sign_checkpoint(signer, FOUR)
    assert isinstance(refused, SigningRefusedError)
    assert "can't read" in refused.message


@pytest.mark.parametrize("file", ["begun-*", "checkpoint-*"])
def test_a_part_of_what_was_signed_last_that_is_gone_is_not_nothing(signer: Signer, file: str) -> None:
    sign_checkpoint(signer, THREE)
    for path in (signer.folder / "last").glob(file):
        path.unlink()
    assert isinstance(sign_checkpoint(signer, THREE), SigningRefusedError)
    assert isinstance(sign_checkpoint(signer, FOUR, PROOF, 3), SigningRefusedError)


# A machine that knows nothing


def test_a_machine_that_knows_nothing_signs_certificates_and_neither_crls_nor_checkpoints(
    signer: Signer,
) -> None:
    shutil.rmtree(signer.folder / "last")
    signer.restart()
    for refused in (*sign_crl(signer, crl(1)), sign_checkpoint(signer, THREE)):
        assert isinstance(refused, SigningRefusedError)
        assert "don't know which" in refused.message
        assert "`otahsm ledger join`" in refused.hint
        assert "`otahsm ledger init-key`" in refused.hint
    assert signer.refusals() == 2
    with pytest.raises(SigningRefusedError, match="don't know which CRLs"):
        codec.decode_last_crls(list(signer.desk.handle(codec.encode_last_numbers(""))))
    (signature,) = signer.ask(codec.encode_certificates("ota-connect", [values()]))
    assert isinstance(signature, bytes)
    (signature,) = signer.ask([codec.PROBE])
    assert isinstance(signature, bytes)
    assert list((signer.folder / "last").iterdir()) == []


def test_what_is_known_of_one_ca_or_log_says_nothing_of_another(signer: Signer) -> None:
    other = VerifierKey.from_spki("example.com/log", SPKI)
    assert signer.mandate.checkpoint is not None
    log = signer.mandate.checkpoint._replace(verifier_key=other)
    authority = signer.mandate.authorities[""]._replace(issuer=issuer_of("ec-p384"))
    signer.mandate = signer.mandate._replace(checkpoint=log, authorities={"": authority}, profiles={})
    signer.restart()
    (refused,) = sign_crl(signer, crl(1))
    assert isinstance(refused, SigningRefusedError)
    assert issuer_of("ec-p384").key_identifier.hex() in refused.message
    refused_too = sign_checkpoint(signer, THREE)
    assert isinstance(refused_too, SigningRefusedError)
    assert other.vkey in refused_too.message


@pytest.mark.parametrize("content", [b"", b"[]", b'["another", ""]', b"[" * 100_000])
def test_a_damaged_word_of_the_operator_is_none(signer: Signer, content: bytes) -> None:
    for path in (signer.folder / "last").glob("begun-*"):
        path.write_bytes(content)
    for refused in (*sign_crl(signer, crl(1)), sign_checkpoint(signer, THREE)):
        assert isinstance(refused, SigningRefusedError)
        assert "can't read" in refused.message


def test_without_a_log_no_checkpoint_is_signed(signer: Signer) -> None:
    signer.mandate = signer.mandate._replace(checkpoint=None)
    signer.restart()
    assert isinstance(sign_checkpoint(signer, THREE), SigningRefusedError)
