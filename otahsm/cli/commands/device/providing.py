"""What `otahsm cert-provider` does: issue one device and install it."""

from __future__ import annotations

import configparser
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Final

import typer

from otahsm.cli.commands.device.installing import Connect
from otahsm.cli.connect import connect, find_profile, issue_options, load_client, open_folders, registers
from otahsm.cli.output.failures import failure_line
from otahsm.cli.output.fields import print_outcome
from otahsm.cli.output.progress import OutputMode
from otahsm.client import Profile
from otahsm.errors import ConfigError, RequestRefusedError
from otahsm.install.aktualizr import IMPORT
from otahsm.install.installing import ImageRoot, Shell, install
from otahsm.line import Device, Done, Run, issue_devices
from otahsm.line.device_files import DeviceFiles
from otahsm.pki.keytypes import KeyType
from otahsm.system.files import read_text

_NAMES: Final = {
    "tls_pkey_path": "pkey.pem",
    "tls_clientcert_path": "client.pem",
    "tls_cacert_path": "root.crt",
}


@dataclass(frozen=True, slots=True)
class Provision:
    """What to provide, in the words of aktualizr-cert-provider."""

    device_id: str
    key_type: KeyType
    days: int | None
    subject: Mapping[str, str]
    fleet_ca: Path | None
    credentials: Path | None
    root_ca: bool
    server_url: bool


def import_directory(directory: str, configurations: Sequence[Path]) -> str:
    """Return where files go on a device: as given, or as aktualizr's configuration says.

    Raises:
        ConfigError: it is not an absolute path, or the files have other names there.
    """
    for path in configurations:
        for file in sorted(path.glob("*.toml")) if path.is_dir() else [path]:
            directory = _base_path(file) or directory
    directory = directory or IMPORT
    path_there = PurePosixPath(directory)
    if not path_there.is_absolute() or len(path_there.parts) < 3 or ".." in path_there.parts:  # noqa: PLR2004
        raise ConfigError(
            f"{directory!r} can't be the folder for a device's files",
            hint=f"Name an absolute path such as {IMPORT}.",
        )
    return str(path_there)


def _base_path(file: Path) -> str:
    """Read a file of aktualizr's as it does: as INI. Raises ConfigError."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(file))
    except configparser.Error:
        raise ConfigError(f"{file} is not in INI format") from None
    if not parser.has_section("import"):
        return ""
    given = {key: value.strip().strip('"') for key, value in parser["import"].items()}
    for key, name in _NAMES.items():
        if given.get(key, name) != name:
            raise ConfigError(f"{file}: {key} is {given[key]}, but otahsm writes {name}")
    return given.get("base_path", "")


async def provide(
    config: Path,
    asked: Provision,
    profile: str,
    patience: float | None,
    local: Path | None,
    directory: str,
    target: str,
    connect_to: Connect | None,
    output_mode: OutputMode,
) -> bool:
    """Issue a device and install it; return whether it was issued. Raises OtahsmError."""
    settings = load_client(config)
    if asked.credentials is not None:
        gateway = {"credentials": asked.credentials, "gateway_url": None, "server_ca": None}
        settings = settings.model_copy(update=gateway)
    if asked.fleet_ca is not None:
        settings = settings.model_copy(update={"fleet_ca": (asked.fleet_ca,)})
    async with connect(settings, patience) as client:
        meant = await find_profile(client.issuance, profile)
        device = Device(asked.device_id, _attributes(asked, meant))
        options = await issue_options(client.issuance, meant.name, "seed", asked.key_type, None)
        async with open_folders(client.issuance, settings, None) as folders:
            run = Run.open(folders, ["cert-provider", asked.device_id, meant.name], [device])
            if registers(config):
                run.announce(meant.name)
            async with contextlib.aclosing(
                issue_devices(client.issuance, folders, [device], options, run=run)
            ) as reports:
                async for report in reports:
                    if not isinstance(report, Done):
                        typer.echo(failure_line(report.name, report.refusal.error), err=True)
                        return False
            run.end()
            root = folders.root
    files = _chosen(DeviceFiles.load(root, asked.device_id, datetime.now(UTC)), asked)
    if local is not None:
        shell: Shell = _image(local, directory)
        await _install(shell, files, f"{local}{directory}", output_mode)
    if connect_to is not None:
        async with connect_to(target) as shell:
            await _install(shell, files, f"{target}:{directory}", output_mode)
    return True


def _image(root: Path, directory: str) -> ImageRoot:
    root.mkdir(parents=True, exist_ok=True)
    return ImageRoot(root, directory)


async def _install(shell: Shell, files: DeviceFiles, where: str, output_mode: OutputMode) -> None:
    before = await install(shell, files)
    if not output_mode.quiet:
        text = f"{files.device_id} {'had' if before else 'has'} its files in {where}"
        print_outcome(
            text, as_json=output_mode.as_json, device_id=files.device_id, where=where, before=before
        )


def _attributes(asked: Provision, profile: Profile) -> dict[str, str]:
    """Return the attributes that the profile needs, checked against its own. Raises RequestRefusedError."""
    if asked.days is not None and timedelta(days=asked.days) != profile.validity:
        raise RequestRefusedError(
            "days",
            f"the profile {profile.name} gives {profile.validity.days} days, not {asked.days}",
            hint="Omit --days, or name another profile with --profile.",
        )
    says = dict(part.split("=", 1) for part in profile.subject)
    attributes = {}
    for kind, value in asked.subject.items():
        if not value:
            continue
        expected = says.get(kind, "")
        if expected.startswith("{") and expected[1:-1] in profile.attributes:
            attributes[expected[1:-1]] = value
        elif expected != value:
            raise RequestRefusedError(
                "subject",
                f"the profile {profile.name} has {kind}={expected or 'nothing'}, not {value}",
                hint=f"Omit --certificate-{kind.lower()}, or add it to the profile's subject.",
            )
    return attributes


def _chosen(files: DeviceFiles, asked: Provision) -> DeviceFiles:
    left_out = {"root.crt": not asked.root_ca, "gateway.url": not asked.server_url}
    kept = {name: content for name, content in files.contents.items() if not left_out.get(name)}
    return DeviceFiles(files.device_id, kept)
