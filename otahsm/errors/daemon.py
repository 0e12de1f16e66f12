"""The errors of the daemon and its processes."""

from __future__ import annotations

from otahsm.errors.base import Code, ExitCode, OtahsmError, Violation


class ConfigError(OtahsmError):
    """A file that the operator provides is missing, unreadable or invalid."""

    code = Code.FAILED_PRECONDITION
    reason = "CONFIG"
    default_hint = "Correct the file and try again."


class RequestRefusedError(OtahsmError):
    """A request is invalid: its CSR or one of its fields is bad. A retry can't succeed."""

    code = Code.INVALID_ARGUMENT
    reason = "BAD_REQUEST"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Correct the request. The same request will fail again."

    def __init__(self, field: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.violations = (Violation(field, message),)


class ConflictError(OtahsmError):
    """The device id, the public key or the request id is already in use."""

    code = Code.ALREADY_EXISTS
    reason = "CONFLICT"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Use the existing certificate, or another device id with its own key."


class RevokedError(OtahsmError):
    """The certificate of this device or key is revoked: it is not returned again, nor replaced."""

    code = Code.FAILED_PRECONDITION
    reason = "REVOKED"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "A revocation is final. To get a new certificate for a new key, run `otahsm device reset`."


class BatchFullError(OtahsmError):
    """The batch already has as many certificates as it allows."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "BATCH_FULL"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Create another batch with `otahsm batch create`. `otahsm batch status` shows this one."


class BatchClosedError(OtahsmError):
    """The batch is closed, or its deadline has passed."""

    code = Code.FAILED_PRECONDITION
    reason = "BATCH_CLOSED"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Create another batch for the missing devices with `otahsm batch create`."


class NotAllowedError(OtahsmError):
    """The policy does not allow the call."""

    code = Code.PERMISSION_DENIED
    reason = "NOT_ALLOWED"
    exit_code = ExitCode.OPERATOR
    default_hint = "Run `otahsm policy explain` on the daemon's machine to see what is allowed and why."


class ClientDeniedError(NotAllowedError):
    """The client's certificate has expired or is revoked, or an operator has denied the client."""

    reason = "CUT_OFF"
    default_hint = "If this is a mistake, an admin can undo it with `otahsm client allow`."


class QuotaError(OtahsmError):
    """The client has used its quota of certificates.

    Args:
        message: which quota, and when more will be available.
        retry_after: the seconds until then; None for never.
    """

    code = Code.RESOURCE_EXHAUSTED
    reason = "QUOTA"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Retry then. An operator can raise the quota in policy.toml."

    def __init__(self, message: str, retry_after: float | None = None, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class BatchClientError(OtahsmError):
    """This client may not issue in the batch."""

    code = Code.PERMISSION_DENIED
    reason = "BATCH_CLIENT"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Use a client that may issue in the batch; `otahsm batch status` lists them."


class NotFoundError(OtahsmError):
    """There is no such certificate, no such CRL, or no such batch."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Check serial number, device id, profile or URL; `otahsm ledger list` lists certificates."


class InProgressError(OtahsmError):
    """An earlier request for the same device is in progress."""

    code = Code.UNAVAILABLE
    reason = "IN_PROGRESS"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Retry in a second to get the certificate that is being issued."


class AuthorityUnusableError(OtahsmError):
    """The CA certificate is not valid now, or does not belong to the key."""

    code = Code.FAILED_PRECONDITION
    reason = "AUTHORITY_UNUSABLE"
    exit_code = ExitCode.OPERATOR
    default_hint = "Check the [ca] section and the CA certificate with `otahsm ca show`."


class TokenUnavailableError(OtahsmError):
    """No signer can sign now; the token may recover without an operator."""

    code = Code.UNAVAILABLE
    reason = "TOKEN_UNAVAILABLE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Retry in a few seconds. The daemon's log has the token's error."


class BadSignatureError(TokenUnavailableError):
    """The token returned a signature that does not verify (I4); it was discarded."""

    reason = "BAD_SIGNATURE"
    default_hint = (
        "If this happens at every start, the certificate (or verifier_key) does not belong to the key: run"
        " `otahsm doctor`. If it happens now and then, the HSM is failing: take it out of service."
    )


class TokenRefusedError(OtahsmError):
    """The token refused in a way that only an operator can fix. It is never retried automatically."""

    code = Code.UNAVAILABLE
    reason = "TOKEN_REFUSED"
    exit_code = ExitCode.OPERATOR
    default_hint = "Check the [token] and [ca] sections with `otahsm ca show`."


class PinRefusedError(TokenRefusedError):
    """The token refused the PIN, or one more try might lock it (I7)."""

    reason = "PIN_REFUSED"
    default_hint = "Check the PIN file and the token's remaining tries before you log in again."


class LedgerUnavailableError(OtahsmError):
    """The ledger can't be written; until it can, nothing is signed or released."""

    code = Code.UNAVAILABLE
    reason = "LEDGER_UNAVAILABLE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = (
        "Check space and permissions of [ledger] path, or the database of [ledger] url; then retry."
    )


class LedgerDamagedError(LedgerUnavailableError):
    """The ledger's file is damaged, or is no ledger at all: it won't recover by itself."""

    reason = "LEDGER_DAMAGED"
    exit_code = ExitCode.OPERATOR
    default_hint = (
        "Check the path. If it is right, keep all files of the ledger, and restore a backup with"
        " `otahsm ledger restore`."
    )


class LedgerTamperedError(OtahsmError):
    """The ledger was changed, or replaced by an older copy: its tree or its tables are not what they were."""

    code = Code.DATA_LOSS
    reason = "LEDGER_TAMPERED"
    exit_code = ExitCode.OPERATOR
    default_hint = (
        "Change nothing, and copy the ledger first: it is evidence. Then run `otahsm ledger verify` with the"
        " newest checkpoint that you keep elsewhere."
    )


class WorkerLostError(OtahsmError):
    """A worker process died, hung or violated the protocol during a call."""

    code = Code.UNAVAILABLE
    reason = "WORKER_LOST"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Retry in a few seconds. The daemon replaces the process automatically."


class WorkerSuspectError(WorkerLostError):
    """A worker process returned what can't be: it has a bug, or it was taken over. It was killed."""

    reason = "WORKER_SUSPECT"
    default_hint = (
        "Find out which request did it: the audit log has the event, and the ledger's void intents or the"
        " client's log the CSR. Keep it, and report it."
    )


class SigningRefusedError(OtahsmError):
    """A signer refused: what it was asked to sign is not what its own configuration and state allow."""

    code = Code.INTERNAL
    reason = "SIGNING_REFUSED"
    exit_code = ExitCode.OPERATOR
    default_hint = (
        "Check that the daemon and its signers have the same otahsm.toml and the same clock. If so, the"
        " daemon or a preparer may have been taken over: see the signers' journal."
    )


class SigningLateError(SigningRefusedError):
    """A signer refused a certificate of another time: it was asked too late, or a clock was set meanwhile."""

    code = Code.UNAVAILABLE
    reason = "SIGNING_LATE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Retry. If this happens again, the daemon and its signers have different clocks."


class NotContinuedError(SigningRefusedError):
    """A signer refused a CRL or a checkpoint: it lacks what its signers have signed before."""

    code = Code.DATA_LOSS
    reason = "SIGNING_NOT_CONTINUED"
    default_hint = (
        "The ledger lost it: it was changed, or an older copy was restored. If that was your decision, see"
        " `otahsm ledger accept`."
    )


class WorkersBusyError(OtahsmError):
    """No worker process became free in time."""

    code = Code.UNAVAILABLE
    reason = "BUSY"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Retry in a few seconds."


class TooManyCallsError(OtahsmError):
    """The client has reached its limit of open calls."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_CALLS"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = (
        "Close some calls: one stream takes any number of requests. Or give each line its own certificate."
    )


class TimeOverError(OtahsmError):
    """A call was closed because its client sent and read nothing for too long; nothing is lost."""

    code = Code.UNAVAILABLE
    reason = "TIME_OVER"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = (
        "Open another call and send the requests again: issued certificates are returned unchanged."
    )


class ShuttingDownError(OtahsmError):
    """The daemon is shutting down: it finishes its work and accepts no more."""

    code = Code.UNAVAILABLE
    reason = "SHUTTING_DOWN"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Retry when the daemon is back."


class DaemonFailedError(OtahsmError):
    """The daemon can't continue because of an internal error; a restart may help."""

    reason = "DAEMON_FAILED"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "This is a bug in otahsm: please report it with the daemon's log, and restart the daemon."
