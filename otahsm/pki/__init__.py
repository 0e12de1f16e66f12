"""X.509 as pure functions: bytes in, bytes out. No clock, no I/O, no token, no database."""

from otahsm.pki.algorithms import (
    SIGNATURE_ALGORITHMS,
    PublicKey,
    SignatureAlgorithm,
    key_type_of,
    signature_is_valid,
)
from otahsm.pki.certificate import (
    Validity,
    assemble,
    build_tbs,
    serial_from_random,
    serial_octets,
    validity_at,
    validity_of,
)
from otahsm.pki.chain import Chain, Issuer, load_chain, load_issuer
from otahsm.pki.csr import MAX_CSR_BYTES, CheckedCsr, check_csr
from otahsm.pki.describe import Description, describe
from otahsm.pki.keys import encode_spki
from otahsm.pki.names import check_device_id
from otahsm.pki.request import assemble_request, build_request_info
from otahsm.pki.root import RootKind, build_root_tbs

__all__ = [
    "MAX_CSR_BYTES",
    "SIGNATURE_ALGORITHMS",
    "Chain",
    "CheckedCsr",
    "Description",
    "Issuer",
    "PublicKey",
    "RootKind",
    "SignatureAlgorithm",
    "Validity",
    "assemble",
    "assemble_request",
    "build_request_info",
    "build_root_tbs",
    "build_tbs",
    "check_csr",
    "check_device_id",
    "describe",
    "encode_spki",
    "key_type_of",
    "load_chain",
    "load_issuer",
    "serial_from_random",
    "serial_octets",
    "signature_is_valid",
    "validity_at",
    "validity_of",
]
