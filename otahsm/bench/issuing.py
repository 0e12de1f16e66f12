"""Measures a whole daemon: throughput, latency, resource use, and the crypto floor."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc

from otahsm.bench.calls import CallCounter, find_spy
from otahsm.bench.load import ask_one_by_one, make_csrs, make_messages, stream_all
from otahsm.bench.processes import Daemon, Meter, daemon
from otahsm.bench.results import IssueResult, Latency
from otahsm.bench.signing import Gauges, gauges
from otahsm.client.connection import ClientTls, open_channel
from otahsm.config import CaConfig, ClientConfig, Config, LedgerConfig, section
from otahsm.ledger import throwaway
from otahsm.pki.keytypes import KeyType
from otahsm.token.ceremony import throwaway_ca
from otahsm.token.configured import mandate_of
from otahsm.token.desk.beginning import begin

_WARM_UP: Final = 256  # certificates
_COUNTED: Final = 256  # certificates whose calls are counted
_FLOOR_CSRS: Final = 256
_FLOOR_CERTIFICATES: Final = 5000  # per second, to choose the duration of the floor's measurement


class LoadPlan(NamedTuple):
    """The parameters of a load.

    Attributes:
        certificates: the number of certificates.
        streams: the number of concurrent streams; 0 for sequential unary calls.
        requests_per_message: the number of CSRs per message.
        profile: the profile; empty for the daemon's default.
    """

    certificates: int
    streams: int = 1
    requests_per_message: int = 64
    profile: str = ""

    @property
    def floor_seconds(self) -> float:
        """The seconds to measure the crypto floor, before and after: about as long as the load takes."""
        return min(max(self.certificates / _FLOOR_CERTIFICATES, 0.2), 2.0)

    @property
    def message_size(self) -> int:
        """The number of CSRs per message; 1 for unary calls."""
        return self.requests_per_message if self.streams else 1


class IssueBench:
    """A daemon on a throwaway CA and ledger, and gauges.

    Attributes:
        config: the daemon's configuration.
        running: the daemon.
    """

    def __init__(
        self, config: Config, key_type: KeyType, running: Daemon, channel: grpc.aio.Channel, measuring: Gauges
    ) -> None:
        self.running = running
        self.config = config
        self._key_type = key_type
        self._channel = channel
        self._measuring = measuring

    async def load(self, plan: LoadPlan, csrs: Sequence[bytes]) -> tuple[float, list[float]]:
        """Run a load; return the seconds that it took in total, and for each message.

        Raises:
            OtahsmError: the daemon refused, or can't be reached.
        """
        return await _load(self._channel, self.running.address, csrs, plan)

    async def run(self, plan: LoadPlan) -> IssueResult:
        """Run a load, and measure it. Raises as `load`."""
        csrs = make_csrs(plan.certificates)
        sample = csrs[:_FLOOR_CSRS]
        await self.load(plan, make_csrs(_WARM_UP))
        before = await self._measuring.floor(plan.floor_seconds, sample)
        meter = Meter(self.running.processes())
        seconds, took = await self.load(plan, csrs)
        use = meter.use(len(csrs))
        after = await self._measuring.floor(plan.floor_seconds, sample)
        token = section(self.config.token, "token")
        return IssueResult(
            key_type=self._key_type,
            signers=token.signers,
            sessions=token.sessions,
            streams=plan.streams,
            requests_per_message=plan.message_size,
            certificates=len(csrs),
            certificates_per_second=len(csrs) / seconds,
            latency=Latency.of(took),
            floor_before=before,
            floor_after=after,
            use=use,
        )


@asynccontextmanager
async def bench_issue(
    config: Config, key_type: KeyType, prepare: Callable[[Config], Config] = lambda settings: settings
) -> AsyncIterator[IssueBench]:
    """Start a daemon as configured, but on a throwaway CA and ledger, and gauges.

    Args:
        config: [tls], [token], [ledger] and [client]; the new ledger is on the same disk or server.
        key_type: the type of the CA's key.
        prepare: called with the daemon's configuration before the daemon starts; returns the one to use. It
            may fill the ledger, for example.

    Raises:
        OtahsmError: the token or the daemon failed.
    """
    token = section(config.token, "token")
    with (
        tempfile.TemporaryDirectory(prefix="otahsm-bench-") as name,
        throwaway(section(config.ledger, "ledger")) as ledger,
    ):
        folder = Path(name)
        with (
            throwaway_ca(token, folder, key_type, datetime.now(UTC)) as ca,
            tempfile.TemporaryDirectory(prefix="otahsm-bench-", dir=token.guard_dir) as journal,
        ):
            settings = prepare(_apart(config, ca, ledger, folder, Path(journal)))
            begin(mandate_of(settings))
            async with (
                gauges(token, ca, token.signers, token.sign_timeout_seconds) as measuring,
                daemon(write_toml(settings, folder / "otahsm.toml"), _signers(settings)) as running,
                _channel(section(config.client, "client"), running.address) as channel,
            ):
                yield IssueBench(settings, key_type, running, channel, measuring)


async def count_calls(config: Config, key_type: KeyType) -> float | None:
    """Return the number of PKCS#11 calls per certificate; None if pkcs11-spy is not installed."""
    spy = find_spy()
    if spy is None:
        return None
    with tempfile.TemporaryDirectory(prefix="otahsm-bench-") as name:
        counter = CallCounter(Path(name))

        def watched(settings: Config) -> Config:
            token = section(settings.token, "token")
            return settings.model_copy(update={"token": counter.watch(token, spy)})

        async with bench_issue(config, key_type, watched) as bench:
            before = counter.calls
            await bench.load(LoadPlan(_COUNTED), make_csrs(_COUNTED))
            return (counter.calls - before) / _COUNTED


async def bench_target(client: ClientConfig, plan: LoadPlan) -> IssueResult:
    """Run a load on a running daemon, which issues real certificates.

    Raises:
        OtahsmError: the daemon refused, or can't be reached.
    """
    csrs = make_csrs(plan.certificates)
    target = client.target[0]
    async with _channel(client, target) as channel:
        seconds, took = await _load(channel, target, csrs, plan)
    return IssueResult(
        key_type="",
        signers=0,
        sessions=0,
        streams=plan.streams,
        requests_per_message=plan.message_size,
        certificates=len(csrs),
        certificates_per_second=len(csrs) / seconds,
        latency=Latency.of(took),
    )


async def _load(
    channel: grpc.aio.Channel, target: str, csrs: Sequence[bytes], plan: LoadPlan
) -> tuple[float, list[float]]:
    """Request certificates; return the seconds that it took in total, and for each message."""
    messages = make_messages(csrs, plan.message_size, plan.profile)
    began = time.perf_counter()
    if plan.streams:
        took = await stream_all(channel, target, messages, plan.streams)
    else:
        took = await ask_one_by_one(channel, target, messages)
    return time.perf_counter() - began, took


@asynccontextmanager
async def _channel(client: ClientConfig, address: str) -> AsyncIterator[grpc.aio.Channel]:
    """Connect to a daemon whose certificate is valid for the host in [client] target."""
    tls = ClientTls(client.ca, client.certificate, client.key)
    async with open_channel(address, tls, client.target[0].rpartition(":")[0]) as channel:
        yield channel


def _apart(config: Config, ca: CaConfig, ledger: LedgerConfig, folder: Path, journal: Path) -> Config:
    """Return a configuration with nothing of the fleet's that could be signed, written or overwritten.

    It has one CA, whose key is thrown away, and no key of another. Its CRLs and journal go into folders of
    its own; that of the journal is on the same disk as the fleet's.
    """
    token = section(config.token, "token")
    changes = {
        "token": token.model_copy(update={"journal_dir": journal}),
        "ca": ca,
        "authorities": {},
        "profiles": {
            name: profile.model_copy(update={"ca": ""}) for name, profile in config.profiles.items()
        },
        "crl": config.crl and config.crl.model_copy(update={"directory": folder / "crl"}),
        "ledger": ledger,
        "checkpoint": None,  # its key must only sign for one ledger
        "daemon": config.daemon.model_copy(update={"listen": "127.0.0.1:0"}),
    }
    return config.model_copy(update=changes)


def _signers(config: Config) -> int:
    return section(config.token, "token").signers


def write_toml(config: Config, path: Path) -> Path:
    """Write a configuration as TOML, whose strings, numbers and lists have the same syntax as in JSON."""
    lines: list[str] = []
    _write_table(config.model_dump(mode="json", exclude_none=True), (), lines)
    path.write_text("\n".join(lines) + "\n")
    return path


def _write_table(table: Mapping[str, Any], name: tuple[str, ...], lines: list[str]) -> None:
    if name:
        lines.append(f"[{'.'.join(map(json.dumps, name))}]")
    lines += [
        f"{json.dumps(key)} = {json.dumps(value)}"
        for key, value in table.items()
        if not isinstance(value, dict)
    ]
    for key, value in table.items():
        if isinstance(value, dict):
            _write_table(value, (*name, key), lines)
