"""gRPC's server, made robust against malformed method names. Only this module uses private names of grpc.aio.

grpc.aio decodes the name of an unregistered method as UTF-8, in the loop that accepts calls: a single call
with an invalid path ends that loop, and with it the server. All our methods are registered, so calls of
unregistered methods are answered here, without decoding their names.

This needs private names of grpc.aio, which may change with any version. So they are checked before the server
is created: another grpcio would either fail at the first call or serve without this protection.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Mapping
from typing import Any, Final

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from otahsm.daemon.edge.limits import MAX_CALLS, options
from otahsm.errors import ConfigError

# As in pyproject.toml. Older versions accept calls differently, and newer ones are unknown.
FITTING: Final = ">=1.85.1,<1.86"

_ANY: Final = ("::", "0.0.0.0")  # noqa: S104 - compared with what the configuration says
_UNKNOWN: Final = "the daemon has no such method"

# The private names used here, and their signatures; `method_bytes` is None for calls of unknown methods.
_SHAPES: Final[Mapping[str, tuple[str, ...]]] = {
    "AioServer._make_request_call_future": ("self", "method_bytes"),
    "AioServer._request_call": ("self",),
    "_ServicerContext.abort": ("self", "code", "details", "trailing_metadata"),
    "_schedule_rpc_coro": ("rpc_coro", "rpc_state", "loop", "method_name"),
    "get_working_loop": (),
}


def new_server() -> grpc.aio.Server:
    """Return a server with our limits.

    Raises:
        ConfigError: the installed grpcio does not fit.
    """
    try:
        _verify_shapes()
        return _server()
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"otahsm can't serve with grpcio {grpc.__version__}: {error}",
            hint=f"Install a version that fits: pip install 'grpcio{FITTING}'",
        ) from error


def add_port(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Listen on `host:port`; return the port. Raises ConfigError."""
    try:
        _try_to_bind(address)
        return server.add_secure_port(address, credentials)
    except (OSError, RuntimeError) as error:
        reason = f": {error.strerror}" if isinstance(error, OSError) else ""
        raise ConfigError(
            f"[daemon] listen: can't listen on {address}{reason}",
            hint="Check whether another daemon is running there: `ss -ltnp` shows who listens.",
        ) from error


def _try_to_bind(address: str) -> None:
    """Raise OSError if no address of the host can be bound: gRPC would only write to standard error, why."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    failure: OSError | None = None
    for family, *kind, _, name in socket.getaddrinfo(
        None if host in _ANY else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        try:
            with socket.socket(family, *kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(name)
                return
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure


def _verify_shapes() -> None:
    """Raise AttributeError or TypeError if grpc.aio lacks the private names, or their signatures differ."""
    for name, parameters in _SHAPES.items():
        used = cygrpc
        for part in name.split("."):
            used = getattr(used, part)
        found = tuple(inspect.signature(used).parameters)
        if found != parameters:
            raise TypeError(f"{name} takes ({', '.join(found)}), not ({', '.join(parameters)})")
    cygrpc._ServicerContext(None, None, None, None)  # noqa: SLF001 - its parameters can't be inspected


def _server() -> grpc.aio.Server:
    """Return grpc.aio's server with a core that answers calls of unknown methods itself."""

    class Core(cygrpc.AioServer):  # type: ignore[misc] # no type information upstream
        """Accepts calls; those of unknown methods never reach grpc.aio's loop."""

        def __init__(self, loop: asyncio.AbstractEventLoop, *rest: object) -> None:
            super().__init__(loop, *rest)
            self._event_loop = loop
            self._refusing: set[asyncio.Task[None]] = set()

        def _make_request_call_future(self, method: bytes | None) -> Any:
            if method is not None:
                return super()._make_request_call_future(method)
            return self._event_loop.create_task(self._refuse_all())

        async def _refuse_all(self) -> None:
            """Answer calls of unknown methods until the server stops, when `_request_call` raises."""
            while True:
                call = await self._request_call()
                context = cygrpc._ServicerContext(call, None, None, self._event_loop)  # noqa: SLF001
                answer = context.abort(grpc.StatusCode.UNIMPLEMENTED, _UNKNOWN)
                task = self._event_loop.create_task(
                    cygrpc._schedule_rpc_coro(answer, call, self._event_loop, "")  # noqa: SLF001
                )
                self._refusing.add(task)
                task.add_done_callback(self._refusing.discard)

    class Server(grpc.aio._server.Server):  # type: ignore[name-defined,misc] # noqa: SLF001 - it has no other name
        """grpc.aio's server around `Core`."""

        def __init__(self) -> None:
            self._loop = cygrpc.get_working_loop()
            self._server = Core(self._loop, None, (), (), options(), MAX_CALLS)

    server: grpc.aio.Server = Server()
    return server
