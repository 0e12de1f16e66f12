"""`otahsm approve`: lists held acts, confirms and rejects them."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from otahsm.cli.confirming import ExpectOption, amount, confirm_number, sampled
from otahsm.cli.connect import ask
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, PatienceOption
from otahsm.cli.output.failures import print_failure
from otahsm.cli.output.fields import print_fields, print_json, print_json_line, printable
from otahsm.cli.output.tables import Column, Table
from otahsm.cli.output.times import show_time
from otahsm.cli.settings import load_config
from otahsm.client import Client, HeldAct
from otahsm.config import section
from otahsm.errors import NotFoundError, OtahsmError
from otahsm.system.clock import microseconds

ActsArgument = Annotated[
    list[str], typer.Argument(metavar="ACTS...", help="Held acts, by number: 17, or 20-58 for all open ones.")
]

AskedByOption = Annotated[
    str | None,
    typer.Option("--asked-by", metavar="NAME", help="Only what this client of the policy asked for."),
]

Glass: TypeAlias = Callable[[HeldAct], tuple[str, str, datetime, bytes]]

_RANGE: Final = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")
_TABLE: Final = Table(
    Column("act", 6, right=True),
    Column("kind", 10),
    Column("state", 9),
    Column("by", 16),
    Column("size", 6, right=True),
    Column("lapses", 23),
    Column("what"),
)


def list_held(
    acts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ACTS]...", help="Only these, with everything that they ask for: 17, 20-58."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that were confirmed or rejected, or lapsed.")
    ] = False,
    asked_by: AskedByOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """List held acts: what exceeded a quota, and has no effect until a second client confirms it.

    Revocations, resets, denials, and creating and closing batches are held. A held act lapses after 24 hours.
    Requires the role auditor, operator or admin.

    \b
    Examples:
      otahsm approve list
      otahsm approve list 17
      otahsm approve list --asked-by ops-2
    """  # noqa: D301 - click reads the character, not the escape
    ranges = _ranges(acts or [])

    async def find(client: Client) -> list[HeldAct]:
        if ranges:
            return [act async for act in _chosen(client, ranges, asked_by)]
        held = client.approvals.held(decided_too=everything)
        return [act async for act in held if asked_by in (None, act.policy_client)]

    found = ask(config, patience, find)
    if as_json:
        print_json([_fields(act) for act in found])
    elif ranges:
        for act in found:
            _show(act)
    elif found:
        _TABLE.print_heading()
        for act in found:
            size, lapses = f"{act.size:,}", show_time(act.lapses_at)
            _TABLE.print(str(act.id), act.kind, act.state, act.policy_client, size, lapses, _first(act))
    else:
        typer.echo("Nothing is held.")


def confirm(
    acts: ActsArgument,
    break_glass: Annotated[
        bool,
        typer.Option("--break-glass", help="Without a second client, on the CA's host. It is logged so."),
    ] = False,
    reason: Annotated[str, typer.Option(help="Why the glass is broken. Required with --break-glass.")] = "",
    asked_by: AskedByOption = None,
    expect: ExpectOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Confirm held acts that another client asked for: they are done at once, and can't be undone.

    Takes the role that the act itself takes, and another client than the one that asked. It shows first how
    much will be changed, and wants that number typed, or --expect N. What it shows is what is confirmed: a
    certificate that a device got after the act was asked for is neither revoked nor reset, and such devices
    are listed. An act of a client that is denied, or lost the role, can't be confirmed.

    With --break-glass, the client that asked can confirm, too. That takes the ledger's key file, so only root
    or the daemon's user can do it, on the CA's host. User and reason are in the audit log.

    Exit codes: 0 all are confirmed, 1 some failed or some devices keep a newer certificate (each is listed),
    2 wrong use or configuration, 3 can't reach the daemon.

    \b
    Examples:
      otahsm approve confirm 17 20-58 --expect 412
      otahsm approve confirm 17 --break-glass --reason "recall; the second operator can't be reached"
    """  # noqa: D301 - click reads the character, not the escape
    if break_glass != bool(reason):
        raise typer.BadParameter("--break-glass and --reason go together")
    glass = _glass(config, reason) if break_glass else None

    async def one(client: Client, act: HeldAct) -> HeldAct:
        return await client.approvals.confirm(act.id, act.digest, glass=glass(act) if glass else None)

    _decide(
        acts,
        one,
        "confirm",
        asked_by=asked_by,
        expect=expect,
        as_json=as_json,
        patience=patience,
        config=config,
    )


def reject(
    acts: ActsArgument,
    asked_by: AskedByOption = None,
    expect: ExpectOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Reject held acts, so that they are never done. The client that asked can do it, too.

    It shows first how many acts, and wants that number typed, or --expect N.

    Exit codes: 0 all are rejected, 1 some failed (each is listed), 2 wrong use or configuration, 3 can't
    reach the daemon.

    \b
    Examples:
      otahsm approve reject 20-58
      otahsm approve reject 1-9999 --asked-by ops-2
    """  # noqa: D301 - click reads the character, not the escape
    _decide(
        acts,
        lambda client, act: client.approvals.reject(act.id),
        "reject",
        asked_by=asked_by,
        expect=expect,
        as_json=as_json,
        patience=patience,
        config=config,
    )


def _decide(
    acts: Sequence[str],
    one: Callable[[Client, HeldAct], Awaitable[HeldAct]],
    verb: str,
    *,
    asked_by: str | None,
    expect: int | None,
    as_json: bool,
    patience: float | None,
    config: Path,
) -> None:
    ranges = _ranges(acts)

    async def run(client: Client) -> int:
        chosen = [act async for act in _chosen(client, ranges, asked_by)]
        if not chosen:
            raise NotFoundError("none of these acts is held", hint="`otahsm approve list` shows what is.")
        _ask(verb, chosen, expect)
        failed = 0
        for act in chosen:
            try:
                decided = await one(client, act)
                _print(decided, as_json=as_json)
                failed += bool(decided.newer_devices)
            except OtahsmError as error:
                failed += 1
                print_failure(str(act.id), error, as_json=as_json)
        return failed

    if ask(config, patience, run):
        raise typer.Exit(1)


def _ask(verb: str, acts: Sequence[HeldAct], expect: int | None) -> None:
    """Confirm the number of things that would be changed; of acts, if they are only rejected."""
    changes = sum(act.size for act in acts)
    number = changes if verb == "confirm" else len(acts)
    named = f"{amount(len(acts), 'act')} of {', '.join(sorted({act.policy_client for act in acts}))}"
    what = f"{verb} {named}, {amount(changes, 'change')} in all, for good"
    if len(acts) == 1:
        what = (
            f"{verb} act {acts[0].id} of {acts[0].policy_client}: {_what(acts[0])}{_why(acts[0])}, for good"
        )
    confirm_number(
        what, number, acts[0].asked if len(acts) == 1 else list(_by_kind(acts)), expect, whole=len(acts) > 1
    )


def _by_kind(acts: Sequence[HeldAct]) -> Iterator[str]:
    """Yield lines for many acts: how many of each client and kind, and a sample of those.

    One of another client, or of another kind or reason, must not hide among the others.
    """
    groups: dict[tuple[str, str, str], list[HeldAct]] = {}
    for act in acts:
        reason = act.reason if act.kind == "revocation" else ""
        groups.setdefault((act.policy_client, act.kind, reason), []).append(act)
    for (client, kind, reason), group in groups.items():
        size = amount(sum(act.size for act in group), "change")
        why = f", for the reason {reason}" if reason else ""
        yield f"of {client}: {amount(len(group), 'act')} of the kind {kind}, {size}{why}"
        lines = [f"act {act.id}: {_what(act)}: {_first(act)}{'' if reason else _why(act)}" for act in group]
        for line in sampled(lines, len(lines)):
            yield f"  {line}"


def _ranges(texts: Sequence[str]) -> list[range]:
    matches = [(text, _RANGE.fullmatch(text)) for text in texts]
    if wrong := [text for text, match in matches if match is None]:
        raise typer.BadParameter(f"{wrong[0]!a} is no number of an act, nor a range such as 20-58")
    found = [range(int(match[1]), int(match[2] or match[1]) + 1) for _, match in matches if match]
    if not all(found):
        raise typer.BadParameter("a range begins with the smaller number")
    return found


async def _chosen(client: Client, ranges: Sequence[range], asked_by: str | None) -> AsyncIterator[HeldAct]:
    """Yield the acts that were named by their numbers, and the open ones in a range; of one client."""
    ids = {each.start for each in ranges if len(each) == 1}
    spans = [each for each in ranges if len(each) > 1]
    if spans:
        ids |= {act.id async for act in client.approvals.held() if any(act.id in span for span in spans)}
    async for act in client.approvals.named(sorted(ids)):
        if asked_by in (None, act.policy_client):
            yield act


def _glass(config: Path, reason: str) -> Glass:
    from otahsm import ledger  # noqa: PLC0415 - a bare client has no database

    keys = ledger.read_mac_keys(section(load_config(config).ledger, "ledger"))
    user = pwd.getpwuid(os.getuid()).pw_name
    if sudo := os.environ.get("SUDO_USER"):
        user = f"{user}, by sudo of {sudo}"

    def glass(act: HeldAct) -> tuple[str, str, datetime, bytes]:
        now = datetime.now(UTC)
        said = ledger.BreakGlass(user, reason, microseconds(now))
        return user, reason, now, ledger.break_glass_mac(keys, act.digest, said)

    return glass


def _fields(act: HeldAct) -> dict[str, object]:
    return {**asdict(act), "digest": act.digest.hex()}


def _show(act: HeldAct) -> None:
    fields: dict[str, str | datetime] = {
        "asked by": f"{act.policy_client} ({act.client})",
        "at": act.requested_at,
        "state": act.state,
    }
    fields |= {"lapses": act.lapses_at} if act.state == "open" else {}
    fields |= {"by": f"{act.decided_policy_client} ({act.decided_by})"} if act.decided_by else {}
    fields |= {"changed": str(act.done)} if act.state == "confirmed" else {}
    fields |= {"glass broken": act.break_glass} if act.break_glass else {}
    fields |= {"reason": act.reason} if act.reason else {}
    fields["digest"] = act.digest.hex()
    print_fields(f"Act {act.id}: {_what(act)}", fields)
    for line in act.asked:
        typer.echo(f"  {printable(line)}")
    typer.echo()


def _what(act: HeldAct) -> str:
    return f"{act.kind} of {amount(act.size, 'certificate')}" if act.kind == "revocation" else act.kind


def _why(act: HeldAct) -> str:
    """Return the reason of an act; a client's own words in quotes, so that they are nothing of ours."""
    reason = act.reason if act.kind == "revocation" else repr(act.reason)
    return f", for the reason {reason}" if act.reason else ""


def _first(act: HeldAct) -> str:
    more = f", and {act.asked_count - 1:,} more" if act.asked_count > 1 else ""
    return f"{act.asked[0]}{more}" if act.asked else ""


def _print(act: HeldAct, *, as_json: bool) -> None:
    if as_json:
        print_json_line({"type": act.state, **_fields(act)})
        return
    what = f"{act.state}: act {act.id}, a {act.kind} that {act.policy_client} asked for"
    typer.echo(printable(f"{what}; it changed {act.done:,}" if act.state == "confirmed" else what))
    if act.newer_devices:
        devices = amount(len(act.newer_devices), "device")
        typer.echo(f"{devices} got a certificate after that was asked for, which is not revoked:", err=True)
        for device in act.newer_devices:
            typer.echo(f"  {printable(device)}", err=True)
