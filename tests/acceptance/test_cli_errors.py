"""What a daemon fails with is what its user reads, and what the command exits with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otahsm.errors import (
    ConflictError,
    LedgerTamperedError,
    OtahsmError,
    PinRefusedError,
    QuotaError,
    RequestRefusedError,
    TokenUnavailableError,
)

from support.harness import Fleet
from support.refusing import RefusingDaemon

COMMANDS = (
    "device reset device-1 --expect 1",
    "batch status batch-1",
    "ledger get device-1",
    "crl show --from-daemon",
    "client list",
    "audit",
    "batch list",
    "ledger export",
    "revoke --device-id device-1 --reason superseded --expect 1",
    "ledger checkpoint",
    "device issue --count 1",
)
ONE = COMMANDS[:1]
ERRORS = (
    (TokenUnavailableError("the token is away", hint="plug it in"), 3, COMMANDS),
    (RequestRefusedError("device_id", "it is too long", hint="take a shorter one"), 1, COMMANDS),
    (PinRefusedError("the token refused the PIN", hint="look at the PIN file"), 4, ONE),
    (ConflictError("it is taken", hint="take another"), 1, ONE),
    (QuotaError("it is enough", hint="ask for more"), 1, ONE),
    (LedgerTamperedError("it was changed", hint="keep it"), 4, ONE),
)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[RefusingDaemon]:
    async with RefusingDaemon.running(tmp_path) as running:
        tls = running.tls
        (tmp_path / "otahsm.toml").write_text(
            f'[client]\ntarget = "{running.address}"\nca = "{tls.ca}"\ncertificate = "{tls.certificate}"\n'
            f'key = "{tls.key}"\ndevices = "devices"\npatience_seconds = 0\n'
        )
        yield running


@pytest.mark.parametrize(
    ("error", "exit_code", "commands"), ERRORS, ids=[error.reason for error, *_ in ERRORS]
)
async def test_a_command_ends_with_the_daemons_words_and_the_errors_exit_code(
    daemon: RefusingDaemon, tmp_path: Path, error: OtahsmError, exit_code: int, commands: tuple[str, ...]
) -> None:
    daemon.error = error
    for command in commands:
        done = await asyncio.to_thread(Fleet(tmp_path).run, *command.split())
        assert done.stderr.endswith(f"otahsm: {error.message}\n        {error.hint}\n"), command
        assert done.stdout == "", command
        assert done.returncode == exit_code, command
