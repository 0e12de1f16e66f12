"""gRPC's private names: a grpcio that has others is refused before anything is served."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from otahsm.daemon.edge import server
from otahsm.daemon.edge.server import FITTING, new_server
from otahsm.errors import ConfigError

ROOT = Path(__file__).parents[2]


class Cygrpc:
    """`cygrpc` with one name changed."""

    def __init__(self, name: str, changed: Any) -> None:
        self._name, self._changed = name, changed

    def __getattr__(self, name: str) -> Any:
        if name != self._name:
            return getattr(cygrpc, name)
        if self._changed is None:
            raise AttributeError(f"module has no attribute {name}")
        return self._changed


class OlderServer(cygrpc.AioServer):  # type: ignore[misc]
    """As that of grpcio 1.83, which has no such method."""

    _make_request_call_future = property()


async def older_schedule(rpc_coro: Any, rpc_state: Any, loop: Any) -> None:
    """As that of grpcio 1.83."""


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("_schedule_rpc_coro", older_schedule, r"_schedule_rpc_coro takes \(rpc_coro, rpc_state, loop\)"),
        ("_schedule_rpc_coro", None, "no attribute _schedule_rpc_coro"),
        ("get_working_loop", None, "no attribute get_working_loop"),
        ("AioServer", OlderServer, "is not a callable object"),
        ("_ServicerContext", object, "no attribute 'abort'"),
    ],
)
async def test_a_grpcio_of_another_shape_is_refused_with_those_that_fit(
    monkeypatch: pytest.MonkeyPatch, name: str, changed: Any, said: str
) -> None:
    monkeypatch.setattr(server, "cygrpc", Cygrpc(name, changed))
    with pytest.raises(ConfigError, match=said) as failure:
        new_server()
    assert grpc.__version__ in failure.value.message
    assert FITTING in failure.value.hint


NEWER = """
import asyncio
from grpc._cython import cygrpc
from otahsm.daemon.edge import server
from otahsm.errors import ConfigError

class NewerServer(cygrpc.AioServer):
    def __init__(self, loop, pool, handlers, interceptors, options, calls, xds):
        super().__init__(loop, pool, handlers, interceptors, options, calls)

cygrpc.AioServer = NewerServer

async def serve():
    try:
        server.new_server()
    except ConfigError as error:
        print(error.message, error.hint)

asyncio.run(serve())
"""


def test_a_grpcio_whose_server_takes_more_is_refused() -> None:
    # In a process of its own: gRPC is not the same after a server that could not be made.
    ran = subprocess.run([sys.executable, "-c", NEWER], capture_output=True, text=True, check=True)
    assert "missing 1 required positional argument: 'xds'" in ran.stdout
    assert FITTING in ran.stdout


async def test_the_grpcio_that_is_locked_fits() -> None:
    assert grpc.__version__ in SpecifierSet(FITTING)
    await new_server().stop(0)


def test_no_other_module_uses_a_private_name_of_grpc() -> None:
    private = re.compile(r"\bcygrpc\b|\bgrpc(\.\w+)*\._\w")
    users = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "otahsm").rglob("*.py")
        if private.search(path.read_text())
    }
    assert {path for path in users if not path.startswith("otahsm/v1/")} == {"otahsm/daemon/edge/server.py"}


def test_what_is_installed_for_a_server_is_bounded_as_the_check_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = [
        requirement.specifier
        for requirement in map(Requirement, project["optional-dependencies"]["server"])
        if requirement.name == "grpcio"
    ]
    assert bounds == [SpecifierSet(FITTING)]
