"""The edge of every call: what a handler raises becomes a status, without the text of a Python exception."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import NoReturn

import grpc
import structlog

from otahsm.daemon.edge.tls import Context, caller_of
from otahsm.errors import OtahsmError
from otahsm.errors.status import to_status

_log = structlog.get_logger()


@contextlib.asynccontextmanager
async def errors_answered(method: str, context: Context) -> AsyncIterator[None]:
    """End the call with the error that the block raises.

    Args:
        method: as on the wire; the log names it with an error that nobody foresaw.
        context: the call's.
    """
    try:
        yield
    except OtahsmError as error:
        failure = error
    except grpc.aio.BaseError:  # the call has its status already, or its client is gone
        raise
    except Exception:  # noqa: BLE001 - the edge of the process: a fault of ours must not reach the client raw
        _log.exception("call.fault", client=caller_of(context).identity, call=method)
        failure = internal_error()
    else:
        return
    await abort(context, failure)


def internal_error() -> OtahsmError:
    """Return what a client is told of a fault of ours."""
    return OtahsmError("the daemon failed in an unforeseen way; its log says how")


async def abort(context: Context, error: OtahsmError) -> NoReturn:
    """End a call with an error and its details."""
    code = next(code for code in grpc.StatusCode if code.value[0] == error.code)
    details = (("grpc-status-details-bin", to_status(error).SerializeToString()),)
    await context.abort(code, error.message, details)
