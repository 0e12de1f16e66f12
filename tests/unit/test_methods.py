"""The table of methods: it and the protocols say the same, and nothing is served that is not in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from otahsm.access import Call
from otahsm.daemon.edge.methods import FACTS, FILES, METHODS, SERVICES, Facts, ServiceFacts, services_of
from otahsm.v1 import access_pb2

DEVICES = "otahsm.v1.DeviceService"
NOBODY = Facts(Call(frozenset()))


def with_facts(service: str, methods: Mapping[str, Facts]) -> dict[str, ServiceFacts]:
    return {**FACTS, service: ServiceFacts(needs_signer=False, methods=methods)}


def test_every_protocol_is_looked_at() -> None:
    ours = {Path(name).stem for file in FILES if (name := file.name).startswith("otahsm/")}
    protocols = Path(access_pb2.__file__).parent.glob("*_pb2.py")
    assert {f"{name}_pb2" for name in ours} == {path.stem for path in protocols}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({name: facts for name, facts in FACTS.items() if name != DEVICES}, f"{DEVICES} is in the protocols"),
        (with_facts("otahsm.v1.CoffeeService", {}), r"otahsm\.v1\.CoffeeService has facts"),
        (with_facts(DEVICES, {}), f"{DEVICES}/ResetDevice is in the protocols"),
        (
            with_facts(DEVICES, {"ResetDevice": NOBODY, "EraseDevice": NOBODY}),
            f"{DEVICES}/EraseDevice has facts",
        ),
    ],
)
def test_what_the_table_and_the_protocols_do_not_both_have_is_named(facts: Any, said: str) -> None:
    with pytest.raises(LookupError, match=said):
        services_of(FILES, facts)


def test_what_streams_is_as_the_protocols_say() -> None:
    streams = {path for path, method in METHODS.items() if method.takes_stream and method.gives_stream}
    assert streams == {
        "/otahsm.v1.IssuanceService/IssueCertificates",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }


def test_who_may_only_read_changes_nothing() -> None:
    for method in METHODS.values():
        if method.leaves:
            assert isinstance(method.callers, Call)
            assert not method.callers.may(frozenset({"auditor"})), method.path


def test_each_method_is_in_one_service() -> None:
    assert len(METHODS) == sum(len(service.methods) for service in SERVICES)
