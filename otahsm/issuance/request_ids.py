"""Request ids: chosen by the client, or derived from the request (I3)."""

from __future__ import annotations

import hashlib

from otahsm.issuance.values import IssuanceRequest
from otahsm.pki.certificate import Binding
from otahsm.pki.csr import derive_request_id


def own_name(request: IssuanceRequest) -> str:
    """Return the request id if the client chose it; "" if there is none, or it was derived."""
    derived = request.request_id and request.request_id == derive_request_id(request.profile, request.csr)
    return "" if derived else request.request_id


def request_id_of(request: IssuanceRequest, profile: str, binding: Binding) -> str:
    """Return the client's request id, or else one derived from profile, device id and key."""
    if request.request_id:
        return request.request_id
    named = f"{profile}\0{binding.device_id}\0".encode()
    return hashlib.sha256(named + hashlib.sha256(binding.spki).digest()).hexdigest()
