"""What a daemon tells a signer crosses the pipe unchanged; at a socket it is not believed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from otahsm.config import KeyConfig, ReplicaConfig
from otahsm.errors import ConfigError
from otahsm.pkcs11_names import Pkcs11Uri
from otahsm.pki.chain import load_issuer
from otahsm.pki.crls.distribution import CrlLocation
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import Profile
from otahsm.tlog import VerifierKey
from otahsm.token.setup import (
    AuthorityMandate,
    CheckpointMandate,
    KeyAccess,
    Mandate,
    ProfileMandate,
    TokenKey,
    decode_key,
    decode_token,
    encode_key,
    encode_token,
)
from otahsm.token.signer import start_at_socket

from support.attacks.forging import key_of
from support.authority import issuer_of

TOKEN = ReplicaConfig(
    uri=Pkcs11Uri(token="fleet ä", module_path="/lib/hsm.so", pin_source="|/bin/pin 'a b'"),
    guard_dir=Path("/var/lib/otahsm/login"),
    environment={"HSM_CONF": "/etc/hsm;x=ä"},
    sessions=3,
)
ROOT = KeyConfig(key=Pkcs11Uri(object="root", id=b"\x01"))
PSS = KeyConfig(
    key=Pkcs11Uri(object="pss"),
    mechanism="CKM_RSA_PKCS_PSS",
    accept=frozenset({"not-local", "extractable"}),
)
LOG = KeyConfig(key=Pkcs11Uri(object="log"))
VERIFIER = VerifierKey.from_spki("example.com/log", encode_spki(key_of("ec-p256").public_key()))
MANDATE = Mandate(
    {
        "": AuthorityMandate(ROOT, issuer_of("ec-p256"), 7 * 86400),
        "next": AuthorityMandate(PSS, load_issuer(issuer_of("rsa-2048").certificate, pss=True), 3600),
    },
    {
        "ota-connect": ProfileMandate("", Profile(), CrlLocation("http://crl.example.com/{shard}.crl", 4)),
        "ä": ProfileMandate("next", Profile(extended_key_usage=("server_auth",)), None),
    },
    CheckpointMandate(LOG, VERIFIER),
    Path("/var/lib/otahsm/login/signed"),
)


def facts(access: KeyAccess) -> object:
    return access.key, access.mechanism, access.accept


def test_a_token_comes_back_as_it_was() -> None:
    token = decode_token(encode_token(TOKEN))
    assert (token.uri, token.guard_dir, token.environment, token.sessions) == (
        TOKEN.uri,
        TOKEN.guard_dir,
        TOKEN.environment,
        3,
    )


def test_a_key_comes_back_as_it_was() -> None:
    key = decode_key(*encode_key(TokenKey(PSS, key_of("rsa-2048").public_key())))
    assert facts(key.access) == facts(PSS)
    assert key.public_key == key_of("rsa-2048").public_key()


@pytest.mark.parametrize("checkpoint", [MANDATE.checkpoint, None], ids=["a log", "no log"])
def test_a_mandate_comes_back_as_it_was(checkpoint: CheckpointMandate | None) -> None:
    mandate = MANDATE._replace(checkpoint=checkpoint)
    again = Mandate.decode(mandate.encode())
    assert again.profiles == mandate.profiles
    assert again.folder == mandate.folder
    assert list(again.authorities) == ["", "next"]
    for name, authority in mandate.authorities.items():
        assert again.authorities[name][1:] == authority[1:]
        assert facts(again.authorities[name].access) == facts(authority.access)
    assert (again.checkpoint and again.checkpoint.verifier_key) == (checkpoint and VERIFIER)
    assert len(again.keys) == (3 if checkpoint else 2)
    assert again.digest == mandate.digest


OTHERS = {
    "another key": MANDATE._replace(
        authorities={**MANDATE.authorities, "": MANDATE.authorities[""]._replace(access=LOG)}
    ),
    "another issuer": MANDATE._replace(
        authorities={
            **MANDATE.authorities,
            "": MANDATE.authorities[""]._replace(
                issuer=dataclasses.replace(issuer_of("ec-p256"), subject_text="CN=another")
            ),
        }
    ),
    "longer CRLs": MANDATE._replace(
        authorities={**MANDATE.authorities, "": MANDATE.authorities[""]._replace(crl_seconds=8 * 86400)}
    ),
    "a profile less": MANDATE._replace(profiles={"ä": MANDATE.profiles["ä"]}),
    "another profile": MANDATE._replace(
        profiles={
            **MANDATE.profiles,
            "ä": MANDATE.profiles["ä"]._replace(
                profile=Profile(key_usage=frozenset({"key_agreement"}), extended_key_usage=("server_auth",))
            ),
        }
    ),
    "another CA for a profile": MANDATE._replace(
        profiles={**MANDATE.profiles, "ä": MANDATE.profiles["ä"]._replace(authority="")}
    ),
    "other CRLs": MANDATE._replace(
        profiles={
            **MANDATE.profiles,
            "ota-connect": MANDATE.profiles["ota-connect"]._replace(
                crls=CrlLocation("http://crl.example.com/{shard}.crl", 5)
            ),
        }
    ),
    "another log": MANDATE._replace(
        checkpoint=CheckpointMandate(LOG, VerifierKey.from_spki("example.com/other", VERIFIER.public_key))
    ),
    "no log": MANDATE._replace(checkpoint=None),
}


@pytest.mark.parametrize("other", OTHERS)
def test_at_a_socket_a_daemon_with_another_configuration_is_refused(other: str) -> None:
    with pytest.raises(ConfigError, match="different configurations"):
        start_at_socket([TOKEN], MANDATE, [b"0", OTHERS[other].digest])


@pytest.mark.parametrize("number", [b"1", b"x", b"-1", b"", b"\xb2"])
def test_at_a_socket_there_are_the_signers_own_tokens_alone(number: bytes) -> None:
    with pytest.raises(ConfigError, match="different configurations"):
        start_at_socket([TOKEN], MANDATE, [number, MANDATE.digest])


@pytest.mark.parametrize("setup", [[], [b"0"], [b"0", MANDATE.digest, b""]])
def test_at_a_socket_what_is_no_setup_is_refused(setup: list[bytes]) -> None:
    with pytest.raises(ConfigError, match="different configurations"):
        start_at_socket([TOKEN], MANDATE, setup)


def test_where_the_signers_write_is_their_own_business() -> None:
    assert MANDATE._replace(folder=Path("/elsewhere")).digest == MANDATE.digest
