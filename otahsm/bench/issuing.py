"""Measures a whole daemon: how many certificates a second, how soon, at what cost, and against what floor."""

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
from otahsm.client.rpc_errors import from_rpc
from otahsm.config import ClientConfig, Config, section
from otahsm.ledger import throwaway
from otahsm.pki import KeyType
from otahsm.token.ceremony import throwaway_ca

_WARM_UP: Final = 256  # certificates
_COUNTED: Final = 256  # certificates whose calls are counted
_FLOOR_CSRS: Final = 256
_FLOOR_CERTIFICATES: Final = 5000  # a second, for the length of the floor's measurement


class LoadPlan(NamedTuple):
    """What to ask for.

    Attributes:
        certificates: how many.
        streams: over how many streams; 0: one after another with the unary call.
        requests_per_message: CSRs in a message.
        profile: what to issue under; empty for the daemon's default.
    """

    certificates: int
    streams: int = 1
    requests_per_message: int = 64
    profile: str = ""

    @property
    def floor_seconds(self) -> float:
        """How long the crypto floor is measured, before and after: some such time as the load will take."""
        return min(max(self.certificates / _FLOOR_CERTIFICATES, 0.2), 2.0)

    @property
    def message_size(self) -> int:
        """CSRs in a message; the unary call takes one."""
        return self.requests_per_message if self.streams else 1


class IssueBench:
    """A daemon on a throwaway CA and a ledger of its own, and gauges beside it.

    Attributes:
        config: the daemon's.
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
        """Put a load on the daemon; return how long it took in all, and for each message, in seconds.

        Raises:
            OtahsmError: the daemon refuses, or can't be reached.
        """
        return await _load(self._channel, self.running.address, csrs, plan)

    async def run(self, plan: LoadPlan) -> IssueResult:
        """Put a load on the daemon, and measure it. Raises as `load`."""
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
    """Start a daemon like the configured one, but on a throwaway CA and a new ledger, and gauges beside it.

    Args:
        config: [tls], [token], [ledger] and [client]; the ledger says on which disk or server the new one is.
        key_type: the CA's.
        prepare: called with the daemon's configuration before the daemon starts; returns the one to use. It
            may fill the ledger, say.

    Raises:
        OtahsmError: token or daemon fail.
    """
    token = section(config.token, "token")
    with (
        tempfile.TemporaryDirectory(prefix="otahsm-bench-") as name,
        throwaway(section(config.ledger, "ledger")) as ledger,
    ):
        folder = Path(name)
        with throwaway_ca(token, folder, key_type, datetime.now(UTC)) as ca:
            changes = {
                "ca": ca,
                "ledger": ledger,
                "checkpoint": None,  # its key signs for one ledger, and never for another
                "daemon": config.daemon.model_copy(update={"listen": "127.0.0.1:0"}),
            }
            settings = config.model_copy(update=changes)
            settings = prepare(settings)
            async with (
                gauges(token, ca, token.signers, token.sign_timeout_seconds) as measuring,
                daemon(write_toml(settings, folder / "otahsm.toml"), _signers(settings)) as running,
                _channel(section(config.client, "client"), running.address) as channel,
            ):
                yield IssueBench(settings, key_type, running, channel, measuring)


async def count_calls(config: Config, key_type: KeyType) -> float | None:
    """Return how many PKCS#11 calls a certificate costs; None if pkcs11-spy is not installed."""
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
    """Put a load on a daemon that runs already; its certificates are real ones.

    Raises:
        OtahsmError: the daemon refuses, or can't be reached.
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
    """Ask for certificates; return how long it took in all, and how long each message took, in seconds."""
    messages = make_messages(csrs, plan.message_size, plan.profile)
    began = time.perf_counter()
    try:
        if plan.streams:
            took = await stream_all(channel, messages, plan.streams)
        else:
            took = await ask_one_by_one(channel, messages)
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, target) from None
    return time.perf_counter() - began, took


@asynccontextmanager
async def _channel(client: ClientConfig, address: str) -> AsyncIterator[grpc.aio.Channel]:
    """Connect to a daemon whose certificate is for the host in [client] target."""
    tls = ClientTls(client.ca, client.certificate, client.key)
    async with open_channel(address, tls, client.target[0].rpartition(":")[0]) as channel:
        yield channel


def _signers(config: Config) -> int:
    return section(config.token, "token").signers


def write_toml(config: Config, path: Path) -> Path:
    """Write a configuration as TOML, whose strings, numbers and lists are those of JSON."""
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
