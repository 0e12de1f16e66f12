"""Signed notes as c2sp.org/signed-note specifies them: a text, an empty line, and lines with signatures.

What is signed are the octets of the text, its last newline included. Signatures are made elsewhere: here is
what to sign, and how text and signature become a note. A key is given as a verifier key string (vkey):

    <name>+<key id in hex>+<base64 of the signature type and the public key>

Two signature types are known. Where the specification only names transparency-dev's implementation for the
second one, we follow that: SHA-256, signature in DER, key in the vkey as SubjectPublicKeyInfo.

| type | algorithm                  | public key           | key id is the first 4 octets of the SHA-256 of  |
| ---- | -------------------------- | -------------------- | ----------------------------------------------- |
| 0x01 | Ed25519                    | 32 octets (RFC 8032) | name, newline, type, public key                 |
| 0x02 | ECDSA P-256 with SHA-256   | SPKI in DER          | public key: neither name nor type is in it      |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from otahsm.errors import EvidenceError
from otahsm.tlog.encoding import decode_base64, encode_base64

MAX_NOTE_BYTES: Final = 1_000_000  # both limits are those of Go's reference implementation; far more than
MAX_SIGNATURES: Final = 100  # the 16 signatures that a verifier must accept

_KEY_ID_BYTES: Final = 4
_P256_SPKI_BYTES: Final = 91
_DASH: Final = "\N{EM DASH} "
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")  # all below U+0020 but the newline
_VKEY: Final = re.compile(r"([^+]+)\+([0-9a-f]{8})\+(.+)", re.DOTALL)


class SignatureType(IntEnum):
    """The signature types of c2sp.org/signed-note that otahsm handles."""

    ED25519 = 0x01
    ECDSA_P256_SHA256 = 0x02


class NoteSignature(NamedTuple):
    """One signature line: who is said to have signed, and the signature as its type encodes it."""

    name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """A note as parsed: nothing of it is verified."""

    text: bytes
    signatures: tuple[NoteSignature, ...]


class OpenedNote(NamedTuple):
    """A note's text, and the known keys that signed it: at least one."""

    text: bytes
    signers: tuple[VerifierKey, ...]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A name and a public key: what a verifier must know of a signer.

    Args:
        name: the signer's, without spaces and plus signs; the specification advises a URL without its scheme.
        signature_type: how it signs.
        public_key: encoded as the signature type wants it.

    Raises:
        EvidenceError: the name can't be a key's, or the key is not one of this type.
    """

    name: str
    signature_type: SignatureType
    public_key: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        _verifier(self.signature_type, self.public_key)

    @classmethod
    def from_spki(cls, name: str, spki: bytes) -> VerifierKey:
        """Make one from a SubjectPublicKeyInfo in DER, Ed25519 or P-256. Raises EvidenceError."""
        key = _load(spki)
        if isinstance(key, ed25519.Ed25519PublicKey):
            return cls(name, SignatureType.ED25519, key.public_bytes_raw())
        return cls(name, SignatureType.ECDSA_P256_SHA256, spki)

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """Parse a verifier key string. Raises EvidenceError."""
        match = _VKEY.fullmatch(vkey)
        if match is None:
            raise EvidenceError(
                "What should be a verifier key is not: it is name, key id and key, joined by +."
            )
        encoded = decode_base64(match[3])
        if encoded[0] not in list(SignatureType):
            raise EvidenceError(
                f"A verifier key has the signature type {encoded[0]:#04x}, which otahsm does not know."
            )
        key = cls(match[1], SignatureType(encoded[0]), encoded[1:])
        if key.key_id.hex() != match[2]:
            raise EvidenceError("A verifier key has the id of another key: it was changed or cut off.")
        return key

    @property
    def key_id(self) -> bytes:
        """The 4 octets that a signature line names the key by. They identify; they prove nothing."""
        hashed = self.public_key
        if self.signature_type is SignatureType.ED25519:
            hashed = self.name.encode() + b"\n" + bytes((self.signature_type,)) + hashed
        return sha256(hashed).digest()[:_KEY_ID_BYTES]

    @property
    def vkey(self) -> str:
        """The verifier key string."""
        key = encode_base64(bytes((self.signature_type,)) + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{key}"

    def verify(self, text: bytes, signature: bytes) -> None:
        """Verify a signature, DER for ECDSA and raw for Ed25519, over a text. Raises EvidenceError."""
        try:
            _verifier(self.signature_type, self.public_key)(signature, text)
        except InvalidSignature:
            raise EvidenceError(
                f"The signature of {self.name} is not valid: it or the text was changed."
            ) from None


def text_to_sign(text: str) -> bytes:
    """Return the octets that a key has to sign for a note with this text.

    Raises:
        EvidenceError: the text does not end in a newline, or has other control characters or lone surrogates.
    """
    if not text.endswith("\n"):
        raise EvidenceError("The text of a note does not end in a newline.")
    if _CONTROL.search(text):
        raise EvidenceError("The text of a note has a control character.")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EvidenceError("The text of a note can't be encoded in UTF-8.") from None


def assemble(text: bytes, key: VerifierKey, signature: bytes) -> bytes:
    """Make a note.

    Args:
        text: what `text_to_sign` returned.
        key: whose signature it is.
        signature: over the text; DER for ECDSA, raw for Ed25519.

    Raises:
        EvidenceError: the signature is not valid, or the text can't be a note's.
    """
    text_to_sign(_decode(text))
    key.verify(text, signature)
    line = f"{_DASH}{key.name} {encode_base64(key.key_id + signature)}\n"
    return text + b"\n" + line.encode()


def parse_note(note: bytes) -> Note:
    """Take a note apart without verifying anything.

    Raises:
        EvidenceError: it is not exactly as specified, or exceeds MAX_NOTE_BYTES or MAX_SIGNATURES.
    """
    if len(note) > MAX_NOTE_BYTES:
        raise EvidenceError(f"A note has {len(note)} octets; {MAX_NOTE_BYTES} is the limit.")
    # The last empty line divides: a text may have some of its own.
    text, empty_line, lines = _decode(note).rpartition("\n\n")
    if not empty_line or not lines.endswith("\n"):
        raise EvidenceError("A note has no signature lines, or the last one is cut off.")
    if lines.count("\n") > MAX_SIGNATURES:
        raise EvidenceError(f"A note has more than {MAX_SIGNATURES} signatures.")
    # Not `splitlines`, here and elsewhere: it takes U+2028 and others for the end of a line.
    signatures = tuple(_parse_signature(line) for line in lines[:-1].split("\n"))
    return Note(text_to_sign(text + "\n"), signatures)


def open_note(note: bytes, *keys: VerifierKey) -> OpenedNote:
    """Verify a note with the keys that one trusts.

    Signatures of others are ignored, as they must be: a note may carry those of witnesses, or of a newer key.

    Raises:
        EvidenceError: none of the keys signed it, or a signature that names one of them is not valid.
    """
    known = {(key.name, key.key_id): key for key in keys}
    if len(known) < len(set(keys)):
        raise EvidenceError("Two of the trusted keys have the same name and key id.")
    text, signatures = parse_note(note)
    signers: dict[VerifierKey, None] = {}
    for name, key_id, signature in signatures:
        key = known.get((name, key_id))
        if key is not None:
            key.verify(text, signature)
            signers[key] = None
    if not signers:
        raise EvidenceError("None of the trusted keys signed the note.")
    return OpenedNote(text, tuple(signers))


def _parse_signature(line: str) -> NoteSignature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH):
        raise EvidenceError("A line among the signatures of a note is none.")
    _check_name(name)
    octets = decode_base64(encoded)
    if len(octets) <= _KEY_ID_BYTES:
        raise EvidenceError("A signature of a note is cut off.")
    return NoteSignature(name, octets[:_KEY_ID_BYTES], octets[_KEY_ID_BYTES:])


def _check_name(name: str) -> None:
    """Refuse names that are empty, or have a Unicode space, a plus sign, or what no note can have."""
    if not name or "+" in name or any(character.isspace() for character in name):
        raise EvidenceError("The name of a key is empty, or has a space or a plus sign.")
    text_to_sign(name + "\n")


def _decode(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise EvidenceError("A note is not UTF-8.") from None


def _load(spki: bytes) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey:
    """Load a key of one of the two types, in the one encoding that hashes to its key id."""
    try:
        # No larger key is even parsed.
        key = load_der_public_key(spki) if len(spki) <= _P256_SPKI_BYTES else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    match key:
        case ed25519.Ed25519PublicKey() | ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki:
                return key
        case _:
            pass
    raise EvidenceError("A public key is neither Ed25519 nor P-256, or is not in plain DER.")


def _verifier(signature_type: SignatureType, public_key: bytes) -> Callable[[bytes, bytes], None]:
    """Return what verifies (signature, text), or raises InvalidSignature. EvidenceError: no such key."""
    if signature_type is SignatureType.ED25519:
        try:
            return ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify
        except ValueError:
            raise EvidenceError("An Ed25519 key is not 32 octets.") from None
    key = _load(public_key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        raise EvidenceError("What should be a P-256 key is an Ed25519 key.")
    return lambda signature, text: key.verify(signature, text, ec.ECDSA(SHA256()))
