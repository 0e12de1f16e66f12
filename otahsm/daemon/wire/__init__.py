"""The wire's messages, read into values and written from them. No rules: those are of the rooms below."""

from otahsm.daemon.wire.issuance import IssuerChain, request_of, write_certificate, write_result
from otahsm.daemon.wire.messages import read_message

__all__ = ["IssuerChain", "read_message", "request_of", "write_certificate", "write_result"]
