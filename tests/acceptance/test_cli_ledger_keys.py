"""`otahsm ledger verify --keys` as an operator types it, and what it says to do."""

from __future__ import annotations

import asyncio
import json
import math
import shlex
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from otahsm.client import CertificateRequest
from otahsm.pki.serial import SerialNumber

from support.devices import issue_all, new_request
from support.harness import Fleet, RunningDaemon
from support.ledger_reader import rows
from support.programs import make_ca
from support.rsa_keys import csr_of, primes, private_key


def issue(daemon: RunningDaemon, keys: Mapping[str, rsa.RSAPrivateKey]) -> None:
    """Have a daemon issue for keys of one's own, and for one on P-256."""
    requests = [CertificateRequest(csr_of(key, device_id), device_id) for device_id, key in keys.items()]

    async def run() -> None:
        async with daemon.client() as client:
            _, refused = await issue_all(client, [*requests, new_request("on-p256")])
            assert refused == []

    asyncio.run(run())


def verify(fleet: Fleet, *options: str, status: int) -> str:
    done = fleet.run("ledger", "verify", "--keys", *options)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def verify_as_json(fleet: Fleet, *, status: int) -> Any:
    return json.loads(verify(fleet, "--json", status=status))


def test_keys_that_share_a_prime_are_listed_with_the_command_that_revokes_them(
    daemon: RunningDaemon,
) -> None:
    daemon.configure_client()
    fleet = daemon.fleet
    a, b, c, d, e = primes()
    keys = {"weak-1": private_key(a, b), "weak-2": private_key(c, a), "sound": private_key(d, e)}
    issue(daemon, keys)
    # Why it matters: whoever has both certificates computes both private keys.
    one, two = (keys[name].public_key().public_numbers().n for name in ("weak-1", "weak-2"))
    assert private_key(math.gcd(one, two), one // a).private_numbers() == keys["weak-1"].private_numbers()

    text = verify(fleet, status=1)
    assert "Everything matches." in text  # nobody changed the ledger
    serials = {row.device_id: SerialNumber(row.serial).hex() for row in rows(fleet)}
    for name in ("weak-1", "weak-2"):
        assert (
            f"{serials[name]} {name} cn:quickstart: another key has one of its primes:"
            f" otahsm revoke --serial {serials[name]} --reason key_compromise\n"
        ) in text
    assert serials["sound"] not in text
    assert "keys of 4 certificates in" in text
    assert "3 are RSA keys; 0 RSA keys of CAs; 3 moduli compared\n2 certificates to REVOKE.\n" in text

    found = verify_as_json(fleet, status=1)
    assert found["good"] is True
    assert found["keys"]["good"] is False
    assert {item["device_id"]: item["why"] for item in found["keys"]["to_revoke"]} == {
        "weak-1": ["shared_prime"],
        "weak-2": ["shared_prime"],
    }
    for item in found["keys"]["to_revoke"]:
        program, *arguments = shlex.split(item["command"])
        assert program == "otahsm"
        done = fleet.run(*arguments, "--expect", "1")
        assert done.returncode == 0, done.stderr

    text = verify(fleet, status=0)
    assert "No weak RSA key in use. 2 weak keys in certificates that are expired or revoked.\n" in text
    found = verify_as_json(fleet, status=0)
    assert found["keys"]["to_revoke"] == []
    assert found["keys"]["expired_or_revoked"] == 2
    assert json.loads(fleet.run("ledger", "verify", "--json").stdout)["keys"] is None


def test_without_rsa_keys_it_says_so_and_how_many_it_has_looked_at(daemon: RunningDaemon) -> None:
    issue(daemon, {})
    text = verify(daemon.fleet, status=0)
    assert "keys of 1 certificate in" in text
    assert "0 are RSA keys; 0 RSA keys of CAs; 0 moduli compared\nNo RSA keys: nothing to compare.\n" in text


def test_the_rsa_key_of_the_ca_is_compared_too_where_the_configuration_names_it(fleet: Fleet) -> None:
    assert make_ca(fleet, "--key-type", "rsa-2048").returncode == 0
    # No daemon has run: the ledger is empty.
    text = verify(fleet, status=0)
    assert "1 RSA key of CAs; 1 modulus compared\nNo weak RSA key in use.\n" in text
    ledger = fleet.folder / "ledger-only.toml"
    ledger.write_text('[ledger]\npath = "ledger/ledger.sqlite3"\n')
    text = verify(fleet, "--config", str(ledger), status=0)
    assert "no CA's key was looked at: the configuration has no [ca]" in text
    alone = fleet.run("ledger", "verify", "--keys", "--json", "--config", str(ledger))
    assert json.loads(alone.stdout)["keys"]["rsa_ca_keys"] is None
    (fleet.folder / "ca/another-root.pem").unlink()
    done = fleet.run("ledger", "verify", "--keys")
    assert done.returncode == 2
    assert "another-root.pem" in done.stderr


def test_a_certificate_that_can_not_be_read_is_not_taken_for_a_good_one(daemon: RunningDaemon) -> None:
    issue(daemon, {})
    with closing(sqlite3.connect(daemon.fleet.folder / "ledger/ledger.sqlite3")) as database, database:
        database.execute("UPDATE certificates SET der = x'00'")
    text = verify(daemon.fleet, status=1)
    assert "device 'on-p256': can't be read, so its key was not looked at\n" in text
    assert "No weak RSA key among those, but 1 NOT LOOKED AT.\n" in text
