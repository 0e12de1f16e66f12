"""Puts the cycle together from its configuration: ledger, preparers, signers, queue; starts and ends them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from otahsm.access import AccessControl
from otahsm.authority.denied_clients import Clients
from otahsm.authority.jobs import Job, Supervisor
from otahsm.authority.spool_reader import SpoolReader
from otahsm.config import Config, load_policy, section
from otahsm.errors import LedgerUnavailableError, NotFoundError
from otahsm.issuance.authorities import Authorities
from otahsm.issuance.batches import Batches
from otahsm.issuance.cycle import IssuanceCycle
from otahsm.issuance.queue import IssuanceQueue
from otahsm.issuance.values import IssuanceRequest, Outcome
from otahsm.ledger import Ledger, Renewal, database_of
from otahsm.ledger.queries import LedgerQueries
from otahsm.pki import Chain, Profile, SerialNumber, load_public_key
from otahsm.preparation import Preparers
from otahsm.revocation.crl_keeper import LOOK_SECONDS as CRL_LOOK_SECONDS
from otahsm.revocation.crl_keeper import CrlKeeper, Tell
from otahsm.revocation.revoking import Revocations
from otahsm.system.clock import Clock, utc_now
from otahsm.token import SignerPool, TokenKey
from otahsm.transparency.audit import AuditLog
from otahsm.transparency.log import Transparency, load_verifier_key
from otahsm.workers import Report

_SECOND: Final = timedelta(seconds=1)
_TEND_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 1.0
_EXTRA_PLACES: Final = 2  # batches in the journal and in the ledger, beside those with a worker


class Issuance:
    """Everything between the network and the token, for one CA or several.

    Args:
        config: the whole configuration; it needs [token], [ca] and [ledger].
        report: called with (event, pid, error) when a worker process is ready or lost, or the ledger is.
        clock: tells the time, with a time zone.
        tell: called with an event and its fields when a CRL was made.

    Raises:
        ConfigError: a section or the CA certificate is missing or wrong.
    """

    def __init__(
        self,
        config: Config,
        report: Report,
        clock: Clock = utc_now,
        tell: Tell = lambda *_: None,
    ) -> None:
        token = section(config.token, "token")
        section(config.ca, "ca")
        settings = config.issuance
        self.access = AccessControl(
            load_policy(section(config.access, "access").policy, config.profiles.keys())
        )
        self.authorities = Authorities.load(config)
        self.chain: Chain = self.authorities.by_name[""].chain
        self.profiles: Mapping[str, Profile] = {
            name: profile.build() for name, profile in config.profiles.items()
        }
        self.default_profile = settings.default_profile
        self._report = report
        ledger = section(config.ledger, "ledger")
        database = database_of(ledger)
        self.ledger_name = database.name
        renewals = {
            name: Renewal(profile.renewal // _SECOND, profile.rekey // _SECOND)
            for name, profile in self.profiles.items()
        }
        self._ledger = Ledger(database, self.authorities.key_identifiers, renewals)
        self.queries = LedgerQueries(ledger)
        self._tended_at = 0.0  # on the monotonic clock
        self.supervisor = Supervisor(clock)
        active = self.authorities.active
        by_profile = {name: self.authorities.of_profile(name) for name in config.profiles}
        crls = {name: item.config.crl for name, item in by_profile.items()}
        self._preparers = Preparers(
            self.profiles,
            {name: item.chain.issuer for name, item in by_profile.items()},
            crls={name: crl.location if crl else None for name, crl in crls.items()},
            size=settings.preparers,
            report=report,
        )
        keys = [TokenKey(item.config, item.chain.issuer.public_key) for _, item in active]
        checkpoint_key = load_verifier_key(config.checkpoint) if config.checkpoint else None
        if config.checkpoint and checkpoint_key:
            keys.append(TokenKey(config.checkpoint, load_public_key(checkpoint_key.public_key)))
        self._signers = SignerPool(token, keys, wait_seconds=settings.wait_for_signer_seconds, report=report)
        self.audit = AuditLog(self._ledger, tell, clock)
        guard_dirs = {item.guard_dir: item.signer_socket is None for item in token.all}
        self._spool = SpoolReader(guard_dirs, self.audit)
        self._denials = LedgerQueries(ledger)
        self.clients = Clients(self._ledger, self._denials, self.access, self.audit, clock)
        self.transparency = Transparency(
            self._ledger,
            self._signers,
            key_number=len(keys) - 1,
            config=config.checkpoint,
            key=checkpoint_key,
            clock=clock,
        )
        self.crls = {
            item.name: CrlKeeper(
                issuer=item.chain.issuer,
                config=item.config.crl,
                database=database,
                ledger=self._ledger,
                signers=self._signers,
                key=key,
                alone=len(self.authorities.by_name) == 1,
                clock=clock,
                tell=tell,
            )
            for key, item in active
        }
        self.revocations = Revocations(self._ledger, clock, self._look_at_crls)
        self.batches = Batches(self._ledger, self.queries, self.profiles.keys(), self.default_profile)
        cycle = IssuanceCycle(
            authorities=self.authorities,
            profiles=self.profiles,
            default_profile=self.default_profile,
            preparers=self._preparers,
            signers=self._signers,
            ledger=self._ledger,
            batches=self.batches,
            access=self.access,
            clock=clock,
        )
        self._queue = IssuanceQueue(
            cycle.issue,
            batch_size=settings.batch_size,
            places=settings.preparers + token.signers + _EXTRA_PLACES,
        )

    @property
    def ready_signers(self) -> int:
        """How many signers have made a signature that verified."""
        return self._signers.ready

    @property
    def serving(self) -> bool:
        """Whether a certificate asked for now would be signed."""
        return self._signers.ready > 0 and self._preparers.ready > 0 and self._ledger.failure is None

    @property
    def trouble(self) -> str:
        """Why it is not serving, in words for a person; "" while it is."""
        if self.serving:
            return ""
        failure = self._ledger.failure or self._signers.failure or self._preparers.failure
        return failure.message if failure else "the signers and preparers are starting"

    async def start(self) -> int:
        """Open the ledger, start the processes and begin to take orders, before the first signer is ready.

        Returns:
            How many intents of an earlier run were open and are now void.

        Raises:
            ConfigError: the ledger can't be used.
            LedgerUnavailableError: its server can't be reached.
        """
        voided = await self._ledger.open()
        await self.clients.look()  # before anybody is let in
        for keeper in self.crls.values():
            await keeper.start()
        for job in self._jobs():
            self.supervisor.start(job)
        await self._preparers.start()
        await self._signers.start()
        await self._queue.start()
        return voided

    async def wait_until_serving(self) -> None:
        """Return when a certificate asked for would be signed.

        Raises:
            OtahsmError: it won't be, until an operator acts.
        """
        await self._signers.wait_until_ready()
        await self._preparers.wait_until_ready()

    async def submit(self, orders: Sequence[IssuanceRequest]) -> list[Outcome]:
        """Have certificates issued; return one outcome for each order, in order."""
        return await self._queue.submit(orders)

    async def reset(self, device_id: str, profile: str) -> SerialNumber:
        """Let a device have a certificate for another key; return the serial number of the one it has.

        Raises:
            NotFoundError: it has none under the profile.
            LedgerUnavailableError: nothing was changed.
        """
        name = profile or self.default_profile
        serial = await self._ledger.reset(device_id, name)
        if serial is None:
            raise NotFoundError(
                f"the device {device_id[:128]!a} has no certificate under the profile {name[:64]!a}",
                hint="Check device id and profile. If it was reset before, it may ask for a new one.",
            )
        return serial

    async def close(self, within: float) -> None:
        """Finish what is in the cycle within so many seconds, then end the processes, release the ledger."""
        until = time.monotonic() + within
        await self._queue.close(within)
        await self.supervisor.close(max(0.0, until - time.monotonic()))
        for keeper in self.crls.values():
            await keeper.close()
        await self.audit.close()  # before the last checkpoint, which vouches for it
        await self.transparency.close()
        await self._signers.close()
        await self._preparers.close()
        await self.queries.close()
        await self._denials.close()
        await self._ledger.close()

    def _look_at_crls(self) -> None:
        for keeper in self.crls.values():
            keeper.woken.set()

    def _jobs(self) -> list[Job]:
        ledger = (LedgerUnavailableError,)  # the job "ledger" tells of it
        return [
            Job(
                name="ledger",
                run_once=self._tend_ledger,
                interval=_LOOK_SECONDS,
                failing="ledger.unavailable",
                recovered="ledger.available",
                retry_seconds=_LOOK_SECONDS,
            ),
            Job(
                name="transparency",
                run_once=self.transparency.run_once,
                interval=_LOOK_SECONDS,
                failing="transparency.failed",
                told_elsewhere=ledger,
            ),
            Job(
                name="audit",
                run_once=self.audit.write,
                interval=_LOOK_SECONDS,
                woken=self.audit.arrived,
                told_elsewhere=ledger,
            ),
            Job(
                name="denied clients",
                run_once=self.clients.look,
                interval=_LOOK_SECONDS,
                told_elsewhere=ledger,
            ),
            Job(
                name="spool",
                run_once=self._spool.run_once,
                interval=_LOOK_SECONDS,
                told_elsewhere=ledger,
            ),
            *(
                Job(
                    name=f"crl {name}".strip(),
                    run_once=keeper.run_once,
                    interval=CRL_LOOK_SECONDS,
                    woken=keeper.woken,
                    after=self._signers.wait_until_ready,
                    failing="crl.failed",
                )
                for name, keeper in self.crls.items()
                if keeper.can_sign
            ),
        ]

    async def _tend_ledger(self) -> None:
        """Close what others left open, now and then; raise why the ledger can't be written, if so."""
        failed, now = self._ledger.failure is not None, time.monotonic()
        if failed or now - self._tended_at >= _TEND_SECONDS:
            self._tended_at = now
            if voided := await self._ledger.tend():
                gone = LedgerUnavailableError(f"a replica is gone; {voided} intents of its were voided")
                self._report("ledger.recovered", os.getpid(), gone)
        if self._ledger.failure is not None:
            raise self._ledger.failure.with_traceback(None)
