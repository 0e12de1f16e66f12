"""The edge of every call: what fails inside becomes a status, and never the text of a Python exception."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import structlog

from otahsm.daemon.tls import Context, caller_of
from otahsm.daemon.wire import abort
from otahsm.errors import OtahsmError

_Answer = TypeVar("_Answer")

_log = structlog.get_logger()


async def answered(work: Awaitable[_Answer], context: Context, fault: str) -> _Answer:
    """Wait for an answer; if there is none, end the call with the error.

    Args:
        work: what answers.
        context: the call's.
        fault: how the log calls what nobody foresaw.
    """
    try:
        return await work
    except OtahsmError as error:
        failure = error
    except Exception:  # noqa: BLE001 - the edge of the process: a fault of ours must not reach the client raw
        _log.exception(fault, client=caller_of(context).identity)
        failure = internal_error()
    return await abort(context, failure)


def internal_error() -> OtahsmError:
    """Return what a client is told of a fault of ours."""
    return OtahsmError("the daemon failed in an unforeseen way; its log says how")
