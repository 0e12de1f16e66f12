"""I5 at its worst: a CSR that kills whoever parses it costs its neighbours nothing."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from otahsm.errors import RequestRefusedError
from otahsm.pki import Validity, load_chain
from otahsm.preparation import Draft, Preparers, Task

from devices import new_request
from harness import Fleet
from preparer_for_tests import DEADLY


@pytest.mark.parametrize("deadly", [{0}, {13}, {3, 4, 30}])
async def test_a_csr_that_kills_its_parser_is_refused_alone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, deadly: set[int]
) -> None:
    monkeypatch.setitem(os.environ, "PYTHONPATH", str(Path(__file__).parents[1]))
    now = datetime.now(UTC)
    validity = Validity(now, now + timedelta(days=1))
    issuer = load_chain(fleet.root_pem.read_bytes()).issuer
    tasks = [
        Task("ota-connect", "", DEADLY if number in deadly else new_request().csr, validity)
        for number in range(32)
    ]
    preparers = Preparers(
        fleet.config.profiles, issuer, size=2, report=lambda *_: None, module="preparer_for_tests"
    )
    await preparers.start()
    try:
        answers = await preparers.prepare(tasks)
    finally:
        await preparers.close()
    for number, answer in enumerate(answers):
        if number in deadly:
            assert isinstance(answer, RequestRefusedError)
            assert "broke the process that parsed it" in answer.message
        else:
            assert isinstance(answer, Draft)
