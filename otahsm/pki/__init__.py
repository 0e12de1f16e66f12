"""X.509 as pure functions: bytes in, bytes out. No clock, no I/O, no token, no database."""

from otahsm.pki.anchor import (
    Anchor,
    ancestors,
    choose_anchor,
    dates_of,
    describe_left_out,
    fingerprint_text,
    is_root,
    is_valid,
    issuer_of,
    load_certificates,
    name_of,
)
from otahsm.pki.bundle import find_chain_problems, order_bundle
from otahsm.pki.certificate import Validity, assemble, build_tbs, validity_at, validity_of
from otahsm.pki.chain import Chain, Issuer, check_signs_crls, load_chain, load_issuer, signed
from otahsm.pki.crl import (
    CrlDescription,
    Reason,
    RevokedCertificate,
    build_tbs_crl,
    check_crl_signature,
    describe_crl,
)
from otahsm.pki.csr import MAX_CSR_BYTES, CheckedCsr, check_csr, derive_request_id
from otahsm.pki.der import PARSE_ERRORS
from otahsm.pki.descriptions import Description, describe
from otahsm.pki.distribution import SHARD, CrlLocation, crl_url_in
from otahsm.pki.keys import load_public_key
from otahsm.pki.keytypes import (
    ALL_ALGORITHMS,
    FAMILIES,
    SIGNATURE_ALGORITHMS,
    KeyType,
    MechanismName,
    PrivateKey,
    PublicKey,
    describe_key,
    family_of,
    family_of_type,
    generate_key,
    is_private_key,
    is_pss,
    key_type_of,
    sign,
    signature_algorithm,
    signature_is_valid,
)
from otahsm.pki.keytypes.family import KeyFamily, SignatureAlgorithm, TokenMechanism, encode_spki
from otahsm.pki.keytypes.rsa import PSS_SALT_BYTES
from otahsm.pki.names import check_device_id
from otahsm.pki.pkcs12 import load_p12_authorities
from otahsm.pki.profile import DEFAULT_DEVICE_ID, CsrExtras, ExtendedKeyUsage, KeyUsage, Profile
from otahsm.pki.request import build_ca_request_info, build_request_info
from otahsm.pki.root import RootKind, build_possession_tbs, build_root_tbs
from otahsm.pki.serial import SERIAL_BYTES, SERIAL_RANDOM_BYTES, SerialNumber, first_key, make_serial
from otahsm.pki.subject import SubjectKind, SubjectPart, SubjectTemplate
from otahsm.pki.template import TbsTemplate

__all__ = [
    "ALL_ALGORITHMS",
    "DEFAULT_DEVICE_ID",
    "FAMILIES",
    "MAX_CSR_BYTES",
    "PARSE_ERRORS",
    "PSS_SALT_BYTES",
    "SERIAL_BYTES",
    "SERIAL_RANDOM_BYTES",
    "SHARD",
    "SIGNATURE_ALGORITHMS",
    "Anchor",
    "Chain",
    "CheckedCsr",
    "CrlDescription",
    "CrlLocation",
    "CsrExtras",
    "Description",
    "ExtendedKeyUsage",
    "Issuer",
    "KeyFamily",
    "KeyType",
    "KeyUsage",
    "MechanismName",
    "PrivateKey",
    "Profile",
    "PublicKey",
    "Reason",
    "RevokedCertificate",
    "RootKind",
    "SerialNumber",
    "SignatureAlgorithm",
    "SubjectKind",
    "SubjectPart",
    "SubjectTemplate",
    "TbsTemplate",
    "TokenMechanism",
    "Validity",
    "ancestors",
    "assemble",
    "build_ca_request_info",
    "build_possession_tbs",
    "build_request_info",
    "build_root_tbs",
    "build_tbs",
    "build_tbs_crl",
    "check_crl_signature",
    "check_csr",
    "check_device_id",
    "check_signs_crls",
    "choose_anchor",
    "crl_url_in",
    "dates_of",
    "derive_request_id",
    "describe",
    "describe_crl",
    "describe_key",
    "describe_left_out",
    "encode_spki",
    "family_of",
    "family_of_type",
    "find_chain_problems",
    "fingerprint_text",
    "first_key",
    "generate_key",
    "is_private_key",
    "is_pss",
    "is_root",
    "is_valid",
    "issuer_of",
    "key_type_of",
    "load_certificates",
    "load_chain",
    "load_issuer",
    "load_p12_authorities",
    "load_public_key",
    "make_serial",
    "name_of",
    "order_bundle",
    "sign",
    "signature_algorithm",
    "signature_is_valid",
    "signed",
    "validity_at",
    "validity_of",
]
