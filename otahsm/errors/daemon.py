"""What a daemon answers with, and what its processes fail with among themselves."""

from __future__ import annotations

from otahsm.errors.base import Code, ExitCode, OtahsmError, Violation


class ConfigError(OtahsmError):
    """A file of the operator's is missing, unreadable or wrong."""

    code = Code.FAILED_PRECONDITION
    reason = "CONFIG"
    default_hint = "Correct the file and start again."


class RequestRefusedError(OtahsmError):
    """A request that no retry will mend: its CSR or one of its fields is bad."""

    code = Code.INVALID_ARGUMENT
    reason = "BAD_REQUEST"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Correct the request; asking again as it is gives the same answer."

    def __init__(self, field: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.violations = (Violation(field, message),)


class ConflictError(OtahsmError):
    """The device id, the public key or the request id is taken."""

    code = Code.ALREADY_EXISTS
    reason = "CONFLICT"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Use the certificate that exists, or another device id with a key of its own."


class RevokedError(OtahsmError):
    """The certificate of this device or key is revoked: it is not handed out again, and none follows it."""

    code = Code.FAILED_PRECONDITION
    reason = "REVOKED"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "A revocation is final. For a new certificate with a new key: otahsm device reset."


class BatchFullError(OtahsmError):
    """The batch has as many certificates as were ordered."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "BATCH_FULL"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Order another batch for more: otahsm batch create. `otahsm batch status` shows this one."


class BatchClosedError(OtahsmError):
    """The batch was closed, or its deadline is over."""

    code = Code.FAILED_PRECONDITION
    reason = "BATCH_CLOSED"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Order another batch for what is missing: otahsm batch create."


class NotAllowedError(OtahsmError):
    """The policy does not allow it."""

    code = Code.PERMISSION_DENIED
    reason = "NOT_ALLOWED"
    exit_code = ExitCode.OPERATOR
    default_hint = "`otahsm policy explain`, where the daemon runs, shows what is allowed, and why not."


class ClientDeniedError(NotAllowedError):
    """This client's certificate is revoked, denied by an operator, or has ended."""

    reason = "CUT_OFF"
    default_hint = "If that is a mistake, an admin can undo it: `otahsm client list`, `otahsm client allow`."


class QuotaError(OtahsmError):
    """The client has had as many certificates as the policy allows it.

    Args:
        message: which quota, and when to come back.
        retry_after: in so many seconds; None: time does not mend it.
    """

    code = Code.RESOURCE_EXHAUSTED
    reason = "QUOTA"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Ask again then. An operator can raise the quota in policy.toml."

    def __init__(self, message: str, retry_after: float | None = None, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class BatchClientError(OtahsmError):
    """The batch is not for this client."""

    code = Code.PERMISSION_DENIED
    reason = "BATCH_CLIENT"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "`otahsm batch status` shows the clients that may. Ask as one of them."


class NotFoundError(OtahsmError):
    """There is no such certificate, no such CRL, or no such batch."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Check serial number, device id, profile or URL; `otahsm ledger list` shows what there is."


class InProgressError(OtahsmError):
    """The same device is being issued at this moment, by an earlier request."""

    code = Code.UNAVAILABLE
    reason = "IN_PROGRESS"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Ask again in a second: the answer will be the certificate that is being made."


class AuthorityUnusableError(OtahsmError):
    """The CA certificate is not valid now, or not what the key belongs to."""

    code = Code.FAILED_PRECONDITION
    reason = "AUTHORITY_UNUSABLE"
    exit_code = ExitCode.OPERATOR
    default_hint = "Check the [ca] section and the CA certificate with `otahsm ca show`."


class TokenUnavailableError(OtahsmError):
    """No signer can sign now; the token may come back by itself."""

    code = Code.UNAVAILABLE
    reason = "TOKEN_UNAVAILABLE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Ask again in a few seconds; the daemon's log says what the token answered."


class BadSignatureError(TokenUnavailableError):
    """The token returned a signature that does not verify (I4); it was thrown away."""

    reason = "BAD_SIGNATURE"
    default_hint = (
        "If this happens at every start, certificate (or verifier_key) and key don't belong together: `otahsm"
        " doctor`. If it happens now and then, the HSM is failing: take it out of service."
    )


class TokenRefusedError(OtahsmError):
    """The token said no in a way that only an operator can mend. Never retried by itself."""

    code = Code.UNAVAILABLE
    reason = "TOKEN_REFUSED"
    exit_code = ExitCode.OPERATOR
    default_hint = "Check the [token] and [ca] sections with `otahsm ca show`."


class PinRefusedError(TokenRefusedError):
    """The token refused the PIN, or one more try might lock it (I7)."""

    reason = "PIN_REFUSED"
    default_hint = "Check the PIN file and the token's remaining tries before another login is made."


class LedgerUnavailableError(OtahsmError):
    """The ledger can't be written; nothing is signed or released meanwhile."""

    code = Code.UNAVAILABLE
    reason = "LEDGER_UNAVAILABLE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Check the disk under [ledger] path for space and permissions; then ask again."


class LedgerTamperedError(OtahsmError):
    """The ledger's tree does not fit what was signed: it was changed, or replaced by an older copy."""

    code = Code.DATA_LOSS
    reason = "LEDGER_TAMPERED"
    exit_code = ExitCode.OPERATOR
    default_hint = (
        "Run `otahsm ledger verify` with the newest checkpoint that was kept elsewhere. Change nothing, and"
        " make a copy first: it is evidence."
    )


class WorkerLostError(OtahsmError):
    """A worker process died, hung or broke the protocol with a batch in hand."""

    code = Code.UNAVAILABLE
    reason = "WORKER_LOST"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Ask again in a few seconds; the daemon replaces the process by itself."


class WorkersBusyError(OtahsmError):
    """No worker process got free in time."""

    code = Code.UNAVAILABLE
    reason = "BUSY"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Ask again in a few seconds."


class TooManyCallsError(OtahsmError):
    """A client has as many calls open as one may."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_CALLS"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "End some: one stream takes any number of requests. Or give each line its own certificate."


class TimeOverError(OtahsmError):
    """A call was ended because its client neither asked nor took anything for too long; nothing is lost."""

    code = Code.UNAVAILABLE
    reason = "TIME_OVER"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Open another call and ask again: what was issued is returned as it was."


class ShuttingDownError(OtahsmError):
    """The daemon is finishing what it has and takes nothing new."""

    code = Code.UNAVAILABLE
    reason = "SHUTTING_DOWN"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Ask again when the daemon is back."


class DaemonFailedError(OtahsmError):
    """The daemon can't go on, for a reason that nobody foresaw; started again, it may."""

    reason = "DAEMON_FAILED"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "This is a fault in otahsm: please report it with the daemon's log, and start it again."
