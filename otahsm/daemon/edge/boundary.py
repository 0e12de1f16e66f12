"""What stands between gRPC and the services: every call passes it, in and out.

A call goes, in this order:

1. *counted*: from its first frame among the open calls of its client, until its status is sent. One too
   many is refused, whoever's it is.
2. *heard*: the message of a call that carries one has come, within so many seconds. grpc.aio would wait for
   it before any code of ours runs, for as long as the client likes; so unary calls are taken as streams of
   one message, which is what they are on the wire.
3. *let in*: its client's certificate counts, and the policy allows the call. Both are looked at again while
   the call is open: when a client is denied, the policy changes or a certificate expires, the call ends
   within a second with PERMISSION_DENIED. What it has handed to the cycle is looked at there once more.
4. *decoded*: bytes that are no message are refused like any bad request. grpc.aio would name a Python class.
5. *at work*: the service answers. Responses are written here, so that a call that is ended while its client
   takes one can still be given its status.
6. *ended*: with one status. What the steps before raise becomes it here and nowhere else: an `OtahsmError`
   as it is, whatever nobody foresaw as INTERNAL, without its text.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NoReturn

import grpc
import structlog

from otahsm.access import Open
from otahsm.authority import AccessControl, Caller
from otahsm.daemon.edge import limits
from otahsm.daemon.edge.methods import SERVICES, Method
from otahsm.daemon.edge.open_calls import OpenCalls
from otahsm.daemon.edge.tls import Context, caller_of, chain_of
from otahsm.daemon.edge.trust import Trust
from otahsm.daemon.wire import read_message
from otahsm.errors import NotAllowedError, OtahsmError, RequestRefusedError, TimeOverError, TooManyCallsError
from otahsm.errors.status import to_status
from otahsm.system.clock import Clock

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

# Called with who asked, for which path, and why not; None: it was let in.
Decided = Callable[[Caller, str, NotAllowedError | None], None]

_log = structlog.get_logger()


class _Call:
    """One call.

    Attributes:
        task: what works on it.
        denial: why the policy has ended it; None: it has not.
    """

    def __init__(self, method: Method, context: Context) -> None:
        self.method = method
        self.context = context
        self.caller = caller_of(context)
        self.denial: NotAllowedError | None = None
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in a task of its own
        self.task = task

    async def hear(self) -> bytes:
        """Wait for the message of a call that carries one."""
        try:
            async with asyncio.timeout(limits.MESSAGE_SECONDS):
                message = await self.context.read()
        except TimeoutError:
            raise self.refused(
                TimeOverError(f"the call's message did not come in {limits.MESSAGE_SECONDS:g} s")
            ) from None
        if message is grpc.aio.EOF:
            raise self.refused(RequestRefusedError("request", "the call came without a message"))
        return bytes(message)

    def decode(self, octets: bytes) -> Any:
        """Read a message."""
        try:
            return read_message(self.method.request_type, octets)
        except RequestRefusedError as error:
            raise self.refused(error) from None

    async def decode_all(self, messages: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Read messages as they come."""
        async for octets in messages:
            yield self.decode(octets)

    async def send_all(self, responses: AsyncIterator[Any] | Awaitable[None]) -> None:
        """Send responses as they come; a service that writes by itself, as that of health, has none."""
        if isinstance(responses, Awaitable):
            await responses
            return
        sent = False
        async with contextlib.aclosing(responses):  # type: ignore[type-var]
            async for response in responses:
                if not sent:  # on its own, or a call that stalls at once could be given no status
                    await self.context.send_initial_metadata(())
                    sent = True
                await self._send(response)

    async def _send(self, response: Any) -> None:
        """Send a response, unless the client does not take it for so long.

        gRPC can't take a message back: client and status meet when the client reads again. Until then, or
        until its connection ends, the call stays among the client's open ones.
        """
        try:
            async with asyncio.timeout(limits.STALLED_STREAM_SECONDS):
                await self.context.write(response)
        except TimeoutError:
            _log.warning("stream.stalled", client=self.caller.identity, call=self.method.path)
            raise TimeOverError(f"no result was taken for {limits.STALLED_STREAM_SECONDS:g} s") from None

    def deny(self, denial: NotAllowedError) -> None:
        """End the call while it is at work."""
        self.denial = denial
        self.task.cancel()

    def refused(self, error: OtahsmError) -> OtahsmError:
        """Log that a call is refused before a service has seen it, or its message; return the error."""
        _log.warning(
            "call.refused",
            client=self.caller.identity,
            call=self.method.path,
            reason=error.reason,
            message=error.message,
        )
        return error


class CallBoundary:
    """Stands before every method of every service.

    Args:
        access: who may do what.
        trust: judges clients' certificates.
        decided: called with each decision of the policy.
        clock: tells by when to decide.
    """

    def __init__(self, access: AccessControl, trust: Trust, decided: Decided, clock: Clock) -> None:
        self._access = access
        self._trust = trust
        self._decided = decided
        self._clock = clock
        self._calls = OpenCalls(limits.MAX_CALLS_A_CLIENT, "calls")
        self._watches = OpenCalls(limits.MAX_WATCHES_A_CLIENT, "calls about health and services")
        self._at_work: set[_Call] = set()
        access.on_change(self._end_denied)

    def register(self, server: grpc.aio.Server, services: Mapping[str, object]) -> None:
        """Have a server serve every method of the table.

        Args:
            server: not started yet.
            services: what implements each service of the table, by its name.

        Raises:
            LookupError: a service or method is not implemented, or not in the table; it is named.
        """
        if strangers := sorted(services.keys() - {service.name for service in SERVICES}):
            raise LookupError(f"the service {strangers[0]} is not in the table of methods")
        for service in SERVICES:
            calls = self._calls if service.is_ours else self._watches
            handlers = {
                method.name: self._handler(method, _work_of(services.get(service.name), method), calls)
                for method in service.methods
            }
            server.add_registered_method_handlers(service.name, handlers)

    async def look(self) -> None:
        """End the calls at work that would not be let in any more."""
        self._end_denied()

    def _handler(self, method: Method, work: Any, calls: OpenCalls) -> grpc.RpcMethodHandler[Any, Any]:
        async def answer(_: object, context: Context) -> Any:
            call = _Call(method, context)
            async with self._answering(call, calls):
                octets = await call.hear()
                with self._let_in(call):
                    return await work(call.decode(octets), context)

        async def answer_all(messages: AsyncIterator[bytes], context: Context) -> None:
            call = _Call(method, context)
            async with self._answering(call, calls):
                octets = None if method.takes_stream else await call.hear()
                with self._let_in(call):
                    asked = call.decode_all(messages) if octets is None else call.decode(octets)
                    await call.send_all(work(asked, context))

        serialize = method.response_type.SerializeToString
        if method.gives_stream:
            return grpc.stream_stream_rpc_method_handler(answer_all, response_serializer=serialize)
        return grpc.stream_unary_rpc_method_handler(answer, response_serializer=serialize)

    @contextlib.asynccontextmanager
    async def _answering(self, call: _Call, calls: OpenCalls) -> AsyncIterator[None]:
        """Count a call while the block runs, and end it with the error that the block raises."""
        with contextlib.ExitStack() as counted:
            try:
                try:
                    counted.enter_context(calls.one_more(call.caller.identity))
                except TooManyCallsError as error:
                    raise call.refused(error) from None
                yield
            except OtahsmError as error:
                failure = error
            except asyncio.CancelledError:
                if call.denial is None:
                    raise  # the client is gone, or the daemon waits no longer
                call.task.uncancel()
                failure = call.denial
            except grpc.aio.BaseError:
                raise  # the call has a status already, or its client is gone
            except Exception:  # noqa: BLE001 - the edge of the process: no fault of ours may reach a client raw
                _log.exception("call.fault", client=call.caller.identity, call=call.method.path)
                failure = internal_error()
            else:
                return
            if not call.context.done():
                await abort(call.context, failure)

    @contextlib.contextmanager
    def _let_in(self, call: _Call) -> Iterator[None]:
        """Have the policy look at a call now, and for as long as the block runs."""
        caller, method = call.caller, call.method
        self._trust.verify_new_client(caller.certificate_sha256, *chain_of(call.context))
        self._verify_allowed(call, self._clock())
        if method.callers is not Open.TRUSTED:  # how a daemon is, is no secret, and asked every second
            self._decided(caller, method.path, None)
        self._at_work.add(call)
        try:
            yield
        finally:
            self._at_work.discard(call)

    def _end_denied(self) -> None:
        """End the calls that would not be let in any more."""
        now = self._clock()
        for call in list(self._at_work):
            try:
                self._verify_allowed(call, now)
            except NotAllowedError as error:
                self._at_work.discard(call)
                call.deny(error)

    def _verify_allowed(self, call: _Call, now: datetime) -> None:
        method = call.method
        try:
            self._access.check_call(call.caller, method.name, method.callers, now)
        except NotAllowedError as error:
            self._decided(call.caller, method.path, error)
            raise


def _work_of(service: object, method: Method) -> Any:
    """Return what does a method's work; generated classes have functions for those without any."""
    work = getattr(service, method.name, None)
    if not inspect.iscoroutinefunction(work) and not inspect.isasyncgenfunction(work):
        raise LookupError(f"the method {method.path} is in the table and is not implemented")
    return work


async def abort(context: Context, error: OtahsmError) -> NoReturn:
    """End a call with an error and its details."""
    details = (("grpc-status-details-bin", to_status(error).SerializeToString()),)
    await context.abort(_CODES[error.code], error.message, details)


def internal_error() -> OtahsmError:
    """Return what a client is told of a fault of ours."""
    return OtahsmError("the daemon failed in an unforeseen way; its log says how")
