"""Reloads changed files while the daemon runs: its TLS files, the operator CA's CRLs, and the policy.

TLS files and CRLs are checked every second, and all three are reloaded on SIGHUP. Nothing is interrupted:
open connections keep their certificate, and allowed calls continue. What the start would refuse is refused:
the previous content stays in use, and the job "reloading" fails until the file is replaced, which
`otahsm health` shows.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from otahsm.authority import CertificateAuthority, EventName
from otahsm.config import Config, load_policy, section
from otahsm.daemon.edge.client_crls import client_crls_of
from otahsm.daemon.edge.tls import ServerTls, TlsFiles, load_tls
from otahsm.daemon.edge.trust import Trust
from otahsm.errors import ConfigError
from otahsm.system.clock import Clock
from otahsm.system.trusted_files import own_files

_DAEMON: Final = "daemon"

_Stamp = tuple[int, int, int, int] | None  # device, inode, size, last change; None if it doesn't exist


class Reloading:
    """The files that can change while the daemon runs.

    Args:
        config: names the files.
        authority: uses the policy and the denied certificates.
        clock: the time at which certificates and CRLs must be valid.

    Attributes:
        woken: set when everything must be reloaded.

    Raises:
        ConfigError: one of the files is invalid.
    """

    def __init__(self, config: Config, authority: CertificateAuthority, clock: Clock) -> None:
        self._tls = section(config.tls, "tls")
        self._files = own_files()
        access = section(config.access, "access")
        self._crl_paths = access.client_crls
        self._crls = client_crls_of(config, self._files)
        self._policy = access.policy
        self._profiles = config.profiles.keys()
        self._authority = authority
        self._clock = clock
        self._fleet = [item.chain for item in authority.authorities.by_name.values()]
        self.trust = Trust(authority.clients.distrust)
        self._seen = self._look()
        self._taken = dict(self._seen)
        self.credentials = ServerTls(load_tls(self._tls, self._fleet, self._clock(), self._files))
        self._load_crls()
        self._crls.remember()
        self._problems: dict[EventName, ConfigError] = {}
        self._is_asked = False
        self.woken = asyncio.Event()

    def listen(self) -> None:
        """From now on, reload everything on SIGHUP."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._ask)

    async def run_once(self) -> None:
        """Reload what has changed, or everything after SIGHUP.

        Raises:
            ConfigError: files are refused, now or since they changed; what they had before is in use.
        """
        if self._is_asked:
            self._is_asked = False
            self._try(self._load_policy, EventName.POLICY_LOADED, EventName.POLICY_REFUSED)
            seen = self._look()
            self._reload(seen, set(seen))
        elif (seen := self._look()) != self._seen:
            self._reload(seen, {path for path, stamp in seen.items() if stamp != self._taken[path]})
        if problems := [*self._problems.values(), *self._crls.refused.values()]:
            raise ConfigError("; ".join(problem.message for problem in problems), hint=problems[0].hint)

    def _ask(self) -> None:
        self._is_asked = True
        self.woken.set()

    def _reload(self, seen: Mapping[Path, _Stamp], new: set[Path]) -> None:
        """Reload files that changed since they were last loaded; refused files stay new."""
        self._seen = dict(seen)
        crls = new & set(self._crl_paths)
        taken = set()
        if new - crls and self._try(self._load_tls, EventName.TLS_LOADED, EventName.TLS_REFUSED):
            taken = new
        elif crls and self._try(self._load_crls, EventName.CRL_LOADED, EventName.CRL_REFUSED):
            taken = crls  # even if other files are refused: revocations must take effect
        if taken:
            self._problems.pop(EventName.CRL_REFUSED, None)
            self._note_crls()
        self._taken |= {path: seen[path] for path in taken - self._crls.refused.keys()}

    def _note_crls(self) -> None:
        """Say which CRLs are refused, and remember the others."""
        for error in self._crls.refused.values():
            self._authority.audit.note(EventName.CRL_REFUSED, _DAEMON, {"message": error.message})
        try:
            self._crls.remember()
        except ConfigError as error:  # they count nevertheless
            self._problems[EventName.CRL_LOADED] = error
        else:
            self._problems.pop(EventName.CRL_LOADED, None)

    def _look(self) -> dict[Path, _Stamp]:
        files = (self._tls.certificate, self._tls.key, self._tls.client_ca, *self._crl_paths)
        return {path: _stamp(path) for path in files}

    def _try(self, load: Callable[[], Mapping[str, str]], loaded: EventName, refused: EventName) -> bool:
        try:
            details = load()
        except ConfigError as error:
            self._authority.audit.note(refused, _DAEMON, {"message": error.message})
            self._problems[refused] = error
            return False
        self._problems.pop(refused, None)
        if details:
            self._authority.audit.note(loaded, _DAEMON, details)
        return True

    def _load_policy(self) -> Mapping[str, str]:
        policy = load_policy(self._policy, self._profiles, self._files)
        self._authority.access.policy = policy
        return {"file": str(self._policy), "clients": str(len(policy.grants))}

    def _load_tls(self) -> Mapping[str, str]:
        """Load TLS files together with the CRLs, so that both use the same operator CAs."""
        files = load_tls(self._tls, self._fleet, self._clock(), self._files)
        revoked = self._trust_by(files)
        self.credentials.use(files)
        return {"certificate": files.fingerprint, **revoked}

    def _load_crls(self) -> Mapping[str, str]:
        """Load the CRLs; return nothing if all of them are refused."""
        details = self._trust_by(self.credentials.files)
        return details if len(self._crls.refused) < len(self._crl_paths) else {}

    def _trust_by(self, files: TlsFiles) -> Mapping[str, str]:
        self._crls.load(files.operators, self._clock())
        crls = self._crls.all
        self.trust.use(files.operators, crls)
        details = {"revoked": str(sum(len(item.crl) for item in crls))}
        return {**details, "unknown": "; ".join(self._crls.gaps)} if self._crls.gaps else details


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns
