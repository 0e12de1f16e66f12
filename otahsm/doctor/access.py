"""Checks that a daemon would accept the policy and the CRLs of the operator CA."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509

from otahsm.checks import Check, fail, failed, ok, warning
from otahsm.config import Config, load_policy
from otahsm.daemon.edge import read_crls
from otahsm.errors import ConfigError
from otahsm.system.clock import utc_now
from otahsm.templates import counted


def examine_access(config: Config) -> Iterator[Check]:
    """Check the policy and the client CRLs; a machine with a daemon must have a policy."""
    access = config.access
    if access is None:
        if config.tls:
            yield fail(
                "policy",
                "there is no [access] section",
                "Copy policy.toml and [access] from `otahsm quickstart DIR`.",
            )
        return
    try:
        grants = load_policy(access.policy, config.profiles.keys()).grants
    except ConfigError as problem:
        yield failed("policy", problem)
    else:
        yield ok("policy", f"{access.policy} allows {counted(len(grants), 'client')}, and no others")
        if not any("admin" in grant.roles for grant in grants.values()):
            yield warning(
                "policy",
                "no client has the role admin, so nobody can allow a denied client again",
                "Give a client the role admin.",
            )
    if config.tls and access.client_crls:
        try:
            operators = x509.load_pem_x509_certificates(config.tls.client_ca.read_bytes())
            crls = read_crls(access.client_crls, operators, utc_now())
        except (OSError, ValueError):
            return  # examine_tls reports [tls] client_ca
        except ConfigError as problem:
            yield failed("[access] client_crls", problem)
        else:
            yield ok("[access] client_crls", f"{counted(sum(map(len, crls)), 'revoked certificate')}")
