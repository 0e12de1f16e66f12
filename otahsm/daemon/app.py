"""The daemon's lifecycle: start, serve, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Final

import structlog
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from otahsm.authority import EventName, Job, assemble
from otahsm.config import Config, section
from otahsm.daemon.edge import SERVICES, CallBoundary, Health, Reloading, add_port, limits, new_server
from otahsm.daemon.services import (
    AccessService,
    ApprovalService,
    AuditService,
    AuthorityService,
    BatchService,
    DeviceService,
    IssuanceService,
    LedgerService,
    RevocationService,
    TransparencyService,
)
from otahsm.errors import DaemonFailedError, OtahsmError
from otahsm.system.clock import Clock, utc_now
from otahsm.system.memory import give_back

_LOOK_SECONDS: Final = 1.0

_log = structlog.get_logger()


class Daemon:
    """One daemon.

    Args:
        config: the whole configuration; it needs [tls], [token], [ca] and [ledger].
        clock: the time of day, for all parts.

    Raises:
        ConfigError: the configuration, or a file that it names, is invalid.
    """

    def __init__(self, config: Config, clock: Clock = utc_now) -> None:
        self._config = config
        self._changed = asyncio.Event()
        self._server = new_server()
        self._authority = assemble(config, self._worker_event, clock=clock, log_event=_log_event)
        self._life = self._authority.life
        self._issuing = IssuanceService(self._authority)
        self._health = Health()
        self._is_serving = False
        self._reloading = Reloading(config, self._authority, clock)
        self._boundary = CallBoundary(
            self._authority.access, self._reloading.trust, self._authority.note_decision, clock
        )
        self._boundary.register(self._server, self._services())
        listen = config.daemon.listen
        port = add_port(self._server, listen, self._reloading.credentials.credentials())
        self.address = f"{listen.rpartition(':')[0]}:{port}"

    def _services(self) -> Mapping[str, object]:
        authority = self._authority
        return {
            "otahsm.v1.IssuanceService": self._issuing,
            "otahsm.v1.AuthorityService": AuthorityService(authority),
            "otahsm.v1.LedgerService": LedgerService(authority),
            "otahsm.v1.TransparencyService": TransparencyService(authority),
            "otahsm.v1.RevocationService": RevocationService(authority),
            "otahsm.v1.DeviceService": DeviceService(authority),
            "otahsm.v1.BatchService": BatchService(authority),
            "otahsm.v1.AccessService": AccessService(authority),
            "otahsm.v1.ApprovalService": ApprovalService(authority),
            "otahsm.v1.AuditService": AuditService(authority),
            health.SERVICE_NAME: self._health,
            reflection.SERVICE_NAME: reflection.aio.ReflectionServicer(service.name for service in SERVICES),
        }

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish the work in progress.

        Raises:
            ConfigError: the ledger can't be used.
            OtahsmError: no signer became ready, and none will until an operator acts.
            DaemonFailedError: it can't continue; a restart may help.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self._health.start()
        voided = await self._life.start()
        try:
            if voided:
                _log.warning("ledger.recovered", voided_intents=voided)
            await self._server.start()
            self._log_listening()
            # These objects are permanent, so the garbage collector need not scan them again.
            gc.collect()
            gc.freeze()
            await self._serve_until(stop)
        finally:
            await self._shut_down()

    async def _serve_until(self, stop: asyncio.Event) -> None:
        self._reloading.listen()
        self._life.supervisor.on_change(self._changed.set)
        for job in self._jobs():
            self._life.supervisor.start(job)
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._life.wait_until_serving())
        ending = asyncio.create_task(self._server.wait_for_termination())
        failing = asyncio.create_task(self._life.supervisor.watch())
        try:
            await asyncio.wait((starting, stopping, ending, failing), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            await asyncio.wait((stopping, ending, failing), return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                failing.result()
            if ending.done():  # unexpectedly: a daemon that serves nobody must not look alive
                raise DaemonFailedError("gRPC's server ended") from ending.exception()
        finally:
            # Not `ending`: its cancellation would stop gRPC's server.
            for task in (stopping, starting, failing):
                task.cancel()

    def _jobs(self) -> Iterator[Job]:
        yield Job(name="health", run_once=self._update_health, interval=_LOOK_SECONDS, woken=self._changed)
        # Clients' certificates and access times expire without an event.
        yield Job(name="open calls", run_once=self._boundary.look, interval=_LOOK_SECONDS)
        yield Job(name="memory", run_once=_give_memory_back, interval=limits.TRIM_SECONDS)
        yield Job(
            name="reloading",
            run_once=self._reloading.run_once,
            interval=_LOOK_SECONDS,
            woken=self._reloading.woken,
            failing="files.refused",
            retry_seconds=_LOOK_SECONDS,
        )

    async def _shut_down(self) -> None:
        _log.info("daemon.draining", at_most_seconds=self._config.daemon.drain_seconds)
        await self._health.enter_graceful_shutdown()
        self._issuing.drain()
        self._authority.audit.note(EventName.DAEMON_STOPPED, "daemon", {})
        seconds = self._config.daemon.drain_seconds
        started = time.monotonic()
        try:
            await self._server.stop(seconds)
        finally:  # in any case: workers that are not closed keep the process from exiting
            await self._life.close(max(0.0, seconds - (time.monotonic() - started)))
        _log.info("daemon.stopped")

    def _log_listening(self) -> None:
        config, issuer = self._config, self._authority.authorities.by_name[""].chain.issuer
        token, ca = section(config.token, "token"), section(config.ca, "ca")
        if token.uri.pin.kind == "env":
            _log.warning(
                "pin.in_environment",
                hint="Whoever can inspect this process sees the PIN: use another pin-source.",
            )
        self._authority.audit.note(EventName.DAEMON_STARTED, "daemon", {"address": self.address})
        _log.info(
            "daemon.listening",
            address=self.address,
            token=token.name,
            module=str(token.uri.module),
            key=str(ca.key),
            ca=issuer.subject_text,
            ca_key=issuer.key_type,
            ca_ends=f"{issuer.not_after:%Y-%m-%d}",
            profiles=sorted(config.profiles),
            ledger=self._life.ledger_name,
        )

    def _worker_event(self, event: str, pid: int, error: OtahsmError | None) -> None:
        if error is None:
            _log.info(event, pid=pid)
        else:
            _log.error(event, pid=pid, reason=error.reason, message=error.message, hint=error.hint)
        self._changed.set()

    async def _update_health(self) -> None:
        """Set the health status by whether anything can be signed."""
        if self._life.serving != self._is_serving:
            self._is_serving = not self._is_serving
            reason = {} if self._is_serving else {"reason": self._life.trouble}
            _log.log(30 - 10 * self._is_serving, "health.changed", serving=self._is_serving, **reason)
            await self._health.set_signing(possible=self._is_serving)


async def _give_memory_back() -> None:
    # Cancelled tasks are in cycles with all that their client sent. Few objects hold it, so that Python would
    # not look for them for hours. What was there at the start is frozen: this takes milliseconds.
    gc.collect()
    await asyncio.to_thread(give_back)


def _log_event(event: str, fields: Mapping[str, int | str]) -> None:
    _log.info(event, **fields)


async def serve(config: Config) -> None:
    """Run a daemon until it is stopped. Raises as `Daemon` and `Daemon.run`."""
    await Daemon(config).run()
