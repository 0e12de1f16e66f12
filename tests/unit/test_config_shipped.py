"""The otahsm.toml that quickstart writes shows every key, and the defaults."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from pydantic import BaseModel

from otahsm.config import (
    CaConfig,
    ClientConfig,
    Config,
    CrlConfig,
    DaemonConfig,
    IssuanceConfig,
    ProfileConfig,
    RegistrationConfig,
    TokenConfig,
    section,
)
from otahsm.pki.profile import Profile

from support.configurations import BASE, TEMPLATE, parse, shipped


def shown(model: type[BaseModel], *but: str) -> set[str]:
    return set(model.model_fields) - set(but)


def test_the_shipped_file_shows_the_defaults() -> None:
    config = parse(shipped())
    assert config.daemon == DaemonConfig()
    assert config.issuance == IssuanceConfig()
    assert config.profiles == {"ota-connect": ProfileConfig()} == Config().profiles
    assert ProfileConfig().build() == Profile()
    token = section(config.token, "token")
    assert token.signers == TokenConfig.model_fields["signers"].default
    assert token.sign_timeout_seconds == TokenConfig.model_fields["sign_timeout_seconds"].default


def test_the_shipped_file_shows_every_key() -> None:
    table = shipped()
    # [crl] and [registration] are shown in comments: a quickstart publishes none, and has no backend.
    assert set(table) == shown(Config, "crl", "authorities", "registration")
    assert set(as_shown("crl")) == shown(CrlConfig)
    assert set(as_shown("registration")) == shown(RegistrationConfig)
    # These are shown in comments: SoftHSM2 needs none of them.
    assert set(table["token"]) == shown(TokenConfig, "weight", "replica", "signer_socket", "journal_dir")
    assert set(table["ca"]) == shown(CaConfig, "mechanism", "accept")
    in_comments = set(re.findall("# [a-z_]+ = ", TEMPLATE))
    assert {"# mechanism = ", "# accept = ", "# weight = ", "# credentials = "} <= in_comments
    assert {"# signer_socket = ", "# preparer_socket = ", "# journal_dir = ", "# fleet_ca = "} <= in_comments
    assert "# [[token.replica]]" in TEMPLATE
    assert "# [authorities.2027]" in TEMPLATE
    assert set(table["client"]) == shown(ClientConfig, "credentials", "fleet_ca")
    assert set(table["daemon"]) == shown(DaemonConfig)
    assert set(table["issuance"]) == shown(IssuanceConfig, "preparer_socket")
    assert set(table["profiles"]["ota-connect"]) == shown(ProfileConfig)


def as_shown(name: str) -> dict[str, Any]:
    """Parse a section that the shipped file shows in comments."""
    _, _, rest = TEMPLATE.partition(f"# [{name}]\n")
    lines = [line.removeprefix("# ") for line in rest.partition("\n\n")[0].splitlines()]
    return tomllib.loads("\n".join(line for line in lines if re.match("[a-z_]+ = ", line)))


def test_what_the_shipped_file_shows_of_crls_are_the_defaults() -> None:
    crl = section(parse({"crl": as_shown("crl")}).crl, "crl")
    shown_defaults = crl.model_dump(exclude={"url", "directory"})
    assert shown_defaults == {name: CrlConfig.model_fields[name].default for name in shown_defaults}
    assert crl.directory == BASE / "crl"


def test_what_the_shipped_file_shows_of_registration_is_right() -> None:
    table = as_shown("registration")
    del table["group"]  # of another kind
    registration = section(parse({"registration": table}).registration, "registration")
    defaults = {
        name: RegistrationConfig.model_fields[name].default for name in ("timeout_seconds", "parallel")
    }
    assert registration.model_dump(include=set(defaults)) == defaults
    assert registration.ca == BASE / "registry-ca.pem"
    assert registration.headers["Authorization"].file == BASE / "secrets/registry-token"
