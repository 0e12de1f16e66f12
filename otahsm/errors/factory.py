"""The errors of clients and factory lines: daemon, gateway, backend, devices, folders, evidence, commands."""

from __future__ import annotations

from otahsm.errors.base import Code, ExitCode, OtahsmError


class DaemonUnavailableError(OtahsmError):
    """The client can't reach the daemon, or the connection broke."""

    code = Code.UNAVAILABLE
    reason = "DAEMON_UNAVAILABLE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = (
        "Check that `otahsm serve` is running, and the [client] section; then run the command again."
    )


class CertificateRejectedError(OtahsmError):
    """The client does not accept the certificate that a daemon returned: it is not the one requested."""

    code = Code.FAILED_PRECONDITION
    reason = "CERTIFICATE_REJECTED"
    exit_code = ExitCode.SOME_FAILED
    default_hint = (
        "Nothing was written. Check that [client] target names the right daemon, and tell its operator: it is"
        " faulty, or was taken over."
    )


class GatewayUnavailableError(OtahsmError):
    """The OTA gateway can't be reached, or does not speak TLS."""

    code = Code.UNAVAILABLE
    reason = "GATEWAY_UNAVAILABLE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Check host and port of the gateway's URL, and the network; then run the command again."


class GatewayUntrustedError(OtahsmError):
    """The OTA gateway presents a certificate that is not the expected one, or that devices would refuse."""

    code = Code.FAILED_PRECONDITION
    reason = "GATEWAY_UNTRUSTED"
    exit_code = ExitCode.SOME_FAILED
    default_hint = (
        "Write nothing to devices until you have the fingerprint of the gateway's CA from its operator, over"
        " another channel than this network."
    )


class BackendUnavailableError(OtahsmError):
    """The registration backend can't be reached."""

    code = Code.UNAVAILABLE
    reason = "BACKEND_UNAVAILABLE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = (
        "Check url in the [registration] section, and the network; then run the command again. Pending"
        " devices are kept."
    )


class BackendUntrustedError(OtahsmError):
    """The backend's certificate is not trusted, or TLS with it fails."""

    code = Code.FAILED_PRECONDITION
    reason = "BACKEND_UNTRUSTED"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Check url and ca in the [registration] section. Pending devices are kept."


class BackendRefusedError(OtahsmError):
    """The backend refuses the token, or has another address: every request would fail."""

    code = Code.FAILED_PRECONDITION
    reason = "BACKEND_REFUSED"
    default_hint = "Check the token under headers in the [registration] section. Pending devices are kept."


class DeviceUnreachableError(OtahsmError):
    """A device can't be reached, or does not respond in time."""

    code = Code.UNAVAILABLE
    reason = "DEVICE_UNREACHABLE"
    exit_code = ExitCode.SOME_FAILED
    default_hint = (
        "Check that the device is switched on and that host, port and user are right; then run it again."
    )


class DeviceRefusedError(OtahsmError):
    """A device is not the expected one, can't be written to, or shows an unknown host key."""

    code = Code.FAILED_PRECONDITION
    reason = "DEVICE_REFUSED"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Check free space and that this user can write there; if not, use --sudo."


class FolderError(OtahsmError):
    """Device folders can't be written here."""

    code = Code.FAILED_PRECONDITION
    reason = "FOLDER"
    default_hint = "Check the path, its permissions and the free space; then run the command again."


class NotConfirmedError(OtahsmError):
    """A command that can't be undone was not confirmed with the number of what it affects."""

    code = Code.FAILED_PRECONDITION
    reason = "NOT_CONFIRMED"
    default_hint = "Nothing was done. Check the number and what is listed above; then run the command again."


class EvidenceError(OtahsmError):
    """A note, checkpoint or proof is malformed, or does not prove what it should."""

    code = Code.INVALID_ARGUMENT
    reason = "EVIDENCE"
    exit_code = ExitCode.SOME_FAILED
    default_hint = (
        "Check that key and file belong together and are complete. If so, keep both: they are evidence."
    )
