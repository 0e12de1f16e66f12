"""Compares all RSA keys for `otahsm ledger verify --keys`, and prints what to revoke."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import typer
from rich.console import Console

from otahsm.cli.output.fields import printable
from otahsm.config import Config, ca_section, section
from otahsm.ledger import KeyVerdict, compare_keys
from otahsm.pki.keytypes.rsa_pool import Weakness
from otahsm.templates import counted
from otahsm.token.files import read_chain

_WHY: Final = {
    Weakness.SHARED_PRIME: "another key has one of its primes",
    Weakness.EVEN_MODULUS: "its modulus is even",
    Weakness.SMALL_FACTOR: "its modulus has a factor below 65536",
    Weakness.OTHER_EXPONENT: "a key with another exponent has its modulus",
    Weakness.OTHER_DEVICE: "another device has the same key",
    Weakness.CA_KEY: "a CA has the same key",
}


class ComparedKeys(NamedTuple):
    """What was found, how long it took, and whether the configuration names the ledger's CAs."""

    verdict: KeyVerdict
    seconds: float
    names_cas: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        verdict = self.verdict
        return {
            "good": verdict.good,
            "certificates": verdict.certificates,
            "rsa_certificates": verdict.rsa_certificates,
            "rsa_ca_keys": verdict.ca_keys if self.names_cas else None,
            "moduli": verdict.moduli,
            "to_revoke": [
                {
                    "serial": weak.serial,
                    "device_id": weak.device_id,
                    "client": weak.client,
                    "why": list(weak.why),
                    "command": _command(weak.serial),
                }
                for weak in verdict.to_revoke
            ],
            "expired_or_revoked": verdict.settled,
            "weak_cas": {name: list(why) for name, why in verdict.weak_cas.items()},
            "not_read": verdict.unread_count,
            "first_not_read": verdict.unread,
            "seconds": round(self.seconds, 3),
        }

    def print(self) -> None:
        """Print it as text: first what is weak, last the sum of it."""
        verdict = self.verdict
        for name in verdict.unread:
            _alarm(f"{name}: can't be read, so its key was not looked at")
        if verdict.unread_count > len(verdict.unread):
            typer.echo(f"and {verdict.unread_count - len(verdict.unread)} more that can't be read")
        for name, why in verdict.weak_cas.items():
            _alarm(
                f"the CA {name}: {_reasons(why)}. Others can compute its key. Stop issuing, and make a new CA"
                " with `otahsm ca rotate`"
            )
        for weak in verdict.to_revoke:
            _alarm(
                f"{weak.serial} {weak.device_id} {weak.client}: {_reasons(weak.why)}: {_command(weak.serial)}"
            )
        typer.echo(self._looked_at())
        typer.echo(self._conclusion())

    def _looked_at(self) -> str:
        verdict = self.verdict
        read = counted(verdict.certificates, "certificate")
        cas = (
            f"{counted(verdict.ca_keys, 'RSA key')} of CAs"
            if self.names_cas
            else "no CA's key was looked at: the configuration has no [ca]"
        )
        return (
            f"keys of {read} in {self.seconds:.1f} s: {verdict.rsa_certificates:,} are RSA keys; {cas};"
            f" {counted(verdict.moduli, 'modulus', 'moduli')} compared"
        )

    def _conclusion(self) -> str:
        verdict = self.verdict
        settled = (
            f" {counted(verdict.settled, 'weak key')} in certificates that are expired or revoked."
            if verdict.settled
            else ""
        )
        if verdict.to_revoke or verdict.weak_cas:
            cas = f" {counted(len(verdict.weak_cas), 'CA')} with a WEAK KEY." if verdict.weak_cas else ""
            return f"{counted(len(verdict.to_revoke), 'certificate')} to REVOKE.{cas}{settled}"
        if verdict.unread_count:
            return f"No weak RSA key among those, but {verdict.unread_count:,} NOT LOOKED AT.{settled}"
        if not verdict.moduli:
            return "No RSA keys: nothing to compare."
        return f"No weak RSA key in use.{settled}"


def look_at_keys(settings: Config) -> ComparedKeys:
    """Compare the RSA keys of the ledger and of the configuration's CAs.

    Raises:
        ConfigError: there is no [ledger], the certificate of a CA can't be read, or as `compare_keys`.
        LedgerUnavailableError: as `compare_keys`.
    """
    ledger = section(settings.ledger, "ledger")
    authorities = [
        der
        for name, authority in settings.all_authorities.items()
        for der in read_chain(authority, ca_section(name)).certificates
    ]
    began = time.monotonic()
    with Console(stderr=True).status("comparing RSA keys"):
        verdict = compare_keys(ledger, authorities, datetime.now(UTC))
    return ComparedKeys(verdict, time.monotonic() - began, names_cas=bool(authorities))


def _reasons(why: tuple[Weakness, ...]) -> str:
    return ", ".join(_WHY[weakness] for weakness in why)


def _command(serial: str) -> str:
    return f"otahsm revoke --serial {serial} --reason key_compromise"


def _alarm(text: str) -> None:
    typer.secho(printable(text), fg=typer.colors.RED)
