"""Backends: one request per device, made from templates.

Secrets are only in the headers of requests. They are removed from the backend's answers.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from asn1crypto import pem

from otahsm.config import BackendKind, HeaderConfig, RegistrationConfig, is_header_value
from otahsm.errors import BackendUntrustedError, ConfigError
from otahsm.registration.http_exchange import Exchanges, HttpRequest, HttpResponse, TlsError
from otahsm.system.secret_files import one_line, read_secret_file, run_for_secret
from otahsm.templates import Template

_PATHS: Final[Mapping[BackendKind, str]] = {
    "community-edition": "/api/v1/devices",
    "foundries": "/ota/devices/",
}
_BODIES: Final[Mapping[BackendKind, Mapping[str, str]]] = {
    "community-edition": {
        "credentials": "{certificate}",
        "uuid": "{device_id}",
        "deviceId": "{device_id}",
        "deviceName": "{device_id}",
        "deviceType": "Other",
    },
    "foundries": {"client.pem": "{certificate}", "name": "{device_id}"},
    "webhook": {
        "device_id": "{device_id}",
        "serial": "{serial}",
        "profile": "{profile}",
        "certificate": "{certificate}",
    },
}
_HIDDEN: Final = "[secret]"
_SHOWN: Final = 200  # characters of an answer that are kept


@dataclass(frozen=True, slots=True)
class Registration:
    """A certificate to register.

    Attributes:
        number: its number in the outbox.
        device_id: the device id.
        serial: the serial number in hexadecimal.
        profile: the profile it was issued under; empty for the daemon's default.
        attributes: further attributes of the device.
        certificate: the certificate in DER.
        attempts: the number of earlier attempts.
    """

    number: int
    device_id: str
    serial: str
    profile: str
    attributes: Mapping[str, str]
    certificate: bytes
    attempts: int

    @property
    def values(self) -> dict[str, str]:
        """The values for templates. The device's attributes can't override ours."""
        return {
            **self.attributes,
            "device_id": self.device_id,
            "serial": self.serial,
            "profile": self.profile,
            "certificate": pem.armor("CERTIFICATE", self.certificate).decode(),
        }


class Backend:
    """A backend. It is thread-safe.

    Args:
        config: the [registration] section.

    Raises:
        ConfigError: a secret or the CA can't be read.
    """

    def __init__(self, config: RegistrationConfig) -> None:
        self._config = config
        parts = config.parts
        self.name = f"{parts.scheme}://{parts.netloc}"
        self._target = (
            f"{parts.path.removesuffix('/')}{_PATHS[config.kind]}"
            if config.kind in _PATHS
            else (f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
        )
        self._method = config.method or ("POST" if config.kind == "webhook" else "PUT")
        self._body = config.body or dict(_BODIES[config.kind])
        if config.group is not None:
            self._body["group"] = config.group
        self._lock = threading.Lock()
        self._headers = _read_headers(config.headers)
        self._exchanges = Exchanges(
            parts, _tls(config) if parts.scheme == "https" else None, config.timeout_seconds
        )

    def close(self) -> None:
        """Close its connections. It must not be used afterwards."""
        self._exchanges.close()

    def request(self, registration: Registration) -> HttpRequest:
        """Return the request for a registration.

        Raises:
            ConfigError: the device lacks a value that a template names.
        """
        values = registration.values
        in_url = {name: quote(value, safe="") for name, value in values.items()}
        body = json.dumps(_filled(self._body, values)).encode()
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "otahsm"}
        chosen = {name.lower() for name in self._headers}
        ours = {name: value for name, value in headers.items() if name.lower() not in chosen}
        return HttpRequest(
            self._method, Template.parse(self._target).fill(in_url), {**ours, **self._headers}, body
        )

    def ask(self, request: HttpRequest) -> HttpResponse:
        """Send a request, and return the response without secrets; its status is 0 if there was none.

        Raises:
            BackendUntrustedError: its certificate can't be trusted, and nothing was sent.
        """
        try:
            answer = self._exchanges.make(request)
        except TlsError as error:
            raise BackendUntrustedError(f"nothing was sent to {self.name}: {error}") from None
        return replace(
            answer, text=self._shown(answer.text, request), location=self._shown(answer.location, request)
        )

    def renew(self, refused: HttpRequest) -> bool:
        """Read the secrets again after a request was refused; return whether they have changed.

        Raises:
            ConfigError: a secret can't be read.
        """
        with self._lock:
            if self._headers.items() <= refused.headers.items():
                self._headers = _read_headers(self._config.headers)
            return not self._headers.items() <= refused.headers.items()

    def _shown(self, text: str, request: HttpRequest) -> str:
        """Return the start of a text as one printable line, without secrets."""
        for name, header in self._config.headers.items():
            secret = request.headers[name].removeprefix(header.prefix)
            if header.is_secret:
                text = text.replace(secret, _HIDDEN)
        line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """Fill the templates in a table."""
    if isinstance(value, str):
        return Template.parse(value).fill(values)
    if isinstance(value, Mapping):
        return {name: _filled(inner, values) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    return value


def _read_headers(headers: Mapping[str, HeaderConfig]) -> dict[str, str]:
    return {name: _read_header(name, header) for name, header in headers.items()}


def _read_header(name: str, header: HeaderConfig) -> str:
    """Return the value of a header. Raises ConfigError, which never contains a secret."""
    if header.value is not None:
        return header.value
    what = f"the secret of the header {name}"
    if header.file is not None:
        what += f" in {header.file}"
        octets = read_secret_file(header.file, what)
    elif header.command is not None:
        octets = run_for_secret(header.command, what)
    else:
        octets = os.environb.get(os.fsencode(header.env or ""), b"")
        what += f" in the environment variable {header.env}"
    secret = header.prefix + one_line(octets, what)
    if not is_header_value(secret):
        raise ConfigError(f"{what} is not a valid header value", hint="Store only the token there.")
    return secret


def _tls(config: RegistrationConfig) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=config.ca)
    except (OSError, ssl.SSLError):
        raise ConfigError(
            f"can't read [registration] ca {config.ca}, or it contains no certificate",
            hint="It must be a PEM file with the CA of the backend's certificate.",
        ) from None
