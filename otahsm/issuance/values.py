"""The requests and outcomes of issuance and revocation."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from otahsm.access import Caller
from otahsm.errors import OtahsmError, RequestRefusedError
from otahsm.pki.certificate import Validity
from otahsm.pki.serial import SerialNumber

_MAX_REQUEST_ID: Final = 128


class IssuanceRequest(NamedTuple):
    """One CSR for one device under one profile, from one caller.

    Attributes:
        request_id: the client's id for it; empty to derive one.
        profile: empty for the default profile.
        device_id: what the CSR's common name must be; empty to accept any.
        csr: PKCS#10 in DER, not yet checked.
        batch: the name of the batch to issue in; empty for none.
        attributes: names and values for the profile's subject, not yet checked.
    """

    caller: Caller
    request_id: str
    profile: str
    device_id: str
    csr: bytes
    batch: str = ""
    attributes: tuple[tuple[str, str], ...] = ()

    def check(self) -> None:
        """Check the fields that no preparer checks. Raises RequestRefusedError."""
        printable = self.request_id.isascii() and self.request_id.isprintable() and " " not in self.request_id
        if len(self.request_id) > _MAX_REQUEST_ID or not printable:
            raise RequestRefusedError(
                "request_id",
                f"a request id is at most {_MAX_REQUEST_ID} printable ASCII characters without spaces",
            )


class Issued(NamedTuple):
    """A certificate that is durably in the ledger, and may be released; `authority` is the CA's name."""

    request_id: str
    device_id: str
    serial: SerialNumber
    validity: Validity
    certificate: bytes
    replayed: bool
    authority: str


Outcome: TypeAlias = Issued | OtahsmError
