"""What a factory line finds out by itself: about daemon, gateway, backend, devices, folders and evidence."""

from __future__ import annotations

from otahsm.errors.base import Code, ExitCode, OtahsmError


class DaemonUnavailableError(OtahsmError):
    """The client can't reach the daemon, or the connection broke."""

    code = Code.UNAVAILABLE
    reason = "DAEMON_UNAVAILABLE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Check that `otahsm serve` runs, and the [client] section; then run the command again."


class GatewayUnavailableError(OtahsmError):
    """The OTA gateway can't be reached, or does not speak TLS."""

    code = Code.UNAVAILABLE
    reason = "GATEWAY_UNAVAILABLE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Check host and port of the gateway's URL, and the network; then run the command again."


class GatewayUntrustedError(OtahsmError):
    """What the OTA gateway presents is not what it should be, or what devices would take."""

    code = Code.FAILED_PRECONDITION
    reason = "GATEWAY_UNTRUSTED"
    exit_code = ExitCode.SOME_FAILED
    default_hint = (
        "Write nothing to devices before whoever runs the gateway has told you its CA's fingerprint, by"
        " another way than this network."
    )


class BackendUnavailableError(OtahsmError):
    """The backend that devices are registered with can't be reached."""

    code = Code.UNAVAILABLE
    reason = "BACKEND_UNAVAILABLE"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = (
        "Check url in the [registration] section, and the network; then run the command again. What waits is"
        " kept."
    )


class BackendUntrustedError(OtahsmError):
    """The backend's certificate can't be trusted, or no TLS can be spoken with it."""

    code = Code.FAILED_PRECONDITION
    reason = "BACKEND_UNTRUSTED"
    exit_code = ExitCode.UNAVAILABLE
    default_hint = "Check url and ca in the [registration] section. What waits is kept."


class BackendRefusedError(OtahsmError):
    """The backend refuses the token, or is elsewhere: no request would be answered otherwise."""

    code = Code.FAILED_PRECONDITION
    reason = "BACKEND_REFUSED"
    default_hint = "Check the token under headers in the [registration] section. What waits is kept."


class DeviceUnreachableError(OtahsmError):
    """A device can't be reached, or does not answer in time."""

    code = Code.UNAVAILABLE
    reason = "DEVICE_UNREACHABLE"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Check that it is switched on and that host, port and user are right; then run it again."


class DeviceRefusedError(OtahsmError):
    """A device is another one, can't be written, or shows a host key that is not known."""

    code = Code.FAILED_PRECONDITION
    reason = "DEVICE_REFUSED"
    exit_code = ExitCode.SOME_FAILED
    default_hint = "Is there room, and may this user write there? A user who may not can take --sudo."


class FolderError(OtahsmError):
    """Device folders can't be written here."""

    code = Code.FAILED_PRECONDITION
    reason = "FOLDER"
    default_hint = "Make room or give permission, then run it again: what was begun is finished first."


class EvidenceError(OtahsmError):
    """A note, checkpoint or proof is malformed, or does not prove what it should."""

    code = Code.INVALID_ARGUMENT
    reason = "EVIDENCE"
    exit_code = ExitCode.SOME_FAILED
    default_hint = (
        "Check that key and file belong together and are whole; if they are, keep both: they are evidence."
    )
