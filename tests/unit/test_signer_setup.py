"""What a daemon tells a signer crosses the pipe unchanged; at a socket it is not believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from otahsm.config import KeyConfig, ReplicaConfig
from otahsm.errors import ConfigError
from otahsm.pkcs11_names import Pkcs11Uri
from otahsm.pki.keytypes.family import encode_spki
from otahsm.token.setup import TokenKey, decode_setup, encode_setup
from otahsm.token.signer import start_at_socket

from support.attacks.forging import key_of

TOKEN = ReplicaConfig(
    uri=Pkcs11Uri(token="fleet ä", module_path="/lib/hsm.so", pin_source="|/bin/pin 'a b'"),
    guard_dir=Path("/var/lib/otahsm/login"),
    environment={"HSM_CONF": "/etc/hsm;x=ä"},
    sessions=3,
)
KEYS = [
    TokenKey(KeyConfig(key=Pkcs11Uri(object="root", id=b"\x01")), key_of("ec-p256").public_key()),
    TokenKey(
        KeyConfig(
            key=Pkcs11Uri(object="pss"),
            mechanism="CKM_RSA_PKCS_PSS",
            accept=frozenset({"not-local", "extractable"}),
        ),
        key_of("rsa-2048").public_key(),
    ),
]


def test_what_a_signer_is_told_comes_back_as_it_was() -> None:
    token, keys = decode_setup(encode_setup(TOKEN, KEYS))
    assert (token.uri, token.guard_dir, token.environment, token.sessions) == (
        TOKEN.uri,
        TOKEN.guard_dir,
        TOKEN.environment,
        3,
    )
    told = [(key.access.key, key.access.mechanism, key.access.accept, key.public_key) for key in keys]
    assert told == [(key.access.key, key.access.mechanism, key.access.accept, key.public_key) for key in KEYS]


@pytest.mark.parametrize(
    "setup",
    [
        [b"1", b"the key", encode_spki(KEYS[0].public_key)],
        [b"x", b"the key", encode_spki(KEYS[0].public_key)],
        [b"0", b"another key", encode_spki(KEYS[0].public_key)],
        [b"0", b"\xff", encode_spki(KEYS[0].public_key)],
        [b"0", b"the key", b"no key"],
        [b"0", b"the key", encode_spki(KEYS[0].public_key), b"the key"],
    ],
)
def test_at_a_socket_only_what_the_signers_know_is_opened(setup: list[bytes]) -> None:
    with pytest.raises(ConfigError, match="does not name"):
        start_at_socket([TOKEN], {"the key": KEYS[0].access}, setup)
