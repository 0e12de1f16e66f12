"""Checks that a daemon would accept the policy and the CRLs of the operator CA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from otahsm.checks import Check, fail, failed, ok, warning
from otahsm.config import Config, load_policy
from otahsm.daemon.edge import client_crls_of
from otahsm.errors import ConfigError
from otahsm.system.clock import utc_now
from otahsm.system.tls_files import read_certificates
from otahsm.system.trusted_files import files_of_anyone
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
        grants = load_policy(access.policy, config.profiles.keys(), files_of_anyone()).grants
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
        yield from _examine_crls(config, config.tls.client_ca)


def _examine_crls(config: Config, client_ca: Path) -> Iterator[Check]:
    subject = "[access] client_crls"
    try:
        operators = read_certificates("[tls] client_ca", client_ca, files_of_anyone()).certificates
    except ConfigError:
        yield fail(subject, "not checked: [tls] client_ca can't be read", "Mend [tls] client_ca first.")
        return
    try:
        crls = client_crls_of(config, files_of_anyone())
        crls.load(operators, utc_now())
    except ConfigError as problem:
        yield failed(subject, problem)
        return
    yield ok(subject, f"{counted(sum(len(item.crl) for item in crls.all), 'revoked certificate')}")
    for gap in crls.gaps:
        yield warning(subject, gap, "Add the complete CRL of that CA to [access] client_crls.")
