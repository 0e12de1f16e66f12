"""`otahsm bench`."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer

from otahsm.bench import IssueResult, LoadPlan, TokenRate, bench_issue, bench_target, bench_token, count_calls
from otahsm.bench.plot import plot
from otahsm.cli.commands.bench.tables import print_issue_result, print_token_rates
from otahsm.cli.inputs import choices_of
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, ProfileOption
from otahsm.cli.settings import load_config
from otahsm.config import Config, section
from otahsm.errors import ConfigError
from otahsm.pki.keytypes import KeyType

_MESSAGE_SIZES = (1, 4, 16, 64, 256)
_PLOT_FORMATS = (".png", ".svg")


def token(
    key_type: Annotated[
        list[str] | None,
        typer.Option(metavar="|".join(get_args(KeyType)), help="Measure only this type of key. Repeatable."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="The highest number of processes.")] = 2,
    sessions: Annotated[
        int, typer.Option(min=1, max=64, help="The highest number of sessions per process.")
    ] = 4,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure each setting.")] = 1.0,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Measure raw signatures per second for 1, 2, 4... processes and sessions, and print the best setting.

    Makes a key of each type that the token has a mechanism for, labelled otahsm-bench-..., and destroys it
    afterwards. The fleet's CA key is not touched. Each process of each setting logs in once.

    \b
    Examples:
      otahsm bench token
      otahsm bench token --key-type ec-p256 --processes 4 --sessions 16 --json
    """  # noqa: D301 - click reads the character, not the escape
    settings = section(load_config(config).token, "token")

    async def run() -> list[TokenRate]:
        return [
            rate
            async for rate in bench_token(
                settings,
                only=choices_of(KeyType, key_type, "--key-type"),
                processes=_doubling(processes),
                sessions=_doubling(sessions),
                seconds=seconds,
            )
        ]

    print_token_rates(asyncio.run(run()), as_json=as_json)


def issue(
    certificates: Annotated[
        int, typer.Option(min=1, max=100_000_000, help="How many certificates to request.")
    ] = 20000,
    message_size: Annotated[int, typer.Option(min=1, max=256, help="CSRs per message.")] = 64,
    streams: Annotated[
        int, typer.Option(min=0, max=64, help="Streams at once. 0: one unary call after another.")
    ] = 1,
    signers: Annotated[int | None, typer.Option(min=1, max=64, help="Default: [token] signers.")] = None,
    sessions: Annotated[int | None, typer.Option(min=1, max=64, help="Default: [token] sessions.")] = None,
    key_type: Annotated[KeyType, typer.Option(help="The type of the throwaway CA key.")] = "ec-p256",
    target: Annotated[
        str, typer.Option(help="Measure the daemon at HOST:PORT instead. It issues REAL certificates.")
    ] = "",
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Also measure other message sizes and numbers of signers, and plot them (PNG, SVG)."
        ),
    ] = None,
    profile: ProfileOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Measure how many certificates per second a whole daemon issues, over mutual TLS, with a durable ledger.

    Starts a daemon of its own, on a throwaway CA whose key is made in the token (otahsm-bench-...) and
    destroyed afterwards, and on a new ledger beside the configured one. The fleet's CA and ledger are not
    touched. The crypto floor is measured before and after: for each certificate, one CSR signature verified,
    one C_Sign and its result verified, in as many processes as there are signers, and nothing else.

    \b
    Examples:
      otahsm bench issue
      otahsm bench issue --streams 16 --message-size 1
      otahsm bench issue --signers 2 --sessions 8 --plot throughput.svg
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_config(config)
    plan = LoadPlan(certificates, streams, message_size, profile=profile)
    if plot is not None:
        _check_drawable(plot, target)
    if target:
        client = section(settings.client, "client").model_copy(update={"target": (target,)})
        print_issue_result(asyncio.run(bench_target(client, plan)), as_json=as_json)
        return
    changes = {"signers": signers, "sessions": sessions}
    given = {name: value for name, value in changes.items() if value is not None}
    tokens = section(settings.token, "token").model_copy(update=given)
    settings = settings.model_copy(update={"token": tokens})
    result = asyncio.run(_measure(settings, key_type, [plan]))[0]
    calls = asyncio.run(count_calls(settings, key_type))
    print_issue_result(result._replace(calls_per_certificate=calls), as_json=as_json)
    if plot is not None:
        _draw(settings, key_type, plan, plot)


def _check_drawable(path: Path, target: str) -> None:
    """Check that the plot can be written before minutes go into measuring for it."""
    if target:
        raise ConfigError(
            "--plot needs daemons with other numbers of signers, and can't change those of --target",
            hint="Omit one of the two.",
        )
    if path.suffix not in _PLOT_FORMATS or not path.parent.is_dir():
        raise ConfigError(f"can't plot to {path}", hint="Name a .png or .svg file in a folder that exists.")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib", hint="Install it: pip install 'otahsm[plot]'")


async def _measure(settings: Config, key_type: KeyType, plans: Sequence[LoadPlan]) -> list[IssueResult]:
    async with bench_issue(settings, key_type) as bench:
        return [await bench.run(plan) for plan in plans]


def _draw(settings: Config, key_type: KeyType, plan: LoadPlan, path: Path) -> None:
    plans = [plan._replace(requests_per_message=size) for size in _MESSAGE_SIZES]
    by_message = asyncio.run(_measure(settings, key_type, plans))
    token = section(settings.token, "token")
    by_signers = []
    for count in _doubling(max(token.signers, 4)):
        changed = settings.model_copy(update={"token": token.model_copy(update={"signers": count})})
        by_signers += asyncio.run(_measure(changed, key_type, [plan]))
    try:
        plot(by_message, by_signers, path)
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}") from None
    typer.echo(f"Written: {path}", err=True)


def _doubling(limit: int) -> list[int]:
    """Return 1, 2, 4... and the limit."""
    return sorted({limit, *(1 << power for power in range(limit.bit_length()) if 1 << power <= limit)})
