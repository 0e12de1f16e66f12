"""Checks that TLS files belong together, who can read them, and when they expire."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from otahsm.checks import Check, fail, failed, ok, warning
from otahsm.config import ClientConfig, TlsConfig
from otahsm.errors import ConfigError, OtahsmError
from otahsm.system.files import PLAIN, Files
from otahsm.system.tls_files import read_certificates, read_key_pair
from otahsm.system.trusted_files import files_of_anyone

_SOON: Final = timedelta(days=30)


def examine_tls(tls: TlsConfig, now: datetime) -> Iterator[Check]:
    """Check the daemon's own certificate and key, and the operator CA."""
    files = files_of_anyone()
    yield from _pair("tls", tls.certificate, tls.key, ExtendedKeyUsageOID.SERVER_AUTH, now, files)
    yield from _authorities("[tls] client_ca", tls.client_ca, now, files)


def examine_client(client: ClientConfig, now: datetime) -> Iterator[Check]:
    """Check a client's certificate and key, and the CA of the daemon's certificate."""
    yield from _pair("client", client.certificate, client.key, ExtendedKeyUsageOID.CLIENT_AUTH, now)
    with contextlib.suppress(OSError):
        try:
            files_of_anyone().check(client.key, str(client.key), secret=True)
        except ConfigError as problem:
            yield warning("[client] key", problem.message, problem.hint)
    yield from _authorities("[client] ca", client.ca, now)
    for path in client.fleet_ca:
        yield from _authorities("[client] fleet_ca", path, now)
    if client.server_ca:
        yield from _authorities("[client] server_ca", client.server_ca, now)


def _pair(
    section: str,
    certificate: Path,
    key: Path,
    purpose: x509.ObjectIdentifier,
    now: datetime,
    files: Files = PLAIN,
) -> Iterator[Check]:
    subject = f"[{section}] certificate"
    try:
        own = read_key_pair(section, certificate, key, files=files).own
        usage = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([purpose])  # without the extension, every purpose is allowed
    except OtahsmError as error:
        yield failed(subject, error)
        return
    if purpose not in usage:
        required = "serverAuth" if purpose == ExtendedKeyUsageOID.SERVER_AUTH else "clientAuth"
        yield fail(
            subject,
            f"the extendedKeyUsage of {certificate} lacks {required}",
            f"Have the certificate reissued with {required}.",
        )
    yield _time_left(subject, own, now)


def _authorities(subject: str, path: Path, now: datetime, files: Files = PLAIN) -> Iterator[Check]:
    try:
        certificates = read_certificates(subject, path, files).certificates
    except OtahsmError as error:
        yield failed(subject, error)
        return
    for certificate in certificates:
        yield _time_left(subject, certificate, now)


def _time_left(subject: str, certificate: x509.Certificate, now: datetime) -> Check:
    name, end = certificate.subject.rfc4514_string(), certificate.not_valid_after_utc
    if not certificate.not_valid_before_utc <= now <= end:
        begin = certificate.not_valid_before_utc
        return fail(
            subject,
            f"{name} expired on {end:%Y-%m-%d %H:%M} UTC"
            if end < now
            else f"{name} is not valid before {begin:%Y-%m-%d %H:%M} UTC",
            "Renew it; or set this machine's clock, if it is wrong.",
        )
    if end - now < _SOON:
        return warning(subject, f"{name} expires on {end:%Y-%m-%d %H:%M} UTC", "Renew it before then.")
    return ok(subject, f"{name} is valid until {end:%Y-%m-%d}")
