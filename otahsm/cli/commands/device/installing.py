"""Finds which devices to install where, and follows the run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer

from otahsm.cli.output.failures import failure_fields, failure_line
from otahsm.cli.output.fields import print_json_line, printable
from otahsm.cli.output.progress import Meter, OutputMode
from otahsm.errors import ConfigError
from otahsm.install.aktualizr import IMPORT, SOTA, TokenKeys, holds_pin, sota_toml
from otahsm.install.installing import ImageRoot, NotInstalled, Shell, install, install_all
from otahsm.line.device_files import DeviceFiles
from otahsm.line.device_rows import read_rows
from otahsm.system.secret_files import read_secret_line

Connect = Callable[[str], AbstractAsyncContextManager[Shell]]

_MODES: Final = {"pkey.pem": "0600"}
_COLUMNS: Final = ("host", "port", "user")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What aktualizr's configuration says, if it is written; `token` is None for keys in files."""

    wanted: bool
    hardware_id: str = ""
    token: TokenKeys | None = None

    def of(self, files: DeviceFiles, hardware_id: str = "") -> str:
        """Return a device's, or nothing if none is installed. Raises ConfigError: the key is elsewhere."""
        if not self.wanted:
            return ""
        if (self.token is None) != ("pkey.pem" in files.contents):
            where = "not in a file" if self.token is None else "in a file"
            raise ConfigError(
                f"the key of {files.device_id} is {where}",
                hint="Use --p11-module for devices whose key is in their own token, and only for them.",
            )
        return sota_toml(hardware_id or self.hardware_id, self.token)


def token_keys(module: str, pin_file: Path | None) -> TokenKeys | None:
    """Return where a device's key is; None if it is in a file. Raises ConfigError."""
    if not module:
        return None
    return TokenKeys(module, read_secret_line(pin_file, "the PIN") if pin_file else "")


@dataclass(frozen=True, slots=True)
class Job:
    """One device, its files, and where they go: a root folder or a host; `line` is in the inventory."""

    files: DeviceFiles
    toml: str
    root: Path | None
    host: str
    line: int = 0

    @property
    def where(self) -> str:
        """The place, in words."""
        return self.host or str(self.root)


def find_jobs(
    root: Path | None,
    host: str,
    inventory: Path | None,
    device_ids: Sequence[str],
    devices: Path,
    configuration: Configuration,
) -> list[Job]:
    """Read what to install, and where: one of the first three; all is checked before anything is done.

    Raises:
        ConfigError: a file is missing or wrong.
        BadParameter: the options don't go together.
    """
    if sum((root is not None, bool(host), inventory is not None)) != 1:
        raise typer.BadParameter("give one of --root, --host and --inventory")
    now = datetime.now(UTC)
    if inventory is None:
        if len(device_ids) != 1:
            raise typer.BadParameter("name one device, or many with --inventory")
        files = DeviceFiles.load(devices, device_ids[0], now)
        return [Job(files, configuration.of(files), root, host)]
    jobs = []
    seen: dict[tuple[str, str], int] = {}
    for row in read_rows(inventory, "device_id"):
        values = row.values
        host = _host(inventory, row.line, values)
        for what, value in (("device", values["device_id"]), ("host", host.rpartition("@")[2])):
            if (first := seen.setdefault((what, value), row.line)) != row.line:
                raise ConfigError(
                    f"{inventory}, line {row.line}: the {what} {value!r} is already on line {first}",
                    hint="Correct the file; nothing was done yet.",
                )
        if device_ids and values["device_id"] not in device_ids:
            continue
        files = DeviceFiles.load(devices, values["device_id"], now)
        jobs.append(Job(files, configuration.of(files, values.get("hardware_id", "")), None, host, row.line))
    if missing := sorted(set(device_ids) - {job.files.device_id for job in jobs}):
        raise ConfigError(f"{inventory} does not list {missing[0]}", hint="Add it, with its host.")
    if not jobs:
        raise ConfigError(f"{inventory} lists no device")
    return jobs


def _host(inventory: Path, line: int, values: dict[str, str]) -> str:
    host, port, user = (values.get(name, "") for name in _COLUMNS)
    if not host:
        raise ConfigError(f"{inventory}, line {line} has no host", hint="Correct the line.")
    if port and (":" in host.rpartition("]")[2] or not port.isdecimal()):
        raise ConfigError(
            f"{inventory}, line {line}: {port!r} is not a port for {host}", hint="Correct the line."
        )
    if user and "@" in host:
        raise ConfigError(f"{inventory}, line {line} names two users", hint="Correct the line.")
    return f"{user}{'@' * bool(user)}{host}{':' * bool(port)}{port}"


def print_jobs(jobs: Sequence[Job], *, as_json: bool) -> None:
    """Print what would be done; never what is in a key."""
    for job in jobs:
        files = [
            {
                "path": f"{IMPORT}/{name}",
                "mode": _MODES.get(name, "0644"),
                "octets": len(content),
                **({} if name in _MODES else {"sha256": hashlib.sha256(content).hexdigest()}),
            }
            for name, content in job.files.contents.items()
        ]
        if job.toml:
            mode = "0600" if holds_pin(job.toml) else "0644"
            files.append({"path": f"{SOTA}/sota.toml", "mode": mode, "octets": len(job.toml)})
        if as_json:
            fields = {
                "type": "would-install",
                "device_id": job.files.device_id,
                "where": job.where,
                "files": files,
            }
            print_json_line(fields)
            continue
        typer.echo(f"{printable(job.files.device_id)} -> {printable(job.where)}")
        for file in files:
            digest = f"  sha256:{file['sha256']}" if "sha256" in file else ""
            typer.echo(f"  {file['path']}  {file['mode']}  {file['octets']} octets{digest}")


async def run_jobs(
    jobs: Sequence[Job], connect: Connect | None, parallel: int, output_mode: OutputMode, *, replace: bool
) -> bool:
    """Install devices and show the progress; return whether every device has its files."""
    began = time.monotonic()
    installed = before = failed = 0
    planned = [(job.files.device_id, job.where, _work(job, connect, replace=replace)) for job in jobs]
    with Meter("devices", len(jobs), output_mode) as meter:
        async for report in install_all(planned, parallel):
            if isinstance(report, NotInstalled):
                failed += 1
                _print_failure(report, output_mode, meter)
            else:
                before += report.before
                installed += not report.before
                if output_mode.as_json:
                    kind = "complete" if report.before else "installed"
                    line = {"type": kind, "device_id": report.device_id, "where": report.where}
                    print_json_line(line)
            meter.show(installed + before + failed, installed + failed)
    seconds = time.monotonic() - began
    if output_mode.as_json:
        counts = {"installed": installed, "complete_before": before, "failed": failed}
        print_json_line({"type": "summary", **counts, "seconds": round(seconds, 3)})
    elif not output_mode.quiet:
        text = f"{installed} installed in {seconds:.1f} s"
        text += f", {before} had their files already" if before else ""
        typer.echo(f"{text}, {failed} failed")
    return not failed


def _work(job: Job, connect: Connect | None, *, replace: bool) -> Callable[[], Awaitable[bool]]:
    async def into_image() -> bool:
        assert job.root is not None  # noqa: S101 - it is this or a host
        return await install(ImageRoot(job.root), job.files, job.toml, replace=replace)

    async def over_ssh() -> bool:
        assert connect is not None  # noqa: S101 - there is one for hosts
        async with connect(job.host) as shell:
            return await install(shell, job.files, job.toml, replace=replace)

    return into_image if job.root is not None else over_ssh


def _print_failure(report: NotInstalled, output_mode: OutputMode, meter: Meter) -> None:
    error = report.error
    if output_mode.as_json:
        print_json_line({**failure_fields(report.device_id, error), "where": report.where})
        return
    meter.say(failure_line(f"{report.device_id!r} at {report.where}", error))
