"""What requests are called: by their clients, and by what they ask for (I3)."""

from __future__ import annotations

import hashlib

from otahsm.issuance.values import IssuanceRequest
from otahsm.pki import derive_request_id
from otahsm.preparation import Draft


def own_name(request: IssuanceRequest) -> str:
    """Return the request id if the client chose it; "" if there is none, or it only says what is asked."""
    derived = request.request_id and request.request_id == derive_request_id(request.profile, request.csr)
    return "" if derived else request.request_id


def request_id_of(request: IssuanceRequest, profile: str, draft: Draft) -> str:
    """Return the client's request id, or the one that profile, device id and key stand for."""
    if request.request_id:
        return request.request_id
    named = f"{profile}\0{draft.device_id}\0".encode()
    return hashlib.sha256(named + draft.spki_sha256).hexdigest()
