"""Makes CRLs when they are due, and writes the files that web servers and gateways read.

Every daemon checks every few seconds whether a CRL is due, or a file differs from the ledger; after a
revocation it checks at once. So it does not matter which daemon revoked, made a CRL, or died. A job calls
`run_once` periodically.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Final

from otahsm.config import CrlConfig
from otahsm.errors import ConfigError, LedgerTamperedError, NotFoundError, OtahsmError, TokenUnavailableError
from otahsm.ledger import AUTHORITIES, COMPLETE, CrlReader, CrlState, Database, Ledger, StoredCrl
from otahsm.pki.chain import check_signs_crls
from otahsm.pki.issuer import Issuer
from otahsm.revocation.crl_folder import CrlFolder, name_files
from otahsm.revocation.crl_maker import CrlMaker, CrlSchedule
from otahsm.revocation.seen_crls import SeenCrls
from otahsm.system.clock import Clock
from otahsm.system.event_log import EventLogger
from otahsm.token.pool import SignerPool

LOOK_SECONDS: Final = 5.0
_SOON_SECONDS: Final = 0.5
_WAIT_SECONDS: Final = 15.0


class CrlKeeper:
    """Keeps the CRLs of one CA up to date.

    Args:
        name: the CA's name.
        issuer: the CA certificate.
        config: the CA's [crl] section; if None, CRLs are only made on request, and not written to files.
        database: the ledger's database.
        ledger: where CRLs are recorded.
        signers: sign the CRLs.
        clock: returns the time, with a time zone.
        log_event: called with an event and its fields when a CRL was made or written.
        alone: whether the ledger has no other CA.

    Attributes:
        woken: set when a CRL was requested, or may be due.

    Raises:
        ConfigError: there is a [crl] section, but the CA may not sign CRLs.
    """

    def __init__(  # noqa: PLR0913 - one for each part
        self,
        *,
        name: str,
        issuer: Issuer,
        config: CrlConfig | None,
        database: Database,
        ledger: Ledger,
        signers: SignerPool,
        clock: Clock,
        log_event: EventLogger,
        alone: bool,
    ) -> None:
        self._unable: ConfigError | None = None
        try:
            check_signs_crls(issuer)
        except ConfigError as error:
            if config is not None:
                raise
            self._unable = error
        self._config = config
        self._ledger = ledger
        self._log_event = log_event
        self._issuer_key_id = issuer.key_identifier
        self._reader = CrlReader(database, issuer.key_identifier, alone=alone)
        self._seen = SeenCrls(issuer)
        self._maker = CrlMaker(
            name=name,
            issuer=issuer,
            schedule=CrlSchedule.of(config),
            signers=signers,
            ledger=ledger,
            reader=self._reader,
            seen=self._seen,
            clock=clock,
        )
        self._folder = CrlFolder(config.directory, issuer) if config else None
        self._written: dict[str, int] = {}  # the number of the CRL in each file
        self._logged: dict[str, int] = {}  # the number of the last CRL of each scope that was logged
        self._needs_complete = config is not None  # whether the complete CRL must exist
        self._passed = asyncio.Condition()
        self._turns = 0  # passes in which no other daemon was making CRLs
        self._failure: OtahsmError | None = None
        self.woken = asyncio.Event()

    async def start(self) -> None:
        """Record the CRL URLs that certificates will contain, before any is issued.

        Raises:
            ConfigError: [crl] directory can't be used.
            LedgerUnavailableError: the ledger can't be written.
        """
        if self._config is not None and self._folder is not None:
            urls = self._config.location.urls
            complete = self._config.shards == 1
            await self._ledger.note_crl_urls(self._issuer_key_id, urls, complete=complete)
            self._seen.note_published(await self._maker.off_the_loop(self._folder.numbers))

    async def wait_until_looked(self) -> None:
        """Wait until the ledger's CRLs were compared with what signers of this machine signed."""
        if self.can_sign:
            await self._maker.looked.wait()

    @property
    def can_sign(self) -> bool:
        """Whether the CA may sign CRLs. If not, there is nothing to do."""
        return self._unable is None

    async def run_once(self) -> float:
        """Make and write what is due; return the seconds until the next check.

        Raises:
            LedgerTamperedError: a CRL in the ledger is forged, or older than what was published. No file is
                written.
            OtahsmError: a CRL can't be made or written; those that other daemons made are written.
        """
        try:
            next_look = await self._pass()
        except OtahsmError as error:
            self._failure = error
            if not isinstance(error, TokenUnavailableError):
                self._maker.looked.set()  # if the ledger was tampered with, the job says so
            raise
        else:
            self._failure = None
            self._maker.looked.set()
            return next_look
        finally:
            async with self._passed:
                self._passed.notify_all()

    async def crl(self, scope: str) -> StoredCrl:
        """Return the latest CRL of a scope, after waiting briefly for one that lists all revocations.

        Args:
            scope: the URL of a shard or of the complete CRL, or one of `otahsm.ledger`'s names.

        Raises:
            ConfigError: the CA may not sign CRLs.
            NotFoundError: no certificate contains this URL, or there are no shards.
            LedgerTamperedError: as `run_once`.
            OtahsmError: why there is no CRL yet, not even an older one.
        """
        if self._unable is not None:
            raise self._unable
        state = await self._maker.state()
        if state.urls.get(scope):
            scope = COMPLETE
        if scope != COMPLETE and scope not in _scopes(state):
            raise NotFoundError(f"there is no CRL {scope[:255]!a}")
        if scope == COMPLETE:
            self._needs_complete = True
        revoked = state.revoked.get(scope, 0)
        crl = await self._maker.off_the_loop(partial(self._read, scope))
        turns = self._turns + 2  # a pass that is running may have started before this request
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WAIT_SECONDS):
                while (crl is None or crl.row.revoked < revoked) and self._turns < turns:
                    await self._wait_for_a_pass()
                    crl = await self._maker.off_the_loop(partial(self._read, scope))
        if crl is None:
            raise self._failure or TokenUnavailableError("the first CRL is not ready yet")
        return crl

    async def close(self) -> None:
        """Close the connection and the thread; no pass may be running."""
        await self._maker.off_the_loop(self._reader.close)
        self._maker.thread.shutdown()

    async def _pass(self) -> float:
        """Make and write what is due; return the seconds until the next check."""
        failure: OtahsmError | None = None
        state, next_look = None, LOOK_SECONDS
        try:
            state = await self._maker.make_due(complete=self._needs_complete)
            if state is None:  # another daemon is making CRLs: check the result soon
                next_look = _SOON_SECONDS
        except LedgerTamperedError:
            raise
        except OtahsmError as error:
            failure = error  # CRLs of other daemons are written anyway
        self._turns += state is not None or failure is not None
        if state is None:
            state = await self._maker.state()
        for scope in (COMPLETE, AUTHORITIES):
            self._log_crl(scope, state)
        if files := await self._maker.off_the_loop(partial(self._write, state)):
            complete, number = state.crls.get(COMPLETE), max(row.number for row in state.crls.values())
            revoked = complete.revoked if complete else 0
            self._log_event("crl.written", {"files": files, "number": number, "revoked": revoked})
        if failure is not None:
            raise failure
        return next_look

    def _write(self, state: CrlState) -> int:
        """Write the files that differ from the ledger; return their number. Runs in the thread."""
        if self._config is None or self._folder is None:
            return 0
        files = name_files(self._config.location, state.urls)
        missing = self._folder.missing(iter(files.scopes))
        by_scope: dict[str, list[str]] = {}
        for name, scope in files.scopes.items():
            row = state.crls.get(scope)
            if row is not None and (name in missing or self._written.get(name) != row.number):
                by_scope.setdefault(scope, []).append(name)
        count = 0
        for scope, names in by_scope.items():
            if crl := self._read(scope):
                count += sum(self._write_file(self._folder, name, crl) for name in names)
        if files.without:
            raise ConfigError(
                f"can't write a file for {files.without[0]} to [crl] directory: another CRL has its name",
                hint="Fetch it with `otahsm crl fetch --url` as long as certificates name it.",
            )
        return count

    def _write_file(self, folder: CrlFolder, name: str, crl: StoredCrl) -> bool:
        """Write one file; return whether it has this CRL now."""
        number = folder.write(name, crl)
        if number != crl.row.number:
            # Either another daemon wrote it since this one read the ledger, or the ledger was set back.
            self._seen.note_published({crl.url: number})
            self._read(crl.url)
            return False
        self._written[name] = number
        return True

    def _read(self, scope: str) -> StoredCrl | None:
        """Return a CRL of the ledger, which was checked; None if there is none to be published."""
        crl = self._reader.crl(scope)
        if crl is None or not self._seen.has_asked or self._seen.is_behind(scope, crl.row):
            return None
        self._seen.check(crl)
        return crl

    def _log_crl(self, scope: str, state: CrlState) -> None:
        row = state.crls.get(scope)
        if row is not None and self._logged.get(scope) != row.number:
            self._logged[scope] = row.number
            name = "complete" if scope == COMPLETE else scope
            shards = sum(not complete for complete in state.urls.values())
            self._log_event(
                "crl.made", {"crl": name, "number": row.number, "revoked": row.revoked, "shards": shards}
            )

    async def _wait_for_a_pass(self) -> None:
        async with self._passed:
            self.woken.set()
            await self._passed.wait()


def _scopes(state: CrlState) -> set[str]:
    shards = {url for url, complete in state.urls.items() if not complete}
    return shards | {AUTHORITIES} if shards else shards
