"""`otahsm client`: denies clients access, and allows them again; shows and resets quotas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from otahsm.access import SUBJECTS, check_identity
from otahsm.cli.confirming import ExpectOption, confirm_number
from otahsm.cli.connect import ask
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, PatienceOption
from otahsm.cli.output.fields import print_json, print_outcome
from otahsm.cli.output.tables import Column, Table
from otahsm.cli.output.times import show_time
from otahsm.client import Client, DeniedClient
from otahsm.pki.anchor import fingerprint_text
from otahsm.system.tls_files import read_certificates

SubjectArgument = Annotated[
    str | None,
    typer.Argument(help="The client: uri:, dns: or cn: and its name; spki: or sha256: and a digest."),
]
CertificateOption = Annotated[
    Path | None, typer.Option("--certificate", help="Or one certificate of a client, in PEM: only that one.")
]

_TABLE: Final = Table(Column("since", 23), Column("denied", 24), Column("by", 24), Column("reason"))
_QUOTAS: Final = Table(
    Column("client", 24),
    Column("total", 20, right=True),
    Column("today", 20, right=True),
    Column("available this second", 21, right=True),
)


def deny(
    subject: SubjectArgument = None,
    certificate: CertificateOption = None,
    reason: Annotated[str, typer.Option(help="Why; it is shown in the deny list.")] = "",
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Deny a name even if no client of the policy has it.")
    ] = False,
    expect: ExpectOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Deny a client access: within two seconds every daemon on the ledger refuses it and ends its open calls.

    It first shows whom it reaches, and wants the number 1 typed, or --expect 1.

    Requires the role operator or admin. Name a client as `otahsm ledger list` and the log do. It must be one
    of the policy's clients; the answer says which. Names have no wildcards.

    \b
    Examples:
      otahsm client deny cn:line-3 --reason "laptop stolen"
      otahsm client deny --certificate line-3.pem
    """  # noqa: D301 - click reads the character, not the escape
    name = _subject(subject, certificate)
    try:
        check_identity(name, SUBJECTS)
    except ValueError as error:
        raise typer.BadParameter(f"{name[:64]!a} {error}") from None

    async def run(client: Client) -> DeniedClient:
        reached = await client.access.deny(name, reason, allow_unknown_name=anyway, validate_only=True)
        confirm_number(f"deny access to 1 client, {reached.subject}", 1, [_reached(reached)], expect)
        return await client.access.deny(name, reason, allow_unknown_name=anyway)

    denied = ask(config, patience, run)
    print_outcome(
        f"{denied.subject} is denied since {show_time(denied.since)}: {_reached(denied)}.",
        as_json=as_json,
        subject=denied.subject,
        since=denied.since,
        policy_client=denied.policy_client,
        policy_identity=denied.policy_identity,
    )


def allow(
    subject: SubjectArgument = None,
    certificate: CertificateOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Allow a client again, by the name that `deny` was given. Requires the role admin."""
    name = _subject(subject, certificate)
    ask(config, patience, lambda client: client.access.allow(name))
    print_outcome(
        f"{name} is no longer denied. The policy says what it may do.", as_json=as_json, subject=name
    )


def list_denied(
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """List who is denied, since when, by whom and why."""
    denied = ask(config, patience, lambda client: client.access.denied())
    if as_json:
        print_json([item._asdict() for item in denied])
        return
    if not denied:
        typer.echo("No client is denied.")
        return
    _TABLE.print_heading()
    for item in denied:
        _TABLE.print(show_time(item.since), item.subject, item.client, item.reason)


def quota(
    name: Annotated[str | None, typer.Argument(help="A client's name in the policy. Default: all.")] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Let it have today's and this second's quota once more.")
    ] = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show what clients of the policy have used of their quotas, on all daemons.

    A count without a limit has none after it. Certificates are counted while a client has any quota; days are
    UTC.

    --reset takes the role admin, and another client than the one whose quota it is. What a client has had
    today no longer counts; the audit log says how many that were. Its total never changes. A daemon whose
    clock was ahead needs no reset: the next request corrects the count.

    \b
    Examples:
      otahsm client quota
      otahsm client quota line-3 --reset
    """  # noqa: D301 - click reads the character, not the escape
    if reset and name is None:
        raise typer.BadParameter("--reset needs the name of a client in the policy")
    if reset and name is not None:
        quotas = [ask(config, patience, lambda client: client.access.reset_quota(name))]
    else:
        quotas = ask(config, patience, lambda client: client.access.quotas(name or ""))
    if as_json:
        print_json([item._asdict() for item in quotas])
        return
    _QUOTAS.print_heading()
    for item in quotas:
        at_once = "" if item.available_now is None else _of(item.available_now, item.second_limit)
        _QUOTAS.print(item.client, _of(item.total, item.total_limit), _of(item.day, item.day_limit), at_once)


def _of(count: int, limit: int | None) -> str:
    return f"{count:,}" if limit is None else f"{count:,} of {limit:,}"


def _reached(denied: DeniedClient) -> str:
    if denied.policy_client:
        return f"the client {denied.policy_client} of the policy, by its identity {denied.policy_identity}"
    if denied.subject.startswith("sha256:"):
        return "whoever shows this certificate"
    if denied.subject.startswith("spki:"):
        return "whoever shows a certificate for this key; no client of the policy is pinned to it"
    return "no client of the policy has this name"


def _subject(subject: str | None, certificate: Path | None) -> str:
    if (subject is None) == (certificate is None):
        raise typer.BadParameter("give either a name or --certificate")
    if subject is not None:
        return subject
    assert certificate is not None  # noqa: S101 - see above
    return fingerprint_text(read_certificates("--certificate", certificate).certificates[0])
