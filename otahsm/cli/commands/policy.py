"""`otahsm policy`: checks and explains the policy, read as the daemon reads it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from otahsm.access import AccessControl, Call, Caller, Grant, Policy
from otahsm.cli.inputs import moment_of
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import print_fields, print_json
from otahsm.cli.settings import load_config
from otahsm.config import Config, load_policy, section
from otahsm.daemon.edge import METHODS, Method, read_caller
from otahsm.errors import NotAllowedError
from otahsm.templates import counted


def check(as_json: JsonOption = False, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Check the policy in [access] as the daemon does, and list the clients. A daemon reloads it on SIGHUP.

    Exit codes: 0 it is valid, 2 it is not, and the daemon would reject it.
    """
    policy, _ = _load(config)
    if as_json:
        print_json({grant.name: _terms(grant, policy.acts_per_day) for grant in policy})
        return
    for grant in policy:
        before = f" (formerly {', '.join(sorted(grant.formerly))})" if grant.formerly else ""
        typer.echo(f"{grant.name}{before}: {', '.join(sorted(grant.roles))}")
    typer.echo(f"The policy is valid. It allows {counted(len(policy.grants), 'client')}, and nobody else.")


def explain(
    client: Annotated[
        str,
        typer.Argument(help="The client: uri:, dns:, cn: or spki: and the rest; or a certificate in PEM."),
    ],
    profile: Annotated[str, typer.Option(help="May it get a certificate under this profile?")] = "",
    device_id: Annotated[str, typer.Option("--device-id", help="May it get one for this device?")] = "",
    batch: Annotated[str, typer.Option(help="May it get one in this batch?")] = "",
    call: Annotated[
        str, typer.Option(help="May it make this call, such as LedgerService/GetCertificate?")
    ] = "",
    at: Annotated[str, typer.Option("--at", help="At which time. Default: now.")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Explain what a client may do, or whether it may do something, and if not, why not.

    Looks at the policy alone: not at denied clients, at what is left of a quota, or at what the profile
    requires of a CSR.

    Exit codes: 0 it may, 1 it may not, 2 wrong use or configuration.

    \b
    Examples:
      otahsm policy explain cn:line-3
      otahsm policy explain line-3.pem --device-id cam-000017 --batch plant-2-w47
      otahsm policy explain cn:line-3 --call RevocationService/RevokeCertificates
    """  # noqa: D301 - click reads the character, not the escape
    policy, settings = _load(config)
    caller = _caller(client)
    now = moment_of(at, "--at") or datetime.now(UTC)
    access = AccessControl(policy)
    why = ""
    grant: Grant | None = None
    try:
        grant = access.grant_of(caller, now)
        if call:
            method = _method(call)
            access.check_call(caller, method.name, method.callers, now)
        if profile or device_id or batch:
            _check_order(grant, profile or settings.issuance.default_profile, device_id, batch)
    except NotAllowedError as error:
        why = error.message
    grant = grant or policy.of(caller)
    terms = _terms(grant, policy.acts_per_day) if grant else {}
    if as_json:
        print_json({"client": grant.name if grant else None, "allowed": not why, "why": why, "may": terms})
    else:
        if grant:
            print_fields(f"{client} is {grant.name}", terms | {"may call": ", ".join(_calls(grant))})
        typer.echo(f"No: {why}." if why else "Yes, it may.")
    if why:
        raise typer.Exit(1)


def _check_order(grant: Grant, profile: str, device_id: str, batch: str) -> None:
    grant.check_order(profile, batch)
    if device_id:
        grant.check_device(device_id)


def _load(path: Path) -> tuple[Policy, Config]:
    settings = load_config(path)
    file = section(settings.access, "access").policy
    return load_policy(file, settings.profiles.keys()), settings


def _caller(client: str) -> Caller:
    if Path(client).is_file():
        return read_caller(Path(client))
    if client.startswith("spki:"):
        try:
            return Caller("", b"", bytes.fromhex(client.removeprefix("spki:")))
        except ValueError:
            raise typer.BadParameter("spki: takes 64 hexadecimal digits") from None
    return Caller(client, b"")


def _method(call: str) -> Method:
    known = [method for path, method in METHODS.items() if path.endswith((f"/{call}", f".{call}"))]
    if len(known) != 1:
        raise typer.BadParameter("name a service and one of its calls, such as LedgerService/GetCertificate")
    return known[0]


def _calls(grant: Grant) -> list[str]:
    return sorted(
        path.rpartition(".")[2]
        for path, method in METHODS.items()
        if isinstance(method.callers, Call) and method.callers.may(grant.roles)
    )


def _terms(grant: Grant, fleet_acts: int) -> dict[str, str | datetime]:
    """Return what a client is limited to; all clients together may do `fleet_acts` acts of a kind a day."""
    terms: dict[str, str | datetime] = {"roles": ", ".join(sorted(grant.roles))}
    if "issuer" in grant.roles:
        terms["profiles"] = ", ".join(sorted(grant.profiles))
        terms["device ids"] = grant.device_ids.pattern if grant.device_ids else "any"
        terms["batches"] = grant.batches.pattern if grant.batches else "any, or none"
    terms |= {
        name.replace("_", " "): f"{quota:,}"
        for name, quota in grant.quotas._asdict().items()
        if quota is not None
    }
    if grant.roles & {"operator", "admin"}:
        terms["acts per day"] = f"{grant.acts_per_day:,} of each kind; all clients {fleet_acts:,}"
    if grant.times:
        terms["times"] = "; ".join(str(times) for times in grant.times)
    if grant.until:
        terms["until"] = grant.until
    if grant.formerly:
        terms["formerly"] = ", ".join(sorted(grant.formerly))
    return terms
