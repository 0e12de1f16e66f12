"""The daemon's life: start, serve, drain, end."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Mapping
from typing import Final

import structlog
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from otahsm.authority import Caller, EventName, Issuance
from otahsm.config import Config, section
from otahsm.daemon.access_service import AccessService, AuditService
from otahsm.daemon.batch_service import BatchService
from otahsm.daemon.edge.boundary import CallBoundary
from otahsm.daemon.edge.health import Health
from otahsm.daemon.edge.methods import SERVICES
from otahsm.daemon.edge.reloading import Reloading
from otahsm.daemon.edge.server import new_server
from otahsm.daemon.ledger_service import LedgerService
from otahsm.daemon.revoking import RevocationService
from otahsm.daemon.services import AuthorityService, DeviceService, IssuanceService
from otahsm.daemon.transparency import TransparencyService
from otahsm.errors import ConfigError, DaemonFailedError, NotAllowedError, OtahsmError

# A signer that is ready has logged in. Where signers have a user of their own, nobody else tells of it.
_SIGNER_EVENTS: Final = {item.value: item for item in (EventName.SIGNER_READY, EventName.SIGNER_LOST)}

_log = structlog.get_logger()


class Daemon:
    """One daemon.

    Args:
        config: the whole configuration; it needs [tls], [token], [ca] and [ledger].

    Raises:
        ConfigError: something in it, or a file that it names, is wrong.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._changed = asyncio.Event()
        self._server = new_server()
        self._issuance = Issuance(config, self._worker_event, tell=_tell)
        self._issuing = IssuanceService(self._issuance)
        self._health = Health()
        self._reloading = Reloading(config, self._issuance)
        self._boundary = CallBoundary(self._issuance.access, self._reloading.trust, self._decided)
        self._boundary.register(self._server, self._services())
        listen = config.daemon.listen
        try:
            port = self._server.add_secure_port(listen, self._reloading.credentials.credentials())
        except RuntimeError as error:
            raise ConfigError(
                f"[daemon] listen: {listen} can't be listened on",
                hint="Is another daemon running there? `ss -ltnp` shows who listens.",
            ) from error
        self.address = f"{listen.rpartition(':')[0]}:{port}"

    def _services(self) -> Mapping[str, object]:
        issuance = self._issuance
        return {
            "otahsm.v1.IssuanceService": self._issuing,
            "otahsm.v1.AuthorityService": AuthorityService(issuance),
            "otahsm.v1.LedgerService": LedgerService(issuance),
            "otahsm.v1.TransparencyService": TransparencyService(issuance.transparency, issuance.access),
            "otahsm.v1.RevocationService": RevocationService(issuance),
            "otahsm.v1.DeviceService": DeviceService(issuance),
            "otahsm.v1.BatchService": BatchService(issuance),
            "otahsm.v1.AccessService": AccessService(issuance),
            "otahsm.v1.AuditService": AuditService(issuance.queries),
            health.SERVICE_NAME: self._health,
            reflection.SERVICE_NAME: reflection.aio.ReflectionServicer(service.name for service in SERVICES),
        }

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish what is in hand.

        Raises:
            ConfigError: the ledger can't be used.
            OtahsmError: no signer got ready and none will, until an operator acts.
            DaemonFailedError: it can't go on; started again, it may.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self._health.start()
        voided = await self._issuance.start()
        try:
            if voided:
                _log.warning("ledger.recovered", voided_intents=voided)
            await self._server.start()
            self._log_listening()
            # What is there now stays: the collector need not look at it again with every batch.
            gc.collect()
            gc.freeze()
            await self._serve_until(stop)
        finally:
            await self._shut_down()

    async def _serve_until(self, stop: asyncio.Event) -> None:
        watching = asyncio.create_task(self._watch_health())
        guarding = asyncio.create_task(self._boundary.watch())
        reloading = asyncio.create_task(self._reloading.run())
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._issuance.wait_until_serving())
        ending = asyncio.create_task(self._server.wait_for_termination())
        failing = asyncio.create_task(self._issuance.supervisor.watch())
        try:
            await asyncio.wait((starting, stopping, ending, failing), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            await asyncio.wait((stopping, ending, failing), return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                failing.result()
            if ending.done():  # without being told to: a daemon that serves nobody must not look alive
                raise DaemonFailedError("gRPC's server ended") from ending.exception()
        finally:
            # Not `ending`: gRPC would take it for its own end.
            for task in (watching, guarding, reloading, stopping, starting, failing):
                task.cancel()

    async def _shut_down(self) -> None:
        _log.info("daemon.draining", at_most_seconds=self._config.daemon.drain_seconds)
        await self._health.enter_graceful_shutdown()
        self._issuing.drain()
        self._issuance.audit.note(EventName.DAEMON_STOPPED, "daemon", {})
        seconds = self._config.daemon.drain_seconds
        started = time.monotonic()
        try:
            await self._server.stop(seconds)
        finally:  # whatever fails: workers that are only given up keep the process from its end
            await self._issuance.close(max(0.0, seconds - (time.monotonic() - started)))
        _log.info("daemon.stopped")

    def _log_listening(self) -> None:
        config, issuer = self._config, self._issuance.chain.issuer
        token, ca = section(config.token, "token"), section(config.ca, "ca")
        if token.pin_source.kind == "env":
            _log.warning("pin.in_environment", hint="Who may look at this process sees the PIN: use another.")
        self._issuance.audit.note(EventName.DAEMON_STARTED, "daemon", {"address": self.address})
        _log.info(
            "daemon.listening",
            address=self.address,
            token=token.name,
            module=str(token.module),
            key=str(ca.key),
            ca=issuer.subject_text,
            ca_key=issuer.key_type,
            ca_ends=f"{issuer.not_after:%Y-%m-%d}",
            profiles=sorted(config.profiles),
            ledger=self._issuance.ledger_name,
        )

    def _decided(self, caller: Caller, method: str, error: NotAllowedError | None) -> None:
        audit, about = self._issuance.audit, {"call": method}
        if error is None:
            audit.count(EventName.ACCESS_ALLOWED, caller.identity, about)
        else:
            about["reason"] = error.reason
            audit.count(EventName.ACCESS_DENIED, caller.identity, about, message=error.message)

    def _worker_event(self, event: str, pid: int, error: OtahsmError | None) -> None:
        if event in _SIGNER_EVENTS:
            details: dict[str, int | str] = {"pid": pid} | ({"reason": error.reason} if error else {})
            self._issuance.audit.note(_SIGNER_EVENTS[event], "daemon", details, told=True)
        if error is None:
            _log.info(event, pid=pid)
        else:
            _log.error(event, pid=pid, reason=error.reason, message=error.message, hint=error.hint)
        self._changed.set()

    async def _watch_health(self) -> None:
        """Tell the health service whenever signing becomes possible or impossible."""
        serving = False
        while True:
            if self._issuance.serving != serving:
                serving = not serving
                reason = {} if serving else {"reason": self._issuance.trouble}
                _log.log(30 - 10 * serving, "health.changed", serving=serving, **reason)
                await self._health.set_signing(possible=serving)
            await self._changed.wait()
            self._changed.clear()


def _tell(event: str, fields: Mapping[str, int | str]) -> None:
    _log.info(event, **fields)


async def serve(config: Config) -> None:
    """Run a daemon until it is told to stop. Raises as `Daemon` and `Daemon.run`."""
    await Daemon(config).run()
