"""Builds a certification authority from its configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from otahsm.access import AccessControl
from otahsm.authority.approvals import Approvals
from otahsm.authority.certificate_authority import CertificateAuthority
from otahsm.authority.changes import Changes
from otahsm.authority.client_quotas import ClientQuotaUses
from otahsm.authority.crls import Crls
from otahsm.authority.denied_clients import DeniedClients
from otahsm.authority.held_signers import HeldSigners
from otahsm.authority.jobs import Supervisor
from otahsm.authority.life_cycle import LifeCycle
from otahsm.authority.spool_reader import SpoolReader
from otahsm.authority.values import Profiles
from otahsm.config import Config, load_policy, section
from otahsm.errors import ConfigError, OtahsmError, RequestRefusedError
from otahsm.issuance.authorities import Authorities
from otahsm.issuance.batches import Batches
from otahsm.issuance.cycle import IssuanceCycle
from otahsm.issuance.drafting import Drafting
from otahsm.issuance.queue import IssuanceQueue
from otahsm.ledger import Database, Ledger, Renewal, database_of, read_mac_keys
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.pki.profile import Profile
from otahsm.pki.template import ProfileTemplate, Terms
from otahsm.preparation.pool import Preparers
from otahsm.revocation.crl_keeper import CrlKeeper
from otahsm.revocation.revoking import Revocations
from otahsm.system.clock import Clock
from otahsm.system.event_log import EventLogger
from otahsm.system.trusted_files import own_files
from otahsm.token.configured import mandate_of
from otahsm.token.pool import SignerPool
from otahsm.token.setup import Mandate
from otahsm.transparency.audit import AuditLog, EventName
from otahsm.transparency.log import Transparency
from otahsm.workers.pool import Report

_SECOND: Final = timedelta(seconds=1)
_EXTRA_SLOTS: Final = 2  # groups in the journal and record steps, in addition to those at a worker


def assemble(
    config: Config, report: Report, *, clock: Clock, log_event: EventLogger = lambda *_: None
) -> CertificateAuthority:
    """Build everything between the network and the token, for one CA or several, without starting it.

    Args:
        config: the whole configuration; it needs [token], [ca], [ledger] and [access].
        report: called with (event, pid, error) when a worker process is ready or lost.
        clock: the time of day, for all parts.
        log_event: called with the name and the fields of each event to log.

    Raises:
        ConfigError: a section or a file is missing or invalid.
    """
    token = section(config.token, "token")
    section(config.ca, "ca")
    settings = config.issuance
    files = own_files()
    access = AccessControl(
        load_policy(section(config.access, "access").policy, config.profiles.keys(), files)
    )
    profiles = {name: profile.build() for name, profile in config.profiles.items()}
    authorities = Authorities.load(config, files)
    database = database_of(section(config.ledger, "ledger"))
    keys = read_mac_keys(section(config.ledger, "ledger"))
    ledger = Ledger(
        database,
        keys,
        authorities.key_identifiers,
        _renewals(profiles),
        clock,
    )
    queries = LedgerQueries(section(config.ledger, "ledger"))
    denials = LedgerQueries(section(config.ledger, "ledger"))
    audit = AuditLog(ledger, log_event, clock)
    report = _noting_workers(audit, report)
    changes = Changes(access, audit)
    clients = DeniedClients(ledger, denials, access, audit, changes, clock)
    preparers = Preparers(profiles, size=settings.preparers, report=report, socket=settings.preparer_socket)
    mandate = mandate_of(config, files)
    signers = SignerPool(token, mandate, wait_seconds=settings.wait_for_signer_seconds, report=report)
    looked = asyncio.Event()
    transparency = Transparency(
        ledger,
        signers,
        config=config.checkpoint,
        key=mandate.checkpoint.verifier_key if mandate.checkpoint else None,
        clock=clock,
    )
    crls = _crls(authorities, database, ledger, signers, clock, log_event)
    batches = Batches(ledger, queries, profiles.keys(), settings.default_profile, clock)
    cycle = IssuanceCycle(
        authorities=authorities,
        profiles=profiles,
        default_profile=settings.default_profile,
        drafting=Drafting(preparers, _templates(mandate)),
        signers=HeldSigners(signers, looked, wait_seconds=settings.wait_for_signer_seconds),
        ledger=ledger,
        batches=batches,
        access=access,
        clock=clock,
    )
    queue = IssuanceQueue(
        cycle.issue,
        group_size=settings.batch_size,
        slots=settings.preparers + token.signers + _EXTRA_SLOTS,
        client_of=lambda caller: access.principal_of(caller).identity,
    )
    guard_dirs = {item.guard_dir: item.signer_socket is None for item in token.all}
    return CertificateAuthority(
        access=access,
        approvals=Approvals(
            access=access,
            audit=audit,
            batches=batches,
            changes=changes,
            clients=clients,
            clock=clock,
            keys=keys,
            ledger=ledger,
            queries=queries,
            revoked=crls.look,
        ),
        audit=audit,
        authorities=authorities,
        batches=batches,
        changes=changes,
        clients=clients,
        clock=clock,
        crls=crls,
        ledger=ledger,
        life=LifeCycle(
            audit=audit,
            clients=clients,
            crls=crls,
            denials=denials,
            ledger=ledger,
            ledger_name=database.name,
            looked=looked,
            preparers=preparers,
            queries=queries,
            queue=queue,
            report=report,
            signers=signers,
            spool=SpoolReader(guard_dirs, audit),
            supervisor=Supervisor(clock),
            transparency=transparency,
        ),
        profiles=Profiles(profiles, settings.default_profile),
        queries=queries,
        queue=queue,
        quotas=ClientQuotaUses(ledger, queries, access, audit, clock),
        revocations=Revocations(ledger, clock, crls.look),
        transparency=transparency,
    )


def _noting_workers(audit: AuditLog, report: Report) -> Report:
    """Record in the audit log which signers are ready, and so have logged in, and which workers are lost.

    For signers under another user, these are the only events about logins. A preparer that is lost may have
    met a CSR that was made for that.
    """
    noted_events = (EventName.SIGNER_READY, EventName.SIGNER_LOST, EventName.PREPARER_LOST)
    names = {item.value: item for item in noted_events}

    def noted(event: str, pid: int, error: OtahsmError | None) -> None:
        if event in names:
            why = {"reason": error.reason, "message": error.message} if error else {}
            details: dict[str, int | str] = {"pid": pid, **why}
            audit.note(names[event], "daemon", details, is_logged=True)
        if event == EventName.SIGNING_REFUSED and error is not None:
            audit.count(EventName.SIGNING_REFUSED, "daemon", {"reason": error.reason}, message=error.message)
            return
        report(event, pid, error)

    return noted


def _renewals(profiles: Mapping[str, Profile]) -> Mapping[str, Renewal]:
    return {
        name: Renewal(profile.renewal // _SECOND, profile.rekey // _SECOND)
        for name, profile in profiles.items()
    }


def _templates(mandate: Mandate) -> dict[str, ProfileTemplate]:
    templates = {}
    for name, (authority, profile, crls) in mandate.profiles.items():
        terms = Terms(profile, mandate.authorities[authority].issuer, crls)
        try:
            templates[name] = ProfileTemplate(terms)
        except RequestRefusedError as error:
            raise ConfigError(f"[profiles.{name}] subject: {error.message}") from None
    return templates


def _crls(
    authorities: Authorities,
    database: Database,
    ledger: Ledger,
    signers: SignerPool,
    clock: Clock,
    log_event: EventLogger,
) -> Crls:
    return Crls(
        authorities,
        {
            item.name: CrlKeeper(
                name=item.name,
                issuer=item.chain.issuer,
                config=item.config.crl,
                database=database,
                ledger=ledger,
                signers=signers,
                alone=len(authorities.by_name) == 1,
                clock=clock,
                log_event=log_event,
            )
            for item in authorities.active
        },
    )
