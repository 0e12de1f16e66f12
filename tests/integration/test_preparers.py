"""I5 at its worst: a CSR that kills whoever parses it costs its neighbours nothing."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from otahsm.errors import RequestRefusedError
from otahsm.patterns import compile_pattern
from otahsm.pki.certificate import Validity, assemble
from otahsm.pki.chain import load_chain
from otahsm.pki.crls.distribution import CrlLocation
from otahsm.pki.parsing import crl_url_in
from otahsm.pki.profile import Profile
from otahsm.preparation.codec import Draft, Task
from otahsm.preparation.pool import Preparers

from support.devices import new_request
from support.harness import Fleet
from support.workers.preparer_for_tests import DEADLY

CRL = CrlLocation("http://crl.example.com/fleet-{shard}.crl", shards=4)
PLAIN_CRL = CrlLocation("http://crl.example.com/fleet.crl")


@pytest.mark.parametrize("crl", [None, PLAIN_CRL, CRL], ids=["no CRL", "one CRL", "four shards"])
async def test_a_draft_states_the_crl_of_its_serial_numbers_shard(
    fleet: Fleet, crl: CrlLocation | None
) -> None:
    issuer = load_chain(fleet.root_pem.read_bytes()).issuer
    validity = Validity(issuer.not_before, issuer.not_after)
    tasks = [Task("ota-connect", "", new_request().csr, validity, 1_900_000_000_000) for _ in range(64)]
    preparers = Preparers(
        {"ota-connect": Profile()},
        {"ota-connect": issuer},
        crls={"ota-connect": crl},
        size=1,
        report=lambda *_: None,
    )
    await preparers.start()
    try:
        answers = await preparers.prepare(tasks)
    finally:
        await preparers.close()
    stated = set()
    for draft in answers:
        assert isinstance(draft, Draft)
        url = crl_url_in(assemble(draft.tbs, issuer.algorithm, b"not signed yet"))
        assert url == (crl and crl.url(crl.shard_of(draft.serial)))
        stated.add(url)
    assert len(stated) == (crl.shards if crl else 1)  # one of four shards gets none of 64: once in 10^7


async def test_no_device_id_makes_a_profiles_pattern_take_for_ever(fleet: Fleet) -> None:
    # Python's own regular expressions would take years for this one.
    issuer = load_chain(fleet.root_pem.read_bytes()).issuer
    validity = Validity(issuer.not_before, issuer.not_after)
    requests = [new_request("a" * 127 + "!"), new_request("a" * 128)]
    preparers = Preparers(
        {"ota-connect": Profile(device_id=compile_pattern("(a+)+$"))},
        {"ota-connect": issuer},
        crls={"ota-connect": None},
        size=1,
        report=lambda *_: None,
    )
    await preparers.start()
    try:
        refused, draft = await preparers.prepare(
            [Task("ota-connect", "", request.csr, validity, 1_900_000_000_000) for request in requests]
        )
    finally:
        await preparers.close()
    assert isinstance(refused, RequestRefusedError)
    assert "doesn't match the profile's pattern (a+)+$" in refused.message
    assert isinstance(draft, Draft)


@pytest.mark.parametrize("deadly", [{0}, {13}, {3, 4, 30}])
async def test_a_csr_that_kills_its_parser_is_refused_alone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, deadly: set[int]
) -> None:
    tests = Path(__file__).parents[1]
    monkeypatch.setitem(os.environ, "PYTHONPATH", f"{tests}{os.pathsep}{tests.parent}")
    now = datetime.now(UTC)
    validity = Validity(now, now + timedelta(days=1))
    issuer = load_chain(fleet.root_pem.read_bytes()).issuer
    tasks = [
        Task(
            "ota-connect", "", DEADLY if number in deadly else new_request().csr, validity, 1_900_000_000_000
        )
        for number in range(32)
    ]
    preparers = Preparers(
        {"ota-connect": Profile()},
        {"ota-connect": issuer},
        crls={"ota-connect": None},
        size=2,
        report=lambda *_: None,
        module="support.workers.preparer_for_tests",
    )
    await preparers.start()
    try:
        answers = await preparers.prepare(tasks)
    finally:
        await preparers.close()
    for number, answer in enumerate(answers):
        if number in deadly:
            assert isinstance(answer, RequestRefusedError)
            assert "crashed the process that parsed it" in answer.message
        else:
            assert isinstance(answer, Draft)
