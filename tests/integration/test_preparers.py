"""I5 at its worst: a CSR that kills or takes over whoever parses it costs its neighbours nothing.

And a preparer that was taken over gets nothing certified but what the CSR of its caller asks for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from otahsm.errors import OtahsmError, RequestRefusedError, WorkerSuspectError
from otahsm.patterns import compile_pattern
from otahsm.pki.certificate import Binding
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import Profile
from otahsm.preparation.codec import Task
from otahsm.preparation.pool import Preparers

from support.attacks.forging import key_of
from support.devices import new_request
from support.workers.preparer_for_tests import DEADLY, ENDLESS, SLOW, lying


@asynccontextmanager
async def preparers(
    size: int = 1, profile: Profile | None = None, module: str = "support.workers.preparer_for_tests"
) -> AsyncIterator[tuple[Preparers, list[OtahsmError]]]:
    """Run preparers; yields them, and what they are lost by."""
    failures: list[OtahsmError] = []

    def report(event: str, pid: int, error: OtahsmError | None) -> None:
        del event, pid
        if error is not None:
            failures.append(error)

    pool = Preparers({"ota-connect": profile or Profile()}, size=size, report=report, module=module)
    await pool.start()
    try:
        yield pool, failures
    finally:
        await pool.close()


@pytest.fixture
def tests_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = Path(__file__).parents[1]
    monkeypatch.setitem(os.environ, "PYTHONPATH", f"{tests}{os.pathsep}{tests.parent}")


async def test_no_device_id_makes_a_profiles_pattern_take_for_ever() -> None:
    # Python's own regular expressions would take years for this one.
    tasks = [Task("ota-connect", "", new_request(name).csr) for name in ("a" * 127 + "!", "a" * 128)]
    profile = Profile(device_id=compile_pattern("(a+)+$"))
    async with preparers(profile=profile, module="otahsm.preparation.preparer") as (pool, _):
        refused, binding = await pool.prepare(tasks)
    assert isinstance(refused, RequestRefusedError)
    assert "doesn't match the profile's pattern (a+)+$" in refused.message
    assert isinstance(binding, Binding)


@pytest.mark.usefixtures("tests_on_the_path")
@pytest.mark.parametrize(
    ("csr", "deadly"),
    [(DEADLY, {0}), (DEADLY, {13}), (DEADLY, {3, 4, 30}), (ENDLESS, {7}), (ENDLESS, {0, 31})],
)
async def test_a_csr_that_kills_its_parser_is_refused_alone(csr: bytes, deadly: set[int]) -> None:
    tasks = [Task("ota-connect", "", csr if number in deadly else new_request().csr) for number in range(32)]
    async with preparers(size=2) as (pool, failures):
        answers = await pool.prepare(tasks)
    assert len(failures) <= 2 + 2 * len(deadly)  # the group, twice, and then each of them, twice
    for number, answer in enumerate(answers):
        if number in deadly:
            assert isinstance(answer, RequestRefusedError)
            assert "cost the process that parsed it its life" in answer.message
        else:
            assert isinstance(answer, Binding)


async def test_a_socket_that_nobody_listens_at_is_named_with_its_unit(tmp_path: Path) -> None:
    failed = asyncio.get_running_loop().create_future()

    def report(event: str, pid: int, error: OtahsmError | None) -> None:
        if not failed.done():
            failed.set_result((event, pid, error))

    path = tmp_path / "preparer.sock"
    pool = Preparers({"ota-connect": Profile()}, size=1, report=report, socket=path)
    await pool.start()
    event, _, error = await failed
    await pool.close()
    assert event == "preparer.failed"
    assert str(path) in error.message
    assert "otahsm-preparer.socket is active" in error.hint


@pytest.mark.usefixtures("tests_on_the_path")
async def test_processor_time_is_limited_for_each_csr_and_not_for_a_group_of_them() -> None:
    async with preparers() as (pool, failures):
        answers = await pool.prepare([Task("ota-connect", "", SLOW)] * 3)
    assert failures == []
    assert ["can't read the CSR" in str(answer) for answer in answers] == [True] * 3


@pytest.mark.usefixtures("tests_on_the_path")
async def test_a_preparer_that_was_taken_over_is_killed_and_its_neighbours_are_served() -> None:
    lie = lying([b"ok", b"device-7", encode_spki(key_of("ed25519").public_key())])
    tasks = [Task("ota-connect", "", csr) for csr in (new_request("device-1").csr, lie)]
    async with preparers() as (pool, failures):
        honest, refused = await pool.prepare(tasks)
    assert isinstance(honest, Binding)
    assert honest.device_id == "device-1"
    assert isinstance(refused, RequestRefusedError)
    assert "cost the process that parsed it its life" in refused.message
    assert {type(error) for error in failures} == {WorkerSuspectError}
    assert "a device id that the CSR does not contain" in failures[0].message
