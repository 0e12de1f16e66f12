"""Signed notes as specified in c2sp.org/signed-note: a text, an empty line, and signature lines.

The signature is over the octets of the text, including its last newline. It is made elsewhere; this module
returns what to sign, and assembles the note. A key is given as a verifier key string (vkey):

    <name>+<key id in hex>+<base64 of the signature type and the public key>

Two signature types are supported. For the second one, the specification only refers to transparency-dev's
implementation, which we follow: SHA-256, signature in DER, key in the vkey as SubjectPublicKeyInfo.

| type | algorithm                  | public key           | key id is the first 4 octets of the SHA-256 of  |
| ---- | -------------------------- | -------------------- | ----------------------------------------------- |
| 0x01 | Ed25519                    | 32 octets (RFC 8032) | name, newline, type, public key                 |
| 0x02 | ECDSA P-256 with SHA-256   | SPKI in DER          | public key, without name and type               |
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

# The limits of Go's reference implementation; a verifier must accept at least 16 signatures.
MAX_NOTE_BYTES: Final = 1_000_000
MAX_SIGNATURES: Final = 100

_KEY_ID_BYTES: Final = 4
_P256_SPKI_BYTES: Final = 91
_DASH: Final = "\N{EM DASH} "
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")  # all below U+0020 except the newline
_VKEY: Final = re.compile(r"([^+]+)\+([0-9a-f]{8})\+(.+)", re.DOTALL)


class SignatureType(IntEnum):
    """The signature types of c2sp.org/signed-note that otahsm supports."""

    ED25519 = 0x01
    ECDSA_P256_SHA256 = 0x02


class NoteSignature(NamedTuple):
    """One signature line: the name and id of the key, and the signature as encoded by its type."""

    name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """A parsed note, not verified."""

    text: bytes
    signatures: tuple[NoteSignature, ...]


class OpenedNote(NamedTuple):
    """The text of a note, and the trusted keys that signed it, at least one."""

    text: bytes
    signers: tuple[VerifierKey, ...]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The name and public key of a signer, for verifiers.

    Args:
        name: without spaces and plus signs; the specification recommends a URL without its scheme.
        signature_type: the type of its signatures.
        public_key: encoded as required by the signature type.

    Raises:
        EvidenceError: the name is invalid, or the key is not of this type.
    """

    name: str
    signature_type: SignatureType
    public_key: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        _verifier(self.signature_type, self.public_key)

    @classmethod
    def from_spki(cls, name: str, spki: bytes) -> VerifierKey:
        """Return the key of a SubjectPublicKeyInfo in DER, Ed25519 or P-256. Raises EvidenceError."""
        key = _load(spki)
        if isinstance(key, ed25519.Ed25519PublicKey):
            return cls(name, SignatureType.ED25519, key.public_bytes_raw())
        return cls(name, SignatureType.ECDSA_P256_SHA256, spki)

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """Parse a verifier key string. Raises EvidenceError."""
        match = _VKEY.fullmatch(vkey)
        if match is None:
            raise EvidenceError("Invalid verifier key: it must be a name, a key id and a key, joined by +.")
        encoded = decode_base64(match[3])
        if encoded[0] not in list(SignatureType):
            raise EvidenceError(
                f"A verifier key has the signature type {encoded[0]:#04x}, which otahsm does not support."
            )
        key = cls(match[1], SignatureType(encoded[0]), encoded[1:])
        if key.key_id.hex() != match[2]:
            raise EvidenceError("A verifier key has the id of another key: it was changed or truncated.")
        return key

    @property
    def key_id(self) -> bytes:
        """The 4 octets that identify the key in a signature line. They don't authenticate it."""
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
                f"The signature of {self.name} is not valid: the signature or the text was changed."
            ) from None


def text_to_sign(text: str) -> bytes:
    """Return the octets to sign for a note with this text.

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
    """Assemble a note.

    Args:
        text: the result of `text_to_sign`.
        key: the key of the signature.
        signature: over the text; DER for ECDSA, raw for Ed25519.

    Raises:
        EvidenceError: the signature or the text is not valid.
    """
    text_to_sign(_decode(text))
    key.verify(text, signature)
    line = f"{_DASH}{key.name} {encode_base64(key.key_id + signature)}\n"
    return text + b"\n" + line.encode()


def parse_note(note: bytes) -> Note:
    """Parse a note without verifying it.

    Raises:
        EvidenceError: it does not follow the specification, or exceeds MAX_NOTE_BYTES or MAX_SIGNATURES.
    """
    if len(note) > MAX_NOTE_BYTES:
        raise EvidenceError(f"A note has {len(note)} octets; {MAX_NOTE_BYTES} is the limit.")
    # The last empty line separates them: the text may contain others.
    text, empty_line, lines = _decode(note).rpartition("\n\n")
    if not empty_line or not lines.endswith("\n"):
        raise EvidenceError("A note has no signature lines, or the last one is truncated.")
    if lines.count("\n") > MAX_SIGNATURES:
        raise EvidenceError(f"A note has more than {MAX_SIGNATURES} signatures.")
    # Not `splitlines`, here and elsewhere: it also splits at U+2028 and others.
    signatures = tuple(_parse_signature(line) for line in lines[:-1].split("\n"))
    return Note(text_to_sign(text + "\n"), signatures)


def open_note(note: bytes, *keys: VerifierKey) -> OpenedNote:
    """Verify a note with trusted keys.

    Signatures of other keys are ignored, as specified: a note may have those of witnesses, or of a newer key.

    Raises:
        EvidenceError: none of the keys signed it, or a signature by one of them is not valid.
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
        raise EvidenceError("Invalid signature line in a note.")
    _check_name(name)
    octets = decode_base64(encoded)
    if len(octets) <= _KEY_ID_BYTES:
        raise EvidenceError("A signature of a note is truncated.")
    return NoteSignature(name, octets[:_KEY_ID_BYTES], octets[_KEY_ID_BYTES:])


def _check_name(name: str) -> None:
    """Refuse names that are empty, or contain a Unicode space, a plus sign, or a control character."""
    if not name or "+" in name or any(character.isspace() for character in name):
        raise EvidenceError("The name of a key is empty, or has a space or a plus sign.")
    text_to_sign(name + "\n")


def _decode(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise EvidenceError("A note is not UTF-8.") from None


def _load(spki: bytes) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey:
    """Load a key of one of the two types, in the canonical encoding that hashes to its key id."""
    try:
        # Larger keys are not even parsed.
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
    """Return a verifier of (signature, text), which raises InvalidSignature. Raises EvidenceError."""
    if signature_type is SignatureType.ED25519:
        try:
            return ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify
        except ValueError:
            raise EvidenceError("An Ed25519 key is not 32 octets.") from None
    key = _load(public_key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        raise EvidenceError("The key is an Ed25519 key, not a P-256 key.")
    return lambda signature, text: key.verify(signature, text, ec.ECDSA(SHA256()))
