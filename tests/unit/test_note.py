"""Notes are signed, parsed and verified as c2sp.org/signed-note says, and as others' programs do.

The vectors are from Go's golang.org/x/mod/sumdb/note (note_test.go, BSD-3-Clause), and from
github.com/transparency-dev/formats (note/note_verifier_test.go, Apache-2.0), which took them from logs in
use: Sigstore's Rekor and that of the Pixel firmware.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from otahsm.errors import EvidenceError
from otahsm.tlog import SignatureType, VerifierKey, assemble, open_note, parse_note, text_to_sign
from otahsm.tlog.note import MAX_NOTE_BYTES, MAX_SIGNATURES

from support.transparency import SigningKey, sign, spki_of

PETER_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH_VKEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6Ryy"
    "BwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc"
    "+QQ=\n"
)
PETER, ENOCH = VerifierKey.parse(PETER_VKEY), VerifierKey.parse(ENOCH_VKEY)

REKOR_VKEY = (
    "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBc"
    "K5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc="
)
REKOR_NOTE = (
    "Rekor\n798034\nf+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=\n\n"
    "— rekor.sigstore.dev wNI9ajBEAiARInWIWyCdyG27CO6LPnPekyw20qO0YJfoaPaowGp/XgIgc+qEHS3+GKVClgqq20uD"
    "Let7MCoTURUCRdxwWBHHufk=\n"
)
PIXEL_VKEY = (
    "pixel6_transparency_log+91c16e30+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABN+4x0Jk1yTwvLFI9A4NDdGZ"
    "cX0aiWVdWM5XJVy0M4VWD3AvyW5Q6Hs9A0mcDkpUoYgn+KKPNzFC0H3nN3q6JQ8="
)
PIXEL_NOTE = (
    "DEFAULT\n10\nbsWRucJU5xJPHb5eBdOm6+DM+VelCZBuvtI3sHERJ9Y=\n\n"
    "— pixel6_transparency_log kcFuMDBFAiEAhqMAP8P6qf6QxtUJhzMhbN+MbZ9dwfUHzGQJmffJHtoCIGD0cNe47dHWBoPw"
    "YdgBCepB06/+g5O1FmYjXl06owL4\n"
)
ECDSA_NOTES = [(REKOR_VKEY, REKOR_NOTE), (PIXEL_VKEY, PIXEL_NOTE)]

P256_KEY = ec.generate_private_key(ec.SECP256R1())
ED25519_KEY = ed25519.Ed25519PrivateKey.generate()
KEYS: list[SigningKey] = [ED25519_KEY, P256_KEY]
names = st.text(min_size=1).filter(
    lambda name: (
        not any(each.isspace() or each == "+" or each < " " or "\ud800" <= each <= "\udfff" for each in name)
    )
)


def note_of(*lines: str, text: str = TEXT) -> bytes:
    return (text + "\n" + "".join(lines)).encode()


def flipped(octets: bytes) -> list[bytes]:
    number = int.from_bytes(octets, "big")
    return [(number ^ 1 << bit).to_bytes(len(octets), "big") for bit in range(len(octets) * 8)]


def vkey_of(name: str, signature_type: int, key: bytes, key_id: bytes | None = None) -> str:
    """A verifier key string with whatever is given; the key id is Ed25519's unless given."""
    encoded = bytes((signature_type,)) + key
    key_id = sha256(name.encode() + b"\n" + encoded).digest()[:4] if key_id is None else key_id
    return f"{name}+{key_id.hex()}+{b64encode(encoded).decode()}"


@pytest.mark.parametrize("vkey", [PETER_VKEY, ENOCH_VKEY, REKOR_VKEY, PIXEL_VKEY])
def test_published_verifier_keys_are_read_and_written(vkey: str) -> None:
    key = VerifierKey.parse(vkey)
    assert key.vkey == vkey
    assert f"{key.name}+{key.key_id.hex()}+" == vkey[: len(key.name) + 10]


def test_a_published_key_signs_the_published_note() -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(b64decode(PETER_SEED)[1:])
    text = text_to_sign(TEXT)
    assert VerifierKey.from_spki("PeterNeumann", spki_of(key)) == PETER
    assert assemble(text, PETER, key.sign(text)) == note_of(PETER_LINE)


@pytest.mark.parametrize(("vkey", "note"), ECDSA_NOTES)
def test_published_notes_with_ecdsa_are_verified(vkey: str, note: str) -> None:
    key = VerifierKey.parse(vkey)
    assert key.signature_type is SignatureType.ECDSA_P256_SHA256
    text, signers = open_note(note.encode(), key)
    assert text.decode() == note.partition("\n\n")[0] + "\n"
    assert signers == (key,)
    name, key_id, signature = parse_note(note.encode()).signatures[0]
    assert (name, key_id) == (key.name, key.key_id)
    assert VerifierKey.from_spki(name, key.public_key) == key
    renamed = VerifierKey.from_spki("bananas.sigstore.dev", key.public_key)
    for trusted, octets in (
        (renamed, note.encode()),
        (key, note.replace("\n", "\nadded\n", 1).encode()),
        (key, note.replace("/", "A").encode()),
    ):
        with pytest.raises(EvidenceError):
            open_note(octets, trusted)
    for wrong in flipped(signature):
        with pytest.raises(EvidenceError, match="not valid"):
            key.verify(text, wrong)


def test_signatures_of_unknown_keys_are_ignored() -> None:
    both = note_of(PETER_LINE, ENOCH_LINE)
    assert open_note(both, PETER) == (TEXT.encode(), (PETER,))
    assert open_note(both, ENOCH) == (TEXT.encode(), (ENOCH,))
    assert open_note(both, ENOCH, PETER) == (TEXT.encode(), (PETER, ENOCH))
    assert open_note(note_of(PETER_LINE, PETER_LINE, ENOCH_LINE), PETER).signers == (PETER,)


def test_a_note_that_no_trusted_key_signed_is_refused() -> None:
    for keys in ((), (ENOCH,)):
        with pytest.raises(EvidenceError, match="None of the trusted keys"):
            open_note(note_of(PETER_LINE), *keys)
    with pytest.raises(EvidenceError, match="None of the trusted keys"):
        open_note(note_of(PETER_LINE.replace("PeterNeumann", "CarmenSandiego")), PETER)
    with pytest.raises(EvidenceError, match="None of the trusted keys"):
        open_note(note_of(PETER_LINE.replace("x08g", "xxxx")), PETER)


def test_one_invalid_signature_of_a_trusted_key_spoils_the_note() -> None:
    broken = ENOCH_LINE[:60] + "ABCD" + ENOCH_LINE[60:]
    assert open_note(note_of(PETER_LINE, broken), PETER).signers == (PETER,)
    for lines in ((PETER_LINE, broken), (broken, PETER_LINE), (PETER_LINE, ENOCH_LINE, broken)):
        with pytest.raises(EvidenceError, match="EnochRoot is not valid"):
            open_note(note_of(*lines), PETER, ENOCH)


def test_every_bit_of_a_note_counts() -> None:
    for wrong in flipped(note_of(PETER_LINE)):
        with pytest.raises(EvidenceError):
            open_note(wrong, PETER)


def test_trusted_keys_that_can_not_be_told_apart_are_refused() -> None:
    twin = VerifierKey.from_spki("log", spki_of(ec.generate_private_key(ec.SECP256R1())))
    assert open_note(note_of(PETER_LINE), PETER, PETER, twin).signers == (PETER,)
    collision = _Colliding("PeterNeumann", ENOCH.signature_type, ENOCH.public_key)
    with pytest.raises(EvidenceError, match="same name and key id"):
        open_note(note_of(PETER_LINE), PETER, collision)


class _Colliding(VerifierKey):
    """Stands for a key that somebody computed until its id, of 32 bits only, was Peter's."""

    __slots__ = ()

    @property
    def key_id(self) -> bytes:
        return PETER.key_id


@pytest.mark.parametrize("key", KEYS)
@settings(deadline=None)
@given(names, st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"])), st.integers(0, 3))
def test_what_is_signed_is_what_is_read(key: SigningKey, name: str, line: str, empty_lines: int) -> None:
    verifier = VerifierKey.from_spki(name, spki_of(key))
    assert VerifierKey.parse(verifier.vkey) == verifier
    text = text_to_sign(
        "\n" * empty_lines + line + "\n" + "\n" * empty_lines + line + "\n" * (1 + empty_lines)
    )
    note = assemble(text, verifier, sign(key, text))
    assert open_note(note, verifier) == (text, (verifier,))


def test_key_ids_are_as_the_specification_says() -> None:
    raw = ED25519_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    for name in ("ota.example/log", "other.example"):
        key = VerifierKey.from_spki(name, spki_of(ED25519_KEY))
        assert key.key_id == sha256(name.encode() + b"\n\x01" + raw).digest()[:4]
        key = VerifierKey.from_spki(name, spki_of(P256_KEY))
        assert key.key_id == sha256(spki_of(P256_KEY)).digest()[:4]


def test_no_part_of_a_verifier_key_is_one() -> None:
    for vkey in (PETER_VKEY, REKOR_VKEY):
        for start in range(len(vkey)):
            for end in range(start + 1, len(vkey) + 1):
                if end - start < len(vkey):
                    _refuse_unless_it_is_another_name(vkey, vkey[start:end])
        for at, character in enumerate(vkey):
            _refuse_unless_it_is_another_name(vkey, vkey[:at] + chr(ord(character) + 1) + vkey[at + 1 :])


def _refuse_unless_it_is_another_name(vkey: str, mangled: str) -> None:
    """Refuse everything, but that the id of an ECDSA key doesn't bind the name."""
    if (
        vkey == REKOR_VKEY
        and mangled.partition("+")[2] == vkey.partition("+")[2]
        and not mangled.startswith("+")
    ):
        assert VerifierKey.parse(mangled).name == mangled.partition("+")[0]
        return
    with pytest.raises(EvidenceError):
        VerifierKey.parse(mangled)


P256 = spki_of(P256_KEY)
COMPRESSED = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
COMPRESSED += P256_KEY.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
OFF_CURVE = P256[:-1] + bytes((P256[-1] ^ 1,))
HOSTILE_VKEYS = {
    "nothing": "",
    "only separators": "++",
    "an empty name": vkey_of("", 1, bytes(32)),
    "a space in the name": vkey_of("a b", 1, bytes(32)),
    "a line separator in the name": vkey_of("a\u2028b", 1, bytes(32)),
    "a newline in the name": vkey_of("a\nb", 1, bytes(32)),
    "a control character in the name": vkey_of("a\x00b", 1, bytes(32)),
    "a lone surrogate in the name": "a\ud800+00000000+" + b64encode(b"\x01" + bytes(32)).decode(),
    "capitals in the key id": PETER_VKEY.replace("c74f20a3", "C74F20A3"),
    "a short key id": PETER_VKEY.replace("c74f20a3", "c74f20a"),
    "another key id": PETER_VKEY.replace("c74f20a3", "c74f20a4"),
    "a newline after it": PETER_VKEY + "\n",
    "an Ed25519 key that is too long": (
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY=="
    ),
    "an unknown signature type": "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    "a witness's key": vkey_of("w", 4, bytes(32)),
    "no key": vkey_of("a", 1, b""),
    "the id of the other signature type": vkey_of("a", 2, P256),
    "an Ed25519 SPKI as ECDSA": vkey_of(
        "a", 2, spki_of(ED25519_KEY), sha256(spki_of(ED25519_KEY)).digest()[:4]
    ),
    "a compressed point": vkey_of("a", 2, COMPRESSED, sha256(COMPRESSED).digest()[:4]),
    "something after the SPKI": vkey_of("a", 2, P256 + b"\0", sha256(P256 + b"\0").digest()[:4]),
    "a point off the curve": vkey_of("a", 2, OFF_CURVE, sha256(OFF_CURVE).digest()[:4]),
    "a megabyte": "a" * 1_000_000,
}


@pytest.mark.parametrize("vkey", HOSTILE_VKEYS.values(), ids=HOSTILE_VKEYS.keys())
def test_hostile_verifier_keys_are_refused(vkey: str) -> None:
    with pytest.raises(EvidenceError):
        VerifierKey.parse(vkey)


def test_only_keys_of_the_two_types_can_sign_notes() -> None:
    for other in (
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        rsa.generate_private_key(65537, 2048).public_key(),
    ):
        with pytest.raises(EvidenceError, match="neither Ed25519 nor P-256"):
            VerifierKey.from_spki("log", other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    for octets in (b"", bytes(91), bytes(1_000_000)):
        with pytest.raises(EvidenceError, match="neither Ed25519 nor P-256"):
            VerifierKey.from_spki("log", octets)


HOSTILE_NOTES = {
    "nothing": b"",
    "no signatures": TEXT.encode(),
    "no signature lines": note_of(),
    "only an empty line": b"\n\n",
    "no text": ("\n" + PETER_LINE).encode(),
    "no last newline": note_of(PETER_LINE)[:-1],
    "no empty line": (TEXT + PETER_LINE).encode(),
    "a control character": b"\x01" + note_of(PETER_LINE),
    "a carriage return": note_of(PETER_LINE).replace(b"\n", b"\r\n"),
    "a tab": note_of(PETER_LINE, text="a\tb\n"),
    "not UTF-8": b"\xff" + note_of(PETER_LINE),
    "a surrogate in UTF-8": b"\xed\xa0\x80" + note_of(PETER_LINE),
    "a space in the name": note_of(PETER_LINE.replace("PeterNeumann", "Bad Name")),
    "no name": note_of(PETER_LINE.replace("PeterNeumann", "")),
    "a plus sign in the name": note_of(PETER_LINE.replace("PeterNeumann", "a+b")),
    "a wide space in the name": note_of(PETER_LINE.replace("PeterNeumann", "a\u3000b")),
    "a line that is no signature": note_of(PETER_LINE, "Unexpected line.\n"),
    "a line separator between signatures": note_of(PETER_LINE[:-1] + "\u2028" + ENOCH_LINE),
    "a line before the signatures": note_of("Unexpected line.\n", PETER_LINE),
    "an empty line after the signatures": note_of(PETER_LINE, "\n"),
    "a hyphen": note_of(PETER_LINE.replace("—", "-")),
    "two spaces": note_of(PETER_LINE.replace("— ", "—  ")),
    "a space at the end": note_of(PETER_LINE.replace("\n", " \n")),
    "no signature in the line": note_of("— PeterNeumann\n"),
    "an empty signature": note_of("— PeterNeumann \n"),
    "a key id alone": note_of("— PeterNeumann x08gow==\n"),
    "no base64": note_of("— PeterNeumann !!!!\n"),
    "base64 for URLs": note_of(PETER_LINE.replace("/", "_")),
    "base64 without padding": note_of(PETER_LINE.replace("=", "")),
    "base64 with bits left over": note_of(PETER_LINE.replace("nAM=", "nAN=")),
    "digits that are not ASCII": note_of(PETER_LINE.replace("9", "٩")),
    "too many signatures": note_of(*[PETER_LINE] * (MAX_SIGNATURES + 1)),
    "too long": note_of(PETER_LINE, text="a" * MAX_NOTE_BYTES + "\n"),
}


@pytest.mark.parametrize("note", HOSTILE_NOTES.values(), ids=HOSTILE_NOTES.keys())
def test_hostile_notes_are_refused(note: bytes) -> None:
    for read in (parse_note, lambda octets: open_note(octets, PETER)):
        with pytest.raises(EvidenceError):
            read(note)


def test_as_many_signatures_as_the_limit_are_read() -> None:
    assert len(parse_note(note_of(*[PETER_LINE] * MAX_SIGNATURES)).signatures) == MAX_SIGNATURES


def test_a_line_separator_ends_no_line() -> None:
    text = "a\u2028b\x85c\n"
    key = VerifierKey.from_spki("log", spki_of(ED25519_KEY))
    octets = text_to_sign(text)
    assert open_note(assemble(octets, key, sign(ED25519_KEY, octets)), key).text == octets


@settings(deadline=None)
@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
def test_any_octets_are_a_note_or_an_evidence_error(octets: bytes) -> None:
    for note in (octets, note_of(PETER_LINE) + octets, TEXT.encode() + b"\n" + octets):
        try:
            text, signatures = parse_note(note)
        except EvidenceError:
            continue
        lines = [f"— {each.name} {b64encode(each.key_id + each.signature).decode()}\n" for each in signatures]
        assert text + b"\n" + "".join(lines).encode() == note


@settings(deadline=None)
@given(st.text(), st.text())
def test_any_text_is_a_verifier_key_or_an_evidence_error(text: str, more: str) -> None:
    for vkey in (text, f"{text}+c74f20a3+{more}", PETER_VKEY.replace("PeterNeumann", text)):
        try:
            key = VerifierKey.parse(vkey)
        except EvidenceError:
            continue
        assert key.vkey == vkey


@pytest.mark.parametrize("text", ["", "a", "a\n\tb\n", "\x00\n", "a\r\n", "\ud800\n", "a\x1f\n"])
def test_what_no_note_can_say_is_not_signed(text: str) -> None:
    with pytest.raises(EvidenceError, match="text of a note"):
        text_to_sign(text)


def test_no_note_is_made_with_a_signature_that_is_not_valid() -> None:
    key = VerifierKey.from_spki("log", spki_of(P256_KEY))
    for signature in (b"", bytes(64), sign(P256_KEY, b"another\n"), sign(P256_KEY, b"text")):
        with pytest.raises(EvidenceError, match="not valid"):
            assemble(b"text\n", key, signature)
    for text in (b"text", b"te\txt\n", b"\xff\n"):
        with pytest.raises(EvidenceError, match="note"):
            assemble(text, key, sign(P256_KEY, text))
