"""The boundary between gRPC and the services, which every call passes.

The steps of a call, in order:

1. *counted* among the open calls of its client, from its first frame until its status is sent. If the client
   has too many, the call is refused.
2. *allowed*: the client's certificate is trusted, and the policy allows the call; before that, nothing of it
   is received. Both are checked again while it is open: when a client is denied, the policy changes or a
   certificate expires, the call ends within a second with PERMISSION_DENIED. The cycle checks queued requests
   once more.
3. *received*: the message of a unary call must arrive within a time limit, and only so many of a client's are
   received at a time. grpc.aio would wait for it forever before running any of our code; so unary calls are
   handled as streams of one message, which they are on the wire.
4. *decoded*: malformed messages are refused like any bad request, and those that are larger than their method
   needs before they are decoded. grpc.aio would expose a Python class name.
5. *handled* by the service; if its response may be large, only a few of a client's at a time. Responses are
   written here: a call counts until its client has read them, and one that is ended while its client is
   reading still gets a status.
6. *ended* with one status. Only here, errors of the previous steps become a status: an `OtahsmError` as it
   is, any other exception as INTERNAL, without its text.
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

from otahsm.access import Call, Open
from otahsm.authority import AccessControl, Caller
from otahsm.daemon.edge import limits
from otahsm.daemon.edge.methods import SERVICES, Method
from otahsm.daemon.edge.open_calls import OpenCalls, Turns
from otahsm.daemon.edge.tls import Context, caller_of, chain_of
from otahsm.daemon.edge.trust import Trust
from otahsm.daemon.wire import read_message
from otahsm.errors import NotAllowedError, OtahsmError, RequestRefusedError, TimeOverError, TooManyCallsError
from otahsm.errors.status import to_status
from otahsm.system.clock import Clock
from otahsm.system.turns import ASKING

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

# Called with the caller, the path, and the reason for a denial, or None if the call was allowed.
Decided = Callable[[Caller, str, NotAllowedError | None], None]

_log = structlog.get_logger()


class _Call:
    """One call.

    Attributes:
        client: the identity that its client is counted and logged by.
        task: the task that handles it.
        denial: why the policy ended it; None if it did not.
    """

    def __init__(self, method: Method, context: Context, access: AccessControl) -> None:
        self.method = method
        self.context = context
        self.caller = caller_of(context)
        self.client = access.principal_of(self.caller).identity
        self.denial: NotAllowedError | None = None
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in its own task
        self.task = task

    async def hear(self, receiving: asyncio.Semaphore) -> Any:
        """Wait for the message of a unary call, decoded; `receiving` is held meanwhile."""
        try:
            async with asyncio.timeout(limits.MESSAGE_SECONDS), receiving:
                message = await self.context.read()
        except TimeoutError:
            raise self.refused(
                TimeOverError(f"the call's message did not arrive within {limits.MESSAGE_SECONDS:g} s")
            ) from None
        if message is grpc.aio.EOF:
            raise self.refused(RequestRefusedError("request", "the call has no message"))
        return self.decode(message)

    def decode(self, octets: bytes) -> Any:
        """Decode a message."""
        if len(octets) > self.method.most:
            what = (
                f"the message has {len(octets)} octets; {self.method.name} takes at most {self.method.most}"
            )
            raise self.refused(RequestRefusedError("request", what))
        try:
            return read_message(self.method.request_type, octets)
        except RequestRefusedError as error:
            raise self.refused(error) from None

    async def decode_all(self, messages: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Decode messages as they arrive."""
        async for octets in messages:
            message = self.decode(octets)
            del octets  # not kept while the stream waits
            yield message
            del message

    async def send_all(self, responses: AsyncIterator[Any] | Awaitable[Any]) -> None:
        """Send responses as they are ready; a service that writes by itself, such as health, returns none."""
        if isinstance(responses, Awaitable):
            response = await responses
            if response is not None:
                await self.context.send_initial_metadata(())
                await self._send(response)
            return
        sent = False
        async with contextlib.aclosing(responses):  # type: ignore[type-var]
            async for response in responses:
                if not sent:  # separately; otherwise a call that stalls at once could not get a status
                    await self.context.send_initial_metadata(())
                    sent = True
                await self._send(response)

    async def _send(self, response: Any) -> None:
        """Send a response. Raises TimeOverError if the client doesn't read it within the time limit.

        gRPC can't withdraw a message, so the client gets the status when it reads again. Until then, or until
        its connection is closed, the call counts as open.
        """
        try:
            async with asyncio.timeout(limits.STALLED_STREAM_SECONDS):
                await self.context.write(response)
        except TimeoutError:
            _log.warning("stream.stalled", client=self.client, call=self.method.path)
            raise TimeOverError(f"no result was read for {limits.STALLED_STREAM_SECONDS:g} s") from None

    def deny(self, denial: NotAllowedError) -> None:
        """End the call while it is being handled."""
        self.denial = denial
        self.task.cancel()

    def refused(self, error: OtahsmError) -> OtahsmError:
        """Log that a call is refused before it reaches a service; return the error."""
        _log.warning(
            "call.refused",
            client=self.client,
            call=self.method.path,
            reason=error.reason,
            message=error.message,
        )
        return error


class CallBoundary:
    """Wraps every method of every service.

    Args:
        access: decides which client may do what.
        trust: verifies clients' certificates.
        decided: called with each decision of the policy.
        clock: the time of decisions.
    """

    def __init__(self, access: AccessControl, trust: Trust, decided: Decided, clock: Clock) -> None:
        self._access = access
        self._trust = trust
        self._decided = decided
        self._clock = clock
        self._calls = OpenCalls(limits.MAX_CALLS_A_CLIENT, "calls")
        self._watches = OpenCalls(limits.MAX_WATCHES_A_CLIENT, "calls about health")
        self._at_work: set[_Call] = set()
        access.on_change(self._end_denied)

    def register(self, server: grpc.aio.Server, services: Mapping[str, object]) -> None:
        """Register every method of the table with a server.

        Args:
            server: must not be started yet.
            services: the implementations of the services in the table, by name.

        Raises:
            LookupError: a service or method is not implemented, or not in the table; the message names it.
        """
        if strangers := sorted(services.keys() - {service.name for service in SERVICES}):
            raise LookupError(f"the service {strangers[0]} is not in the table of methods")
        for service in SERVICES:
            calls = self._watches if service.is_health else self._calls
            handlers = {
                method.name: self._handler(method, _work_of(services.get(service.name), method), calls)
                for method in service.methods
            }
            server.add_registered_method_handlers(service.name, handlers)

    async def look(self) -> None:
        """End the open calls that are no longer allowed."""
        self._end_denied()

    def _handler(self, method: Method, work: Any, calls: OpenCalls) -> grpc.RpcMethodHandler[Any, Any]:
        async def handled(call: _Call, turns: Turns, messages: AsyncIterator[bytes]) -> None:
            ASKING.set(call.client)
            with self._let_in(call):
                asked = call.decode_all(messages) if method.takes_stream else await call.hear(turns.receiving)
                async with turns.answering if method.gives_much else contextlib.nullcontext():
                    await call.send_all(work(asked, call.context))

        async def answer(messages: AsyncIterator[bytes], context: Context) -> None:
            call = _Call(method, context, self._access)
            with contextlib.ExitStack() as counted:
                try:
                    turns = counted.enter_context(calls.one_more(call.client))
                except TooManyCallsError as error:
                    failure: OtahsmError | None = call.refused(error).as_value()
                else:
                    failure = await _failure_of(call, handled(call, turns, messages))
                # Not while the error is handled: what was sent would be kept until the status is read.
                if failure is not None and not context.done():
                    await abort(context, failure)

        serialize = method.response_type.SerializeToString
        return grpc.stream_stream_rpc_method_handler(answer, response_serializer=serialize)

    @contextlib.contextmanager
    def _let_in(self, call: _Call) -> Iterator[None]:
        """Check a call against the policy now, and repeatedly while the block runs."""
        caller, method = call.caller, call.method
        self._trust.verify_new_client(caller.certificate_sha256, *chain_of(call.context))
        self._verify_allowed(call, self._clock())
        if method.callers is not Open.TRUSTED:  # health checks are not secret, and frequent
            self._decided(caller, method.path, None)
        self._at_work.add(call)
        try:
            yield
        except NotAllowedError as error:  # by the service: what the roles don't say
            if (
                isinstance(method.callers, Call) and "issuer" not in method.callers.roles
            ):  # requests are counted
                self._decided(caller, method.path, error)
            raise
        finally:
            self._at_work.discard(call)

    def _end_denied(self) -> None:
        """End the calls that are no longer allowed."""
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


async def _failure_of(call: _Call, handled: Awaitable[None]) -> OtahsmError | None:
    """Handle a call; return the error that it must end with."""
    try:
        await handled
    except OtahsmError as error:
        return error.as_value()
    except asyncio.CancelledError:
        if call.denial is None:
            raise  # the client is gone, or the daemon is shutting down
        call.task.uncancel()
        return call.denial.as_value()
    except grpc.aio.BaseError:
        raise  # the call already has a status, or its client is gone
    except Exception:  # noqa: BLE001 - the edge of the process: internal errors must not reach clients
        _log.exception("call.fault", client=call.client, call=call.method.path)
        return internal_error()
    return None


def _work_of(service: object, method: Method) -> Any:
    """Return the implementation of a method; generated classes have plain functions instead."""
    work = getattr(service, method.name, None)
    if not inspect.iscoroutinefunction(work) and not inspect.isasyncgenfunction(work):
        raise LookupError(f"the method {method.path} is in the table, but not implemented")
    return work


async def abort(context: Context, error: OtahsmError) -> NoReturn:
    """End a call with an error and its details."""
    details = (("grpc-status-details-bin", to_status(error).SerializeToString()),)
    await context.abort(_CODES[error.code], error.message, details)


def internal_error() -> OtahsmError:
    """Return the error that a client gets for an internal error."""
    return OtahsmError("internal error of the daemon; its log has the details")
