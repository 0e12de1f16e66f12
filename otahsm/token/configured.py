"""What a configuration lets its keys sign."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from otahsm.config import Config, CrlConfig, TokenConfig, ca_section, load_verifier_key, section
from otahsm.pki.chain import signs_crls
from otahsm.system.files import PLAIN, Files
from otahsm.token.files import read_chain
from otahsm.token.setup import AuthorityMandate, CheckpointMandate, Mandate, ProfileMandate

_HOUR: Final = 3600
_FOLDER: Final = "signed"


def mandate_of(config: Config, files: Files = PLAIN) -> Mandate:
    """Return what the signers of a configuration sign.

    The daemon and its signers each make it of their own otahsm.toml, and compare.

    Args:
        config: the whole configuration; it needs [token] and [ca].
        files: what reads the files that it names.

    Raises:
        ConfigError: a section is missing, or a file that it names is missing or invalid.
    """
    authorities = {}
    for name, ca in config.all_authorities.items():
        if not ca.retired:
            issuer = read_chain(ca, ca_section(name), files).issuer
            seconds = crl_hours(ca.crl) * _HOUR if signs_crls(issuer) else 0
            authorities[name] = AuthorityMandate(ca, issuer, seconds)
    profiles = {}
    for name, profile in config.profiles.items():
        crl = config.all_authorities[profile.ca].crl
        location = crl.location if crl else None
        profiles[name] = ProfileMandate(profile.ca, profile.build(), location)
    checkpoint = None
    if config.checkpoint:
        checkpoint = CheckpointMandate(config.checkpoint, load_verifier_key(config.checkpoint, files))
    return Mandate(authorities, profiles, checkpoint, folder_of(section(config.token, "token")))


def folder_of(token: TokenConfig) -> Path:
    """Return the folder where the signers of this machine keep what they sign."""
    return token.journal_dir or token.guard_dir / _FOLDER


def crl_hours(crl: CrlConfig | None) -> int:
    """Return how long the CRLs of a CA are valid, in hours; without a section, as by default."""
    hours: int = crl.validity_hours if crl else CrlConfig.model_fields["validity_hours"].default
    return hours
