"""What the tests of `otahsm ledger` share."""

from __future__ import annotations

import calendar
import re
import time

from support.devices import issue_all, new_requests
from support.harness import RunningDaemon
from support.homes import Home


def ledger_section(home: Home) -> str:
    config = home.config
    key = 'key_file = "ledger.key"\n\n'
    if config.url is None:
        return f'[ledger]\npath = "{config.path}"\n{key}'
    return f'[ledger]\nurl = "{config.url}"\npassword_file = "{config.password_file}"\n{key}'


async def issue(daemon: RunningDaemon, count: int) -> list[str]:
    async with daemon.client() as client:
        issued, refused = await issue_all(client, new_requests(count))
    assert not refused
    return [item.device_id for item in issued]


def microseconds(text: str) -> int | None:
    """Read RFC 3339 without what otahsm writes it with."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{6}))?Z", text)
    assert match, text
    seconds = time.strptime(f"{match[1]} +0000", "%Y-%m-%dT%H:%M:%S %z")
    return calendar.timegm(seconds) * 1_000_000 + int(match[2] or 0)
