"""Conversions of messages about issuance."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from otahsm.authority import Authorities, Caller, IssuanceRequest, Issued, Outcome
from otahsm.errors.status import to_status
from otahsm.v1 import issuance_pb2 as pb


def request_of(request: pb.CertificateRequest, caller: Caller) -> IssuanceRequest:
    """Return a request from a message."""
    attributes = tuple(request.attributes.items())
    names = (request.request_id, request.profile, request.device_id)
    return IssuanceRequest(caller, *names, request.csr, request.batch, attributes)


class IssuerChain(NamedTuple):
    """The intermediates of a CA, and its trust anchor if it is not that of [ca]."""

    intermediates: tuple[bytes, ...]
    other_anchor: bytes

    @classmethod
    def of(cls, authorities: Authorities) -> dict[str, IssuerChain]:
        """Return the chains of all CAs, by name."""
        usual = authorities.by_name[""].chain.trust_anchor
        return {
            name: cls(
                item.chain.intermediates,
                b"" if item.chain.trust_anchor == usual else item.chain.trust_anchor,
            )
            for name, item in authorities.by_name.items()
        }


def write_result(
    result: pb.IssueResult, request_id: str, outcome: Outcome, above: Mapping[str, IssuerChain]
) -> None:
    """Write an outcome to a result."""
    result.request_id = request_id
    if isinstance(outcome, Issued):
        write_certificate(result.certificate, outcome, above)
    else:
        result.error.CopyFrom(to_status(outcome))


def write_certificate(
    certificate: pb.IssuedCertificate, issued: Issued, above: Mapping[str, IssuerChain]
) -> None:
    """Write a certificate and its chain, field by field, since a constructor takes four times as long."""
    certificate.device_id = issued.device_id
    certificate.serial_number = issued.serial.octets
    certificate.chain.append(issued.certificate)
    intermediates, other_anchor = above[issued.authority]
    certificate.chain.extend(intermediates)
    if other_anchor:
        certificate.trust_anchor = other_anchor
    certificate.not_before_time.seconds = _seconds(issued.validity.not_before)
    certificate.not_after_time.seconds = _seconds(issued.validity.not_after)
    certificate.replayed = issued.replayed


@lru_cache(maxsize=64)
def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
