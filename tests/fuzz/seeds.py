"""Writes the files that fuzzing starts from; what fuzzing added to them stays.

PYTHONPATH=tests python tests/fuzz/seeds.py [TARGET...]

They need not be made again unless a format changes: keys and signatures are other ones each time.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.authority import START, Filter
from otahsm.daemon.wire.paging import page_token
from otahsm.line import make_csr
from otahsm.pki.keytypes.family import encode_spki
from otahsm.tlog import VerifierKey
from otahsm.tlog.encoding import encode_base64
from otahsm.v1 import (
    audit_pb2,
    batch_pb2,
    device_pb2,
    issuance_pb2,
    ledger_pb2,
    revocation_pb2,
    transparency_pb2,
)

from fuzz.archives import NOW, SECRET
from fuzz.csrs import EC_KEY, ED25519_KEY
from fuzz.evidence import LEAVES, LOG
from fuzz.targets import CORPUS
from fuzz.text_seeds import Seeds, config, device_list, policy, uri
from support.attacks.forging import (
    EXTENSION_REQUEST,
    MS_EXTENSION_REQUEST,
    ORGANIZATION,
    attribute,
    key_of,
    named,
    request_info,
    wish,
)
from support.attacks.forging import subject as name_of
from support.attacks.hostile import (
    ALT_NAME,
    CA_FALSE,
    CA_TRUE,
    CERT_SIGN,
    CLIENT_AUTH,
    HOSTILE,
    KEY_USAGE,
    SERVER_AUTH,
)
from support.authority import KEY_TYPES
from support.gateways import Signer, authority, p12
from support.transparency import sign, spki_of

_DAY: Final = timedelta(days=1)
_BIRTH, _END = NOW - 900 * _DAY, NOW + 20_000 * _DAY
_HOSTILE: Final = (
    "bytes: BER with an indefinite length",
    "signature: SHA-1",
    "key: RSA with the ROCA fingerprint",
    "key: RSA with close primes",
    "key: EC on secp256k1",
    "key: a compressed point",
    "key: Ed25519's neutral point",
    "subject: a BMPString",
    "subject: two common names in one RDN",
)


def csr() -> Seeds:
    good: dict[str, bytes] = {
        key_type: make_csr(f"device-{key_type}", key_of(key_type)) for key_type in KEY_TYPES
    }
    return {**good, **{_file_name(name): HOSTILE[name].build() for name in _HOSTILE}}


def csr_signed() -> Seeds:
    keys = {"ec": encode_spki(EC_KEY.public_key()), "ed25519": encode_spki(ED25519_KEY.public_key())}
    names = {
        "plain": named("device-1"),
        "organization": name_of(attribute(b"device-1"), attribute(b"fleet", kind=ORGANIZATION)),
        "printable": named("device-1", 0x13),
    }
    wishes = {
        "nothing": (),
        "what-there-is": (wish(KEY_USAGE, CLIENT_AUTH, CA_FALSE),),
        "ca": (wish(CA_TRUE),),
        "ca-of-microsoft": (wish(CA_TRUE, kind=MS_EXTENSION_REQUEST),),
        "signing": (wish(CERT_SIGN), wish(KEY_USAGE)),
        "server": (wish(SERVER_AUTH, ALT_NAME, kind=EXTENSION_REQUEST),),
    }
    made = {f"{n}-ec": request_info(name, keys["ec"]) for n, name in names.items()}
    return made | {
        f"{w}-ed25519": request_info(names["plain"], keys["ed25519"], *asked) for w, asked in wishes.items()
    }


def template() -> Seeds:
    return {"zeros": bytes(40), "counting": bytes(range(256)), "high": b"\xff" * 120}


def credentials() -> Seeds:
    root = authority("gateway root", _BIRTH, _END)
    device = root.server((), _BIRTH, _END)
    url = {"autoprov.url": b"https://gateway.example:30443"}
    community = {**url, "server_ca.pem": root.pem, "targets.sec": SECRET}
    connect = {**url, "autoprov_credentials.p12": p12(device, root), "treehub.json": SECRET}
    bomb = {**url, "server_ca.pem": bytes(4 << 20)}
    return {
        "community-edition.zip": _zip(community),
        "ota-connect.zip": _zip(connect),
        "old.zip": _zip({"autoprov": b"gateway.example\r\n"}),
        "deflated.zip": _zip(community, zipfile.ZIP_DEFLATED),
        "bomb.zip": _zip(bomb, zipfile.ZIP_DEFLATED),
        "way-up.zip": _zip({"../autoprov.url": b"a"}),
        "empty.zip": _zip({}),
    }


def credentials_entry() -> Seeds:
    root = authority("gateway root", _BIRTH, _END)
    below: Signer = root.authority("gateway intermediate", _BIRTH, _END)
    device = below.server(("gateway.example",), _BIRTH, _END)
    return {
        "url": b"\0https://gateway.example:30443/api/v0",
        "url-of-ipv6": b"\0[2001:db8::7]:443",
        "old-url": b"\x03\xef\xbb\xbfGateway.example.\r\n",
        "root": b"\x01" + root.pem,
        "chain": b"\x01" + device.pem + below.pem + root.pem,
        "p12": b"\x02" + p12(device, root),
        "p12-of-a-chain": b"\x02" + p12(device, below, root),
    }


def order() -> Seeds:
    der = make_csr("device-1", ED25519_KEY)
    one = issuance_pb2.CertificateRequest(
        request_id="r-1",
        profile="ota-connect",
        device_id="device-1",
        csr=der,
        batch="b-1",
        attributes={"plant": "berlin"},
    )
    bare = issuance_pb2.CertificateRequest(csr=make_csr("device-2", EC_KEY))
    return {
        "one": b"\1" + _encoded(issuance_pb2.IssueCertificateRequest(request=one)),
        "bare": b"\1" + _encoded(issuance_pb2.IssueCertificateRequest(request=bare)),
        "several": b"\0" + _encoded(issuance_pb2.IssueCertificatesRequest(requests=[bare, one])),
    }


def question() -> Seeds:
    day = Timestamp(seconds=1_700_000_000, nanos=999_999_999)
    scheme = batch_pb2.IdScheme(
        kind="template",
        value="{plant}-{seq:04d}",
        first_number=1,
        list_sha256=bytes(32),
        values={"plant": "berlin"},
    )
    batch = batch_pb2.Batch(
        name="b-1",
        profile="ota-connect",
        device_count=1000,
        id_scheme=scheme,
        clients=["dns:line-1"],
        deadline_time=day,
    )
    target = revocation_pb2.RevocationTarget
    messages: tuple[tuple[int, Message], ...] = (
        (0, ledger_pb2.ListCertificatesRequest(
            device_id="d", client="c", profile="p", status=ledger_pb2.CERTIFICATE_STATUS_REVOKED, issued_after=day,
            issued_before=day, page_size=10, batch="b-1",
        )),
        (0, ledger_pb2.ListCertificatesRequest(page_token=page_token(Filter(), START))),
        (1, ledger_pb2.GetCertificateRequest(serial_number=b"\0\1\2")),
        (1, ledger_pb2.GetCertificateRequest(device_id="d", profile="p")),
        (2, ledger_pb2.GetLedgerStatsRequest(issued_after=Timestamp(), issued_before=day)),
        (3, revocation_pb2.RevokeCertificatesRequest(
            targets=[target(serial_number=b"\1", reason=revocation_pb2.REVOCATION_REASON_KEY_COMPROMISE), target(device_id="d", profile="p", reason=revocation_pb2.REVOCATION_REASON_SUPERSEDED)]
        )),
        (4, revocation_pb2.GetCrlRequest(shard=2)),
        (4, revocation_pb2.GetCrlRequest(authorities=True)),
        (5, batch_pb2.CreateBatchRequest(batch=batch)),
        (6, batch_pb2.GetBatchRequest(name="b-1")),
        (7, batch_pb2.ListBatchesRequest(page_size=10, page_token="12")),
        (8, device_pb2.ResetDeviceRequest(device_id="d", profile="p")),
        (9, transparency_pb2.GetInclusionProofRequest(serial_number=b"\1")),
        (10, transparency_pb2.GetConsistencyProofRequest(old_size=3)),
        (0, ledger_pb2.ListCertificatesRequest(client="c", newest_first=True)),
        (7, batch_pb2.ListBatchesRequest(page_token="12", newest_first=True)),
        (11, audit_pb2.ListAuditEventsRequest(name="access.", happened_after=day, newest_first=True)),
    )  # fmt: skip
    return {
        f"{number:02}-{type(message).__name__}": bytes((kind,)) + _encoded(message)
        for number, (kind, message) in enumerate(messages)
    }


def page_tokens() -> Seeds:
    return {"zeros": bytes(60), "counting": bytes(range(100)), "ones": b"\1" * 200}


def note() -> Seeds:
    both = LOG.signed(5)
    witness = ec.derive_private_key(7, ec.SECP256R1())
    key = VerifierKey.from_spki("witness.example", spki_of(witness))
    text = LOG.checkpoint(7).encode()
    return {
        "checkpoint": LOG.signed(11),
        "of-a-witness-too": both + both.splitlines(keepends=True)[-1].replace(b"ota", b"wit"),
        "text": b"first\n\nlast\n",
        "cut-off": LOG.signed(3)[:-9],
        "vkey": LOG.verifier.vkey.encode(),
        "vkey-of-ecdsa": key.vkey.encode(),
        "ecdsa": text + b"\n" + _signature_line(key, sign(witness, text)),
    }


def proof() -> Seeds:
    return {
        "inclusion": LOG.inclusion(4, 11).encode(),
        "inclusion-with-a-leaf": LOG.inclusion(0, 1, LEAVES[0]).encode(),
        "consistency": LOG.consistency(3, 11).encode(),
        "consistency-with-nothing": LOG.consistency(0, 7).encode(),
        "consistency-with-itself": LOG.consistency(8, 8).encode(),
        "checkpoint": LOG.checkpoint(6).encode(),
    }


def leaf() -> Seeds:
    return {
        "small": LEAVES[3],
        "several": '{"a":null,"b":-12,"c":"\u00e9\\n\\u0000","d":""}'.encode(),
        "another-order": b'{"b":1,"a":2}',
        "twice": b'{"a":1,"a":1}',
        "deep": b"[" * 200,
    }


def signing() -> Seeds:
    return {
        "certificate": bytes(64),
        "crl": b"\x00\x01" + bytes(64),
        "checkpoint": b"\x00\x02" + bytes(64),
        "probe": b"\x00\x03" + bytes(8),
        "octets": b"\x00\x04\x03\x08certific",
        "several": b"\x03" + bytes(range(256)) * 4,
    }


SEEDS: Final[Mapping[str, Callable[[], Seeds]]] = {
    function.__name__: function
    for function in (
        csr, csr_signed, template, uri, config, policy, device_list, credentials, credentials_entry, order, question,
        page_tokens, signing, note, proof, leaf,
    )
}  # fmt: skip


def main(names: list[str]) -> None:
    """Write the seeds of some targets, or of all."""
    for name in names or SEEDS:
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in SEEDS[name]().items():
            (folder / file).write_bytes(content)


def _zip(entries: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def _encoded(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _signature_line(key: VerifierKey, signature: bytes) -> bytes:
    return f"\N{EM DASH} {key.name} {encode_base64(key.key_id + signature)}\n".encode()


def _file_name(text: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in text.lower())


if __name__ == "__main__":
    main(sys.argv[1:])
