"""Conversions between protobuf messages and values, without business logic."""

from otahsm.daemon.wire.issuance import IssuerChain, request_of, write_certificate, write_result
from otahsm.daemon.wire.messages import read_message

__all__ = ["IssuerChain", "read_message", "request_of", "write_certificate", "write_result"]
