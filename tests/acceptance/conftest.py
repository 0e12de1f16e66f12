"""Fixtures: fleets under every type of CA key, with a device of every type of key."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from otahsm.line import Device as AskedDevice
from otahsm.line import DeviceFolders, Done, IssueOptions, Run, issue_devices
from otahsm.pki.keytypes import KeyType

from support.harness import Fleet, RunningDaemon, running
from support.programs import Device, make_ca

KEY_TYPES: tuple[KeyType, ...] = ("ec-p256", "ec-p384", "rsa-2048", "ed25519")
PAIRS = [pytest.param(pair, id=f"{pair[0]}-ca-{pair[1]}-device") for pair in product(KEY_TYPES, KEY_TYPES)]


@pytest.fixture(scope="session")
def devices_of(make_fleet: Callable[[], Fleet]) -> Callable[[str], dict[str, Device]]:
    """Make a fleet with a CA key of a type, once; return a device of each type of key."""

    @functools.cache
    def make(ca_key_type: str) -> dict[str, Device]:
        fleet = make_fleet()
        made = make_ca(fleet, "--key-type", ca_key_type)
        assert made.returncode == 0, made.stderr
        root = fleet.folder / "ca/another-root.pem"

        with running(fleet) as daemon:
            daemon.wait_for("health.changed", serving=True)
            folders = asyncio.run(_issue_one_of_each(daemon))
        return {key_type: Device(folder, root, key_type) for key_type, folder in folders.items()}

    return make


async def _issue_one_of_each(daemon: RunningDaemon) -> dict[str, Path]:
    config = daemon.fleet.config.client
    assert config is not None
    async with daemon.client() as client:
        authority = await client.issuance.authority()
        folders = DeviceFolders(config.devices, authority.trust_anchor, config.server_ca, config.gateway_url)
        for key_type in KEY_TYPES:
            device = AskedDevice(f"dev-{key_type}")
            run = Run.open(folders, [key_type], [device])
            options = IssueOptions(key_type)
            async for report in issue_devices(client.issuance, folders, [device], options, run=run):
                assert isinstance(report, Done), report
        folders.close()
    return {key_type: folders.path(f"dev-{key_type}") for key_type in KEY_TYPES}


@pytest.fixture(params=PAIRS)
def device(request: pytest.FixtureRequest, devices_of: Callable[[str], dict[str, Device]]) -> Device:
    """A device: each type of CA key with each type of device key."""
    ca_key_type, key_type = request.param
    return devices_of(ca_key_type)[key_type]


@pytest.fixture(scope="session")
def line(shared_daemon: RunningDaemon) -> Fleet:
    """The folder of a fleet whose daemon runs, and whose `otahsm` commands find it."""
    shared_daemon.configure_client()
    return shared_daemon.fleet
