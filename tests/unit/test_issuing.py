"""A line's run: what it asks with is let go, however the run ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import pytest

from otahsm.client import CertificateRequest, IssuanceClient, Refusal, Result
from otahsm.errors import FolderError, RequestRefusedError
from otahsm.line import Device, DeviceFolders, IssueOptions, Run, issue_devices


class EndlessDaemon:
    """Refuses a device again and again, as a stream that is not closed would go on."""

    told_anchors = (b"",)

    def __init__(self) -> None:
        self.is_closed = False

    async def issue(self, _: object, *, profile: str, **_anchors: object) -> AsyncGenerator[Result, None]:
        try:
            while True:
                yield Refusal(
                    CertificateRequest(b"", f"device{profile}"), RequestRefusedError("csr", "is bad")
                )
        finally:
            await asyncio.sleep(0)  # as a call that is cancelled
            self.is_closed = True


def run_of(daemon: EndlessDaemon, folder: Path) -> AsyncGenerator[object, None]:
    folders, devices = DeviceFolders(folder, b""), [Device("device")]
    run = Run.open(folders, ["test"], devices)
    return issue_devices(cast(IssuanceClient, daemon), folders, devices, IssueOptions("ec-p256"), run=run)


async def test_a_run_whose_folders_fail_closes_its_stream_before_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise FolderError("the disk is full")

    monkeypatch.setattr(DeviceFolders, "finish", fail)
    daemon = EndlessDaemon()
    with pytest.raises(FolderError):
        await anext(run_of(daemon, tmp_path))
    assert daemon.is_closed


async def test_a_run_that_is_left_closes_its_stream(tmp_path: Path) -> None:
    daemon = EndlessDaemon()
    async with contextlib.aclosing(run_of(daemon, tmp_path)) as reports:
        async for _ in reports:
            break
    assert daemon.is_closed
