"""The `otahsm` command. Commands parse, call and print; what they are about is imported when they run."""

from __future__ import annotations

import os
import sys
from typing import Final

import typer

from otahsm.cli import (
    audit,
    batch,
    bench,
    ca,
    ca_keys,
    ca_rotation,
    cert_provider,
    client,
    crl,
    csr,
    device,
    device_enroll,
    device_install,
    device_register,
    doctor,
    gateway,
    health,
    ledger,
    ledger_local,
    ledger_proofs,
    policy,
    quickstart,
    revoke,
    serve,
    show,
    signer,
)
from otahsm.errors import ExitCode, OtahsmError

# What a command needs beyond a bare client, by the extra that brings it.
_EXTRAS: Final = {
    "server": {"alembic", "grpc_reflection", "pkcs11", "re2", "sqlalchemy", "structlog"},
    "ssh": {"asyncssh"},
}

app = typer.Typer(
    name="otahsm",
    help="Issue device certificates for over-the-air fleets from a CA key that never leaves its HSM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("quickstart")(quickstart.quickstart)
app.command("serve")(serve.serve)
app.command("signer")(signer.signer)
app.command("doctor")(doctor.doctor)
app.command("health")(health.health)
app.command("show")(show.show)
app.command("cert-provider")(cert_provider.cert_provider)
app.command("revoke")(revoke.revoke)
app.command("audit")(audit.audit)
app.add_typer(policy.app, name="policy")
app.add_typer(client.app, name="client")
ca.app.registered_commands += ca_keys.app.registered_commands + ca_rotation.app.registered_commands
app.add_typer(ca.app, name="ca")
device.app.registered_commands += (
    device_enroll.app.registered_commands
    + device_install.app.registered_commands
    + device_register.app.registered_commands
)
app.add_typer(device.app, name="device")
app.add_typer(batch.app, name="batch")
app.add_typer(csr.app, name="csr")
app.add_typer(crl.app, name="crl")
app.add_typer(gateway.app, name="gateway")
ledger.app.command("reconcile")(ledger_local.reconcile)
ledger.app.command("backup")(ledger_local.backup)
ledger.app.command("restore")(ledger_local.restore)
ledger.app.registered_commands += ledger_proofs.app.registered_commands
app.add_typer(ledger.app, name="ledger")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run a command; turn our errors into one clear message and the exit code that documents it."""
    try:
        app(color=False if os.environ.get("NO_COLOR") else None)  # no-color.org; rich sees to it by itself
    except OtahsmError as error:
        sys.stderr.write(f"otahsm: {error.message}\n        {error.hint}\n")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = next((extra for extra, modules in _EXTRAS.items() if missing in modules), None)
        if extra is None:
            raise
        sys.stderr.write(
            f"otahsm: this command needs {missing}, which a bare client does not have\n"
            f"        Install it: pip install 'otahsm[{extra}]'\n"
        )
        sys.exit(ExitCode.USAGE)
    except KeyboardInterrupt:
        sys.exit(130)
