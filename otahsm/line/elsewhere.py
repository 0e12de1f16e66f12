"""Devices of a run whose certificates were issued elsewhere, for other keys than those that are here.

What the daemon says of them is proven, or not believed: a key that is thrown away can't be had again.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from cryptography import x509

from otahsm.client.checking import CertificateChecker
from otahsm.client.client import Client
from otahsm.client.ledger import LedgerClient, LedgerEntry, Query
from otahsm.errors import NotFoundError, RequestRefusedError
from otahsm.line.csr_files import public_key_sha256
from otahsm.line.folders import DeviceFolders
from otahsm.line.run import Run
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.parsing import PARSE_ERRORS
from otahsm.pki.serial import SerialNumber

_PAGE: Final = 500


async def leave_out_others(client: Client, run: Run, folders: DeviceFolders, batch: str) -> None:
    """Record as done what another machine was faster with in a batch, and discard the keys made for it here.

    It has a certificate of the device for another key, which leads to a root that this run accepts. Devices
    that are not in the run are never touched.

    Args:
        client: connected to the daemon.
        run: the run.
        folders: where its keys are.
        batch: the name of the batch.

    Raises:
        OtahsmError: the daemon can't be reached, or the folders can't be used.
    """
    anchors = client.issuance.told_anchors or run.anchors((await client.issuance.authority()).anchors)
    proofs = _Proofs(CertificateChecker(anchors), client.ledger)
    token, is_first = "", True
    while token or is_first:
        entries, token = await client.ledger.page(Query(batch=batch), token, size=_PAGE, full=True)
        is_first = False
        waiting = run.unsettled([entry.device_id for entry in entries])
        elsewhere: dict[str, SerialNumber] = {}
        for entry in entries:
            if entry.device_id in waiting and not folders.is_complete(entry.device_id):
                leaf = await proofs.leaf_of(entry)
                if leaf is not None and not _is_ours(folders, entry.device_id, leaf):
                    folders.discard(entry.device_id)
                    elsewhere[entry.device_id] = SerialNumber(leaf.serial_number)
        run.record_elsewhere(elsewhere)


class _Proofs:
    """Finds the chain of each certificate: there are few, and the daemon is asked for each once."""

    def __init__(self, checker: CertificateChecker, ledger: LedgerClient) -> None:
        self._checker = checker
        self._ledger = ledger
        self._known: dict[tuple[bytes, ...], None] = {(): None}  # what may be above a certificate

    async def leaf_of(self, entry: LedgerEntry) -> x509.Certificate | None:
        """Return the certificate of an entry; None if the entry has none, or it is not proven."""
        if not entry.certificate:
            return None
        for above in self._known:
            if leaf := self._checker.leaf_of(entry.device_id, (entry.certificate, *above)):
                return leaf
        try:
            _, chain = await self._ledger.by_serial(entry.serial)
        except NotFoundError:
            return None
        leaf = self._checker.leaf_of(entry.device_id, (entry.certificate, *chain[1:]))
        if leaf:
            self._known[chain[1:]] = None
        return leaf


def _is_ours(folders: DeviceFolders, device_id: str, leaf: x509.Certificate) -> bool:
    """Return whether a certificate is for a key that is here."""
    try:
        csr = folders.saved_csr(device_id)
        key = csr and public_key_sha256(csr)
    except (RequestRefusedError, *PARSE_ERRORS):
        return True  # issuing reports it when its turn comes
    return key == sha256(encode_spki(leaf.public_key())).digest()
