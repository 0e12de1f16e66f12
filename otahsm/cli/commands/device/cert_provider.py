"""`otahsm cert-provider`: the options of aktualizr-cert-provider, with the CA's key in the daemon's token."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.commands.device.providing import Provision, import_directory, provide
from otahsm.cli.options import DEFAULT_CONFIG, JsonOption, PatienceOption, ProfileOption, QuietOption
from otahsm.cli.output.progress import OutputMode
from otahsm.pki.keytypes import KeyType


def cert_provider(
    credentials: Annotated[
        Path | None,
        typer.Option("--credentials", "-c", help="The credentials.zip. Default: the one in [client]."),
    ] = None,
    fleet_ca: Annotated[
        Path | None, typer.Option(help="The fleet root that must have issued the certificate.")
    ] = None,
    fleet_ca_key: Annotated[
        Path | None, typer.Option(help="Ignored: the key is in the daemon's token.")
    ] = None,
    bits: Annotated[int, typer.Option(help="The size of the RSA key: 2048, 3072 or 4096.")] = 2048,
    days: Annotated[
        int | None, typer.Option(min=1, max=36525, help="The validity in days; it must be the profile's.")
    ] = None,
    certificate_c: Annotated[str, typer.Option(help="The subject's C, if the profile has one.")] = "",
    certificate_st: Annotated[str, typer.Option(help="The subject's ST, if the profile has one.")] = "",
    certificate_o: Annotated[str, typer.Option(help="The subject's O, if the profile has one.")] = "",
    certificate_cn: Annotated[str, typer.Option(help="The device id. Default: a random UUID.")] = "",
    target: Annotated[str, typer.Option("--target", "-t", help="Install on [user@]host.")] = "",
    port: Annotated[int | None, typer.Option("--port", "-p", min=1, max=65535, help="The SSH port.")] = None,
    directory: Annotated[
        str, typer.Option("--directory", "-d", help="The folder on the device. Default: /var/sota/import.")
    ] = "",
    root_ca: Annotated[bool, typer.Option("--root-ca", "-r", help="Provide root.crt.")] = False,
    server_url: Annotated[bool, typer.Option("--server-url", "-u", help="Provide gateway.url.")] = False,
    local: Annotated[
        Path | None,
        typer.Option("--local", "-l", help="Write to this folder, as if it were a device's root."),
    ] = None,
    aktualizr_config: Annotated[
        list[Path] | None,
        typer.Option("--config", "-g", help="aktualizr's configuration, for its base_path."),
    ] = None,
    skip_checks: Annotated[
        bool,
        typer.Option("--skip-checks", "-s", help="Accept the keys of hosts that are not known yet."),
    ] = False,
    profile: ProfileOption = "",
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    otahsm_config: Annotated[
        Path,
        typer.Option("--otahsm-config", envvar="OTAHSM_CONFIG", help="The configuration of otahsm."),
    ] = DEFAULT_CONFIG,
) -> None:
    """Provide one device, with the options of aktualizr-cert-provider.

    The device also gets a folder in the devices folder. To finish what was interrupted, with the same key and
    certificate, run the same command with the same --certificate-cn.

    Exit codes: 0 done, 1 refused, 2 wrong use or configuration, 3 can't reach the daemon.

    \b
    Examples:
      otahsm cert-provider -c credentials.zip --certificate-cn bench-1 -l image --root-ca --server-url
      otahsm cert-provider -c credentials.zip -t root@192.0.2.17 --root-ca --server-url
    """  # noqa: D301 - click reads the character, not the escape
    if local is None and not target:
        raise typer.BadParameter("give --local, --target or both")
    if directory and aktualizr_config:
        raise typer.BadParameter("--directory and --config can't be used together")
    key_types: dict[int, KeyType] = {2048: "rsa-2048", 3072: "rsa-3072", 4096: "rsa-4096"}
    if bits not in key_types:
        raise typer.BadParameter("--bits is 2048, 3072 or 4096: smaller keys can be broken")
    if fleet_ca_key is not None:
        typer.echo(f"otahsm: ignoring {fleet_ca_key}: the CA's key is in the daemon's token", err=True)
    if not certificate_cn:
        certificate_cn = str(uuid.uuid4())
        typer.echo(f"Random device ID is {certificate_cn}", err=as_json)
    where = import_directory(directory, aktualizr_config or [])
    connect = None
    if target:
        from otahsm.install.ssh import Login, over_ssh  # noqa: PLC0415 - it needs the ssh extra

        connect = over_ssh(Login(port=port, accept_new=skip_checks, directory=where))
    provision = Provision(
        certificate_cn,
        key_types[bits],
        days,
        {"C": certificate_c, "ST": certificate_st, "O": certificate_o},
        fleet_ca,
        credentials,
        root_ca=root_ca,
        server_url=server_url,
    )
    output_mode = OutputMode(as_json, quiet)
    done = provide(otahsm_config, provision, profile, patience, local, where, target, connect, output_mode)
    if not asyncio.run(done):
        raise typer.Exit(1)
