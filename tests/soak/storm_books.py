"""What must be true after a storm, whatever was killed; read from outside, and from what the token signed.

That every serial number which was signed is accounted for is proven by the token: the shim before it
(tests/support/tokens/shim.c) writes down what it is asked to sign before the token is. The CA's key here is
Ed25519, because PKCS#11 makes such a signature of the message itself (CKM_EDDSA), and not of a digest of it
(CKM_ECDSA): so the shim's log has each TBSCertificate and each TBSCertList, also those that a kill kept from
everybody. The key of checkpoints is on P-256 as always: there the log has a SHA-256. All of it must be

- a TBSCertificate, whose serial number and digest are those of exactly one intent, recorded or void;
- a TBSCertList, of a CRL number that was taken, with all that is on the lists of lower numbers;
- the digest of a checkpoint of a tree that today's tree begins with;
- the probe, or its digest;
- or the TBSCertificate of the root.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography import x509

from otahsm.pki.certificate import assemble
from otahsm.pki.chain import load_chain
from otahsm.pki.issuer import Issuer
from otahsm.tlog import Checkpoint, CompactTree
from otahsm.token.setup import PROBE

from soak.storm_clients import StormClients
from support.harness import Fleet
from support.ledger_reader import (
    Row,
    act_count,
    event_count,
    key_of,
    last_crl_number,
    leaf_hashes,
    revocations,
    rows,
    url_count,
    verified,
)
from support.tokens.faulty import FaultyToken

_PROBES = (PROBE, sha256(PROBE).digest())
_NO_SIGNATURE = bytes(64)


@dataclass
class Books:
    """What was checked; see `balance`.

    Attributes:
        signatures: how many the token was asked for, by what was signed.
        unsigned: how many serial numbers were intended and never signed.
        leaves: of the tree, all of them verified.
    """

    devices: int = 0
    answers: int = 0
    revoked: int = 0
    unsigned: int = 0
    leaves: int = 0
    signatures: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.signatures.items()))
        return (
            f"{self.devices} devices, each with the one certificate that the ledger has\n"
            f"{self.answers} certificates received by clients that remember them, each in the ledger\n"
            f"{self.revoked} revocations acknowledged, each in the ledger and on the CRL\n"
            f"{self.signatures.total()} signatures that the token was asked for: {kinds}\n"
            f"{self.unsigned} serial numbers intended and void, and never signed\n"
            f"{self.leaves} leaves verified"
        )


def balance(token: FaultyToken, folders: Mapping[str, bytes], clients: StormClients) -> Books:
    """Check the books when all is quiet.

    Args:
        token: what the daemons signed with; they are stopped.
        folders: the certificates that are in device folders, by device.
        clients: what other clients received.
    """
    fleet, books = token.fleet, Books()
    everything = rows(fleet)
    issued = {row.device_id: row.certificate for row in everything if row.certificate is not None}
    # Each device has one certificate, and it is the one that its folder has, or its client, byte for byte.
    assert len(issued) == sum(row.certificate is not None for row in everything)
    received = {**folders, **clients.certificates}
    wrong = {device for device in issued.keys() | received if issued.get(device) != received.get(device)}
    assert not wrong, f"the ledger has not what these devices have: {wrong}"
    books.devices, books.answers = len(issued), clients.answers
    # Every serial that may have been signed was released, or is void.
    assert len({row.serial for row in everything}) == len(everything)
    assert all((row.certificate is None) == (row.void_reason is not None) for row in everything)
    books.revoked = _check_revocations(fleet, clients)
    _check_signatures(token, everything, books)
    # And the tree over all of it is what the rows give.
    verdict = verified(fleet)
    assert verdict.good, verdict.findings
    others = event_count(fleet) + url_count(fleet) + act_count(fleet)
    assert verdict.leaves + verdict.waiting == len(everything) + len(revocations(fleet)) + others
    books.leaves = verdict.leaves
    return books


def _check_revocations(fleet: Fleet, clients: StormClients) -> int:
    """Check that all that were acknowledged are there as was said, and on the CRL."""
    revoked = revocations(fleet)
    lost = clients.revoked.items() - revoked.items()
    assert not lost, f"these were said to be revoked: {lost}"
    assert revoked.keys() <= clients.to_revoke.keys()
    issuer = _issuer(fleet)
    crl = x509.load_der_x509_crl(clients.crl)
    assert crl.is_signature_valid(issuer.public_key)
    assert {item.serial_number for item in crl} == revoked.keys()
    return len(clients.revoked)


def _check_signatures(token: FaultyToken, everything: list[Row], books: Books) -> None:
    """Return what each signature was for; fail if one was for something else."""
    issuer = _issuer(token.fleet)
    root = x509.load_der_x509_certificate(issuer.certificate)
    intended = {row.tbs_sha256: row for row in everything}
    assert len(intended) == len(everything)
    checkpoints = _checkpoint_digests(token.fleet)
    signed: set[int] = set()
    lists: dict[int, bytes] = {}
    for message in token.signed():
        row = intended.get(sha256(message).digest())
        if row is not None:
            books.signatures["recorded" if row.certificate else "void"] += 1
            if row.serial not in signed:
                _check_certificate(row, message, issuer, root)
            signed.add(row.serial)
        elif message in _PROBES:
            books.signatures["probes"] += 1
        elif message == root.tbs_certificate_bytes:
            books.signatures["root"] += 1
        elif message in checkpoints:
            books.signatures["checkpoints"] += 1
        else:
            books.signatures["CRLs"] += 1
            number = _crl_number(message, issuer)
            assert lists.setdefault(number, message) == message, f"two CRLs have the number {number}"
    # What was recorded was signed by this token.
    unknown = {row.serial for row in everything if row.certificate} - signed
    assert not unknown, f"the token signed no certificate with these serial numbers: {unknown}"
    books.unsigned = sum(row.serial not in signed for row in everything)
    _check_lists(token.fleet, issuer, lists)


def _check_certificate(row: Row, tbs: bytes, issuer: Issuer, root: x509.Certificate) -> None:
    if row.certificate is None:
        certificate = x509.load_der_x509_certificate(assemble(tbs, issuer.algorithm, _NO_SIGNATURE))
    else:
        certificate = x509.load_der_x509_certificate(row.certificate)
        certificate.verify_directly_issued_by(root)
    assert certificate.tbs_certificate_bytes == tbs
    assert certificate.serial_number == row.serial


def _checkpoint_digests(fleet: Fleet) -> set[bytes]:
    """Return the digests of the checkpoints of all trees that today's tree begins with."""
    origin, tree, digests = key_of(fleet).name, CompactTree(), set()
    for hashed in leaf_hashes(fleet):
        tree, _ = tree.extend([hashed])
        digests.add(sha256(Checkpoint(origin, tree.size, tree.root).encode()).digest())
    return digests


def _crl_number(tbs: bytes, issuer: Issuer) -> int:
    crl = _load_crl(tbs, issuer)
    number: int = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return number


def _load_crl(tbs: bytes, issuer: Issuer) -> x509.CertificateRevocationList:
    try:
        return x509.load_der_x509_crl(assemble(tbs, issuer.algorithm, _NO_SIGNATURE))
    except ValueError:
        raise AssertionError(f"the token signed what the ledger does not know: {tbs.hex()}") from None


def _check_lists(fleet: Fleet, issuer: Issuer, lists: dict[int, bytes]) -> None:
    """Check that a CRL has all that is on those with lower numbers, and that it lists what is revoked."""
    assert max(lists, default=0) <= last_crl_number(fleet)
    revoked, before = set(revocations(fleet)), set[int]()
    for _, tbs in sorted(lists.items()):
        listed = {item.serial_number for item in _load_crl(tbs, issuer)}
        assert before <= listed <= revoked
        before = listed


def _issuer(fleet: Fleet) -> Issuer:
    return load_chain(fleet.root_pem.read_bytes()).issuer
