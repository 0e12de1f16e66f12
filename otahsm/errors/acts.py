"""The errors of acts that can't be undone, and that quotas bound."""

from __future__ import annotations

from datetime import datetime

from otahsm.errors.base import Code, ExitCode, OtahsmError


class HeldError(OtahsmError):
    """The act exceeds a quota: it is held, and has no effect until a second principal confirms it.

    Args:
        act: the number of the held act.
        noun: what it is.
        lapses_at: when it lapses, if nobody confirms it.
    """

    code = Code.FAILED_PRECONDITION
    reason = "HELD"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Have another operator look at it: `otahsm approve list`, and `otahsm approve confirm`."

    def __init__(self, act: int, noun: str, lapses_at: datetime) -> None:
        super().__init__(
            f"the {noun} exceeds a quota: it is held as act {act}, which lapses at"
            f" {lapses_at:%Y-%m-%d %H:%M:%S} UTC",
            hint="It has no effect yet. Another operator can do it with"
            f" `otahsm approve confirm {act}`, after a look at it.",
        )
        self.metadata = {"act": str(act), "lapses_at": f"{lapses_at:%Y-%m-%dT%H:%M:%SZ}"}


class NotHeldError(OtahsmError):
    """The act is not held any more: it was confirmed or rejected, or it lapsed."""

    code = Code.FAILED_PRECONDITION
    reason = "NOT_HELD"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Nothing was changed. If it should be done, its operator can ask for it again."
