"""A command is one client of the daemon: it connects once, whatever it asks for."""

from __future__ import annotations

import asyncio
import re
import uuid
from pathlib import Path

from otahsm.config import section

from support.harness import Fleet
from support.proxy import CountingProxy


async def test_a_command_connects_once(line: Fleet, tmp_path: Path) -> None:
    name = f"batch-{uuid.uuid4()}"
    report = tmp_path / "report"
    commands = (
        f"batch create {name} --template {name}-{{seq:02d}} --count 3 --expect 3",
        f"batch run {name} --out {tmp_path}",
        f"batch report {name} --html {report}.html --csv {report}.csv --out {tmp_path}",
        f"device issue --count 1 --out {tmp_path}",
        f"ledger list --batch {name}",
        f"ledger get {name}-01",
        f"revoke --device-id {name}-01 --reason superseded --expect 1",
        "health",
    )
    toml = line.toml.with_name("proxied.toml")
    (target,) = section(line.config.client, "client").target
    for command in commands:
        proxy = CountingProxy(target)
        async with proxy.running():
            toml.write_text(re.sub(r'target = ".*"', f'target = "{proxy.address}"', line.toml.read_text()))
            done = await asyncio.to_thread(line.run, *command.split(), "--config", str(toml))
        assert done.returncode == 0, (command, done.stderr)
        assert proxy.connections == 1, command
