"""Checks a token for `otahsm doctor`. Main: `python -m otahsm.token.diagnostics CONFIG NUMBER NAME`.

It is a separate process for each token: a module may crash or hang the process that loads it, and two tokens
may need the same module with different environments. It prints a `Check` as JSON on each line, and logs in
once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pkcs11
from pkcs11 import TokenFlag

from otahsm.checks import Check, fail, failed, ok, warning
from otahsm.config import (
    Config,
    KeyConfig,
    ReplicaConfig,
    ca_section,
    load_config,
    load_verifier_key,
    section,
)
from otahsm.errors import OtahsmError
from otahsm.pki.keytypes import PublicKey
from otahsm.pki.keytypes.spki import load_public_key
from otahsm.system.hardening import harden
from otahsm.token.facts import read_facts
from otahsm.token.faults import explain
from otahsm.token.files import read_chain
from otahsm.token.keys import find_private_key
from otahsm.token.mechanisms import signing_mechanisms
from otahsm.token.opening import get_ready, read_attribute
from otahsm.token.session import Login, describe_token, find_token, load_module, logged_in
from otahsm.token.setup import PROBE

_SIGNATURES: Final = 20


def diagnose(config: Config, token: ReplicaConfig, name: str) -> Iterator[Check]:
    """Check a token and the keys in it; stop at the first result that makes further checks pointless.

    Args:
        config: the whole configuration.
        token: the token to check, one of the configuration's.
        name: its name in the results, as in "token".
    """
    try:
        yield from _without_login(token, name)
    except OtahsmError as error:
        yield failed(name, error)
        return
    except pkcs11.PKCS11Error as error:
        yield failed(name, explain(error, "being checked"))
        return
    try:
        with logged_in(token) as login:
            yield ok(f"{name} login", f"the token accepted the PIN (from {token.uri.pin.kind})")
            yield from _sessions(login, token, name)
            for key, key_config, public_key in _keys(config):
                # A session on which a call failed may be of no use to the next key.
                another = login._replace(session=login.open_another())
                yield from _key(another, f"{name} {key}", key_config, public_key)
    except OtahsmError as error:
        yield failed(f"{name} login", error)
    except pkcs11.PKCS11Error as error:
        yield failed(f"{name} sessions", explain(error, "opening a session for each key"))


def _without_login(token: ReplicaConfig, name: str) -> Iterator[Check]:
    library = load_module(token)
    yield ok(
        f"{name} module",
        f"{token.uri.module}: {library.manufacturer_id.strip()} {library.library_description.strip()}"
        f" {_version(library.library_version)}, Cryptoki {_version(library.cryptoki_version)}",
    )
    found = find_token(library, token.uri)
    yield ok(name, str(describe_token(found)))
    yield _pin_tries(found, name)
    if token.uri.pin.kind == "env":
        yield warning(
            f"{name} PIN",
            "it is in an environment variable, which other processes can read",
            "Set pin-source to a file, a systemd credential or a command.",
        )


def _version(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _pin_tries(token: pkcs11.Token, name: str) -> Check:
    subject = f"{name} PIN tries"
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        return fail(subject, "the user PIN is locked", "Unlock it with the security officer's PIN.")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        return fail(
            subject,
            "one more wrong PIN will lock it, so no login was attempted",
            "Verify the PIN, and log in once with the vendor's tool.",
        )
    if token.flags & TokenFlag.USER_PIN_COUNT_LOW:
        return warning(subject, "a wrong PIN was entered since the last login", "Find out who entered it.")
    return ok(subject, "the token reports no wrong PIN since the last login")


def _sessions(login: Login, token: ReplicaConfig, name: str) -> Iterator[Check]:
    subject = f"{name} sessions"
    try:
        further = [login.open_another() for _ in range(token.sessions - 1)]
    except pkcs11.PKCS11Error as error:
        yield failed(subject, explain(error, f"opening {token.sessions} sessions"))
        return
    yield ok(
        subject,
        f"opened {1 + len(further)} here; {token.signers} signers need {token.signers * token.sessions}",
    )


def _keys(config: Config) -> Iterator[tuple[str, KeyConfig, PublicKey]]:
    """Yield the keys that the configuration names: section, and the public key of their signatures."""
    for name, ca in config.all_authorities.items():
        if ca.certificate.exists() and not ca.retired:
            where = ca_section(name)
            yield f"[{where}] key", ca, read_chain(ca, where).issuer.public_key
    if config.checkpoint and config.checkpoint.verifier_key.exists():
        key = load_verifier_key(config.checkpoint)
        yield "[checkpoint] key", config.checkpoint, load_public_key(key.public_key)


def _key(login: Login, subject: str, key_config: KeyConfig, public_key: PublicKey) -> Iterator[Check]:
    try:
        private = find_private_key(login.session, key_config.key)
        facts = read_facts(login, private, public_key)
        yield ok(subject, str(facts.key))
        for flaw, why in facts.flaws.items():
            if flaw in key_config.accept:
                yield warning(
                    subject, f"{why}; `accept` allows it", "Generate a key in the token when you can."
                )
        signing = get_ready(login, private, key_config, public_key)
        if not facts.flaws:
            yield ok(
                f"{subject} attributes",
                "local, sensitive and not extractable, as the token reports",
            )
        if read_attribute(private, pkcs11.Attribute.ALWAYS_AUTHENTICATE):
            yield warning(
                subject,
                "it requires the PIN for every signature, so only one signature is made at a time",
                "Generate a key without CKA_ALWAYS_AUTHENTICATE, if the token allows it.",
            )
        began = time.perf_counter()
        for _ in range(_SIGNATURES):
            signing.sign(PROBE)
        seconds = (time.perf_counter() - began) / _SIGNATURES
        listed = ", ".join(signing_mechanisms(login.session.token.slot)) or "none that otahsm supports"
        yield ok(
            f"{subject} signature",
            f"verifies; {1000 * seconds:.1f} ms with {signing.mechanism_name}; the token has {listed}",
        )
    except OtahsmError as error:
        yield failed(subject, error)
    except pkcs11.PKCS11Error as error:
        yield failed(subject, explain(error, "showing the key"))


def main(path: str, number: str, name: str) -> None:
    """Check one token of a configuration, and print the results."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vendor libraries print to standard output
    harden()
    config = load_config(Path(path))
    token = section(config.token, "token").all[int(number)]
    try:
        for check in diagnose(config, token, name):
            output.write(json.dumps(check.as_dict()) + "\n")
            output.flush()
    except OtahsmError as error:
        output.write(json.dumps(failed(name, error).as_dict()) + "\n")
        output.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
