"""`otahsm doctor`."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import print_json, printable
from otahsm.config import load_config
from otahsm.doctor import diagnose
from otahsm.errors import ExitCode


def doctor(as_json: JsonOption = False, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Look at everything that a daemon needs, and say what to mend; the first thing to run with a new HSM.

    Loads the PKCS#11 module, finds the token, logs in once, has each key sign a line that is no certificate,
    and looks at the chain (also as OpenSSL does), ledger, TLS files and clock. It changes nothing, and can be
    run beside a daemon. Exits with 4 if anything would keep the daemon from its work.
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
        typer.echo(f"{len(checks)} looked at: {failed} to mend, {warned} to think about")
    if failed:
        raise typer.Exit(ExitCode.OPERATOR)
