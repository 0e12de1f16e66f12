"""`otahsm doctor`."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import print_json, printable
from otahsm.cli.settings import load_config
from otahsm.doctor import diagnose
from otahsm.errors import ExitCode


def doctor(as_json: JsonOption = False, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Check everything that a daemon needs, and print how to fix it. Run it first with a new HSM.

    Loads the PKCS#11 module, finds the token, logs in once, makes each key sign a line that is not a
    certificate, and checks the chain (also with OpenSSL), the ledger, TLS files and the clock. It changes
    nothing and can run beside a daemon. Exits with 4 if anything would keep the daemon from working.
    """
    colours = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "fail": typer.colors.RED}
    checks = []
    for check in diagnose(load_config(config), config.absolute(), datetime.now(UTC)):
        checks.append(check)
        if not as_json:
            typer.secho(f"{check.status:<8}", fg=colours[check.status], nl=False)
            typer.echo(f"{printable(check.subject)}: {printable(check.message)}")
            if check.fix:
                typer.echo(f"        {printable(check.fix)}")
    failed = sum(check.status == "fail" for check in checks)
    if as_json:
        print_json([check.as_dict() for check in checks])
    else:
        warned = sum(check.status == "warning" for check in checks)
        typer.echo(f"{len(checks)} checks: {failed} failed, {warned} with a warning")
    if failed:
        raise typer.Exit(ExitCode.OPERATOR)
