"""The cycle against a model: whatever is asked, fails or is killed, and in whatever order.

Ledger, preparation and certificates are the real ones, in one process; the token is a key in memory that can
fail. A kill is a database that takes nothing more from this daemon, at once or after a commit, and another
daemon that opens it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from otahsm.access import Grant
from otahsm.authority import AccessControl, Caller, IssuanceRequest, Issued, Policy
from otahsm.errors import (
    AuthorityUnusableError,
    ConflictError,
    InProgressError,
    LedgerUnavailableError,
    OtahsmError,
    RequestRefusedError,
    RevokedError,
    SigningRefusedError,
    TokenUnavailableError,
)
from otahsm.issuance.batches import Batches
from otahsm.issuance.cycle import IssuanceCycle
from otahsm.issuance.drafting import Drafting
from otahsm.issuance.values import Outcome
from otahsm.ledger import Ledger, RevocationRequest, database_of
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.pki.certificate import Binding
from otahsm.pki.crls.building import Reason
from otahsm.pki.keytypes import sign
from otahsm.pki.template import ProfileTemplate, Terms
from otahsm.preparation.codec import Task, decode_answers, encode_setup, encode_tasks
from otahsm.preparation.pool import Preparers
from otahsm.preparation.preparer import start
from otahsm.revocation.revoking import Revocations
from otahsm.system.clock import microseconds
from otahsm.token.desk.certificates import Certificates
from otahsm.token.desk.codec import CertificateToSign
from otahsm.token.pool import SignerPool

from support.acts import by
from support.attacks.forging import forge, key_of, named
from support.authority import CA_LIFE, authorities_of, issuer_of, mandate_of
from support.cycle.cycle_draws import (
    BATCHES,
    DEVICES,
    FAULTS,
    KEYS,
    MOMENTS,
    PROFILES,
    RENEWALS,
    START,
    Fault,
)
from support.cycle.cycle_model import Asked, Expected, Kind, Model
from support.examples import examples
from support.homes import MAC_KEYS, Home
from support.intents import told
from support.logbook import findings, grow

ANSWERS: dict[type[OtahsmError], Kind] = {
    AuthorityUnusableError: Kind.UNUSABLE,
    ConflictError: Kind.CONFLICT,
    InProgressError: Kind.IN_PROGRESS,
    RequestRefusedError: Kind.REFUSED,
    RevokedError: Kind.REVOKED,
}


class InThisProcess:
    """Prepares and signs as the workers do, and fails when told to."""

    def __init__(self, machine: CycleMachine) -> None:
        self._machine = machine
        self._handle = start(encode_setup(PROFILES))

    async def prepare(self, tasks: Sequence[Task]) -> list[Binding | OtahsmError]:
        return [*decode_answers(tasks, list(self._handle(encode_tasks(tasks))))]

    async def sign_certificates(
        self, profile: str, items: Sequence[CertificateToSign]
    ) -> list[bytes | SigningRefusedError]:
        machine = self._machine
        digests = [item.tbs_sha256 for item in items]
        durable = {row.tbs_sha256 for row in machine.rows() if row.void_reason is None and row.der is None}
        assert durable.issuperset(digests)  # I2
        machine.signed.update(digests)
        fault = machine.fault
        if fault is not None and fault.token_fails:
            machine.dead = fault.kills and fault.at == "token"
            raise TokenUnavailableError("the token is away")
        built, now = Certificates(machine.mandate), microseconds(machine.now) // 1000
        return [sign(key_of("ec-p256"), built.build(profile, item, now)) for item in items]


class Row(NamedTuple):
    """What the database holds of a request."""

    serial: bytes
    device_id: str
    profile: str
    spki_sha256: bytes
    tbs_sha256: bytes
    void_reason: str | None
    superseded_at: int | None
    der: bytes | None
    reason: str | None


TESTER = Grant("test", ("cn:test",), frozenset({"issuer"}), frozenset({"*"}))
ACCESS = AccessControl(Policy([TESTER]))


class CycleMachine(RuleBasedStateMachine):
    """One ledger, the daemons that use it one after another, and what has become of every device."""

    new_home: ClassVar[Callable[[], Home]]

    @initialize()
    def begin(self) -> None:
        self.home = type(self).new_home()
        self.model = Model(PROFILES, CA_LIFE.not_before, CA_LIFE.not_after)
        self.now = START
        self.keys = {key: ec.generate_private_key(ec.SECP256R1()) for key in KEYS}
        self.csr = cache(self._csr)
        self.released: dict[bytes, tuple[str, str]] = {}
        self.signed: set[bytes] = set()
        self.loop = asyncio.Runner()
        self.open(voided=0)

    def open(self, voided: int) -> None:
        """Have a daemon begin; it must find so many intents open."""
        self.fault: Fault | None = None
        self.dead, self.commits = False, 0
        self.ledger = Ledger(
            database_of(self.home.config),
            MAC_KEYS,
            [issuer_of("ec-p256").key_identifier],
            RENEWALS,
            clock=lambda: self.now,
        )
        assert self.loop.run(self.ledger.open()) == voided
        event.listen(self.ledger._database.engine, "commit", self._commit)
        workers = InThisProcess(self)
        issuer = issuer_of("ec-p256")
        self.mandate = mandate_of(PROFILES)
        templates = {
            name: ProfileTemplate(Terms(profile, issuer, None)) for name, profile in PROFILES.items()
        }
        self.cycle = IssuanceCycle(
            authorities=authorities_of("ec-p256", PROFILES),
            profiles=PROFILES,
            default_profile="plain",
            drafting=Drafting(cast(Preparers, workers), templates),
            signers=cast(SignerPool, workers),
            ledger=self.ledger,
            batches=Batches(
                self.ledger, LedgerQueries(self.home.config), PROFILES, "plain", lambda: self.now
            ),
            access=ACCESS,
            clock=lambda: self.now,
        )

    def _commit(self, connection: Connection) -> None:
        """Stand between the ledger and its database."""
        self.commits += 1
        fault = self.fault
        if fault is not None and fault.commit == self.commits and not self.dead:
            self.dead = fault.kills
            if fault.after:
                connection.connection.commit()
        elif not self.dead:
            return
        raise OperationalError("", None, Exception("the answer was lost"))

    @rule(batch=BATCHES, moment=MOMENTS)
    def devices_ask(self, batch: list[Asked], moment: datetime | timedelta) -> None:
        self.now = moment if isinstance(moment, datetime) else self.now + moment
        self.issue(batch)
        self.now = START if isinstance(moment, datetime) else self.now

    @rule(batch=BATCHES, fault=FAULTS)
    def devices_ask_and_something_fails(self, batch: list[Asked], fault: Fault) -> None:
        self.keys[len(self.keys)] = ec.generate_private_key(ec.SECP256R1())
        stranger = Asked(f"stranger-{len(self.keys)}", len(self.keys) - 1, "plain", "", sound=True)
        self.issue([*batch, stranger], fault)

    def issue(self, batch: list[Asked], fault: Fault | None = None) -> None:
        expected = self.model.expect(batch, self.now)
        made = [each for each in expected if each.kinds == {Kind.NEW}]
        self.fault, self.commits = fault, 0
        outcomes = self.loop.run(self.cycle.issue([self._order(asked) for asked in batch]))
        self.fault = None
        for asked, each, outcome in zip(batch, expected, outcomes, strict=True):
            if fault is None or not isinstance(outcome, LedgerUnavailableError | TokenUnavailableError):
                self._check(asked, each, outcome)
        if self.dead:
            left = [row for row in self.rows() if row.der is None and row.void_reason is None]
            self.loop.run(self.ledger.close())
            self.open(voided=len(left))
        elif fault is not None:
            self.loop.run(self.ledger.tend())  # as the daemon does every few seconds
        self._find(made)

    def _find(self, made: list[Expected]) -> None:
        """See what was recorded, also if nobody was told: all that was to be made, or nothing."""
        known = {one.der for one in self.model.certificates}
        new = {
            (row.device_id, row.profile): row.der for row in self.rows() if row.der and row.der not in known
        }
        if not new:
            self.model.fail(made)
            return
        assert len(new) == len(made)
        for certificate in (each.certificate for each in made):
            assert certificate is not None
            certificate.der = new[certificate.asked.device, certificate.asked.profile]

    def _check(self, asked: Asked, expected: Expected, outcome: Outcome) -> None:
        if not isinstance(outcome, Issued):
            assert ANSWERS.get(type(outcome)) in expected.kinds, (asked, expected, outcome)
            return
        (kind,) = expected.kinds
        assert kind is (Kind.REPLAY if outcome.replayed else Kind.NEW), (asked, expected)
        assert expected.certificate is not None
        if outcome.replayed:
            assert outcome.certificate == expected.certificate.der  # I3
        certificate = x509.load_der_x509_certificate(outcome.certificate)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        assert CA_LIFE.not_before <= begin < end <= CA_LIFE.not_after  # I9
        assert end == expected.certificate.not_after
        assert certificate.serial_number == outcome.serial
        assert outcome.device_id == asked.device
        assert certificate.public_key() == self.keys[asked.key].public_key()
        assert sha256(certificate.tbs_certificate_bytes).digest() in self.signed
        self.released[outcome.certificate] = (outcome.device_id, asked.profile)

    @rule(
        device=st.sampled_from(DEVICES),
        days=st.sampled_from([-400, -1, 0, 9, 10, 11, 29, 30, 31, 200]),
        key=st.none() | st.sampled_from(KEYS),
        fault=st.none() | FAULTS,
        twice=st.booleans(),
    )
    def a_device_asks_near_the_end(
        self, device: str, days: int, key: int | None, fault: Fault | None, *, twice: bool
    ) -> None:
        current = self.model.current(device, "renewing")
        if current is not None:
            self.now = current.not_after - timedelta(days=days)
            wanted = current.asked._replace(key=current.asked.key if key is None else key, name="")
            self.issue([wanted] * (1 + twice), fault)

    @rule(device=st.sampled_from(DEVICES), profile=st.sampled_from(tuple(PROFILES)))
    def a_device_is_reset(self, device: str, profile: str) -> None:
        change = self.loop.run(self.ledger.acts.reset(device, profile, by(), told))
        assert (change.result is not None) == self.model.reset(device, profile)

    @rule(device=st.sampled_from(DEVICES), reason=st.sampled_from([Reason.SUPERSEDED, Reason.KEY_COMPROMISE]))
    def a_device_is_revoked(self, device: str, reason: Reason) -> None:
        revocations = Revocations(self.ledger, lambda: self.now, lambda: None)
        order = RevocationRequest(None, device, "", reason)
        (outcome,) = self.loop.run(revocations.revoke([order], by())).result
        count = self.model.revoke(device, reason)
        assert (len(outcome) if isinstance(outcome, list) else 0) == count

    @rule()
    def the_tree_grows(self) -> None:
        self.loop.run(grow(self.ledger))

    @invariant()
    def the_books_are_right(self) -> None:
        rows = self.rows()
        assert len({row.serial for row in rows}) == len(rows)
        assert all((row.der is None) == (row.void_reason is not None) for row in rows)  # none is open
        assert sorted(row.tbs_sha256 for row in rows if row.tbs_sha256 in self.signed) == sorted(self.signed)
        held = {row.der: (row.device_id, row.profile) for row in rows if row.der is not None}
        assert self.released.items() <= held.items()  # I1
        devices: dict[bytes, str] = {}
        for row in rows:
            if row.der is not None:
                assert devices.setdefault(row.spki_sha256, row.device_id) == row.device_id
        assert {(row.der, row.superseded_at is None, row.reason) for row in rows if row.der is not None} == {
            (one.der, one.live, one.revoked.value if one.revoked else None) for one in self.model.certificates
        }
        live = [held[row.der] for row in rows if row.der is not None and row.superseded_at is None]
        assert len(set(live)) == len(live)  # I3

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            try:
                self.loop.run(grow(self.ledger))
            finally:
                self.loop.run(self.ledger.close())
                self.loop.close()
            assert findings(self.home) == []

    def rows(self) -> list[Row]:
        """Read from outside what the database holds of this example."""
        columns = ", ".join(Row._fields)
        return [
            Row(*row)
            for row in self.home.read(
                f"SELECT {columns} FROM intents LEFT JOIN certificates c ON c.intent_id = id"
                " LEFT JOIN revocations r ON r.intent_id = id ORDER BY id"
            )
        ]

    def _order(self, asked: Asked) -> IssuanceRequest:
        csr = self.csr(asked.device, asked.key)
        if not asked.sound:
            csr = csr[:-1] + bytes([csr[-1] ^ 1])
        return IssuanceRequest(Caller("cn:test", bytes(32)), asked.name, asked.profile, "", csr)

    def _csr(self, device: str, key: int) -> bytes:
        return forge(named(device), key=self.keys[key])


@pytest.mark.hypothesis
@pytest.mark.parametrize(
    ("engine", "number"), [("sqlite", examples(100)), ("postgresql", examples(25, least=5))]
)
def test_the_cycle_does_what_the_model_says(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str, number: int
) -> None:
    empty: Home = request.getfixturevalue(f"empty_{engine}")

    def new_home() -> Home:
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        return empty.copied(folder)

    machine = type("Machine", (CycleMachine,), {"new_home": staticmethod(new_home)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=number,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
