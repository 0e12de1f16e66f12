"""Checks the CA's chain, and lets OpenSSL judge a device under it before a gateway does."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from otahsm.checks import Check, fail, failed, ok, warning
from otahsm.config import AuthorityConfig, Config, ca_section
from otahsm.doctor.mirror import Mirror
from otahsm.errors import OtahsmError
from otahsm.pki.bundle import allows_cas, find_chain_problems
from otahsm.pki.certificate import validity_at
from otahsm.pki.chain import Chain, check_signs_crls, load_chain
from otahsm.pki.keytypes import is_pss
from otahsm.pki.profile import ExtendedKeyUsage, Profile
from otahsm.templates import counted

_PURPOSES: Final[dict[ExtendedKeyUsage, str]] = {"client_auth": "sslclient", "server_auth": "sslserver"}
_SOON: Final = timedelta(days=90)
_SECONDS: Final = 30


def examine_authority(config: Config, name: str, ca: AuthorityConfig, now: datetime) -> Iterator[Check]:
    """Check a CA's certificates, and the device certificates of each of its profiles."""
    subject = f"[{ca_section(name)}] certificate"
    try:
        chain = load_chain(ca.certificate.read_bytes(), str(ca.certificate), pss=is_pss(ca.mechanism))
        if ca.crl:
            check_signs_crls(chain.issuer)
    except OSError as error:
        yield fail(
            subject,
            f"can't read {ca.certificate}: {error.strerror}",
            "Create the CA with `otahsm ca init`, or with `otahsm ca csr` and `otahsm ca import`.",
        )
        return
    except OtahsmError as error:
        yield failed(subject, error)
        return
    for problem in find_chain_problems(chain, now):
        yield fail(subject, problem, "Have the certificate reissued, or create a CA with `otahsm ca init`.")
    end = chain.issuer.not_after
    if now <= end < now + _SOON:
        yield warning(
            subject,
            f"{chain.issuer.subject_text} expires on {end:%Y-%m-%d}",
            "Put a new CA into service before then.",
        )
    else:
        yield ok(
            subject,
            f"{chain.issuer.subject_text} is valid until {end:%Y-%m-%d};"
            f" {counted(len(chain.intermediates), 'CA certificate')} above it",
        )
    if allows_cas(chain):
        yield ok(subject, _without_limit(chain))
    for its_name, profile in config.profiles.items():
        if profile.ca == name:
            yield from _profile(f"profile {its_name}", profile.build(), chain, now)


def _without_limit(chain: Chain) -> str:
    remedy = (
        "a certificate that is reissued as `otahsm ca csr` asks for it has the limit"
        if chain.intermediates
        else "a new root of `otahsm ca init` or `ca rotate` has the limit"
    )
    return (
        f"note: {chain.issuer.subject_text} has no pathLenConstraint, so whoever gets one signature with its"
        f" key could make a CA under it that verifiers accept; {remedy}"
    )


def _profile(subject: str, profile: Profile, chain: Chain, now: datetime) -> Iterator[Check]:
    try:
        validity = validity_at(now, profile, chain.issuer)
    except OtahsmError as error:
        yield failed(subject, error)
        return
    if now + profile.validity > chain.issuer.not_after:
        yield warning(
            subject,
            f"validity_days = {profile.validity.days}, but the CA expires on {validity.not_after:%Y-%m-%d}",
            "Shorten validity_days, or put a new CA into service.",
        )
    program = shutil.which("openssl")
    if program is None:
        yield warning(subject, "not checked with OpenSSL, which is not installed", "Install openssl.")
        return
    with tempfile.TemporaryDirectory() as folder:
        mirror = Mirror.write(chain, profile, validity, Path(folder))
        for usage in profile.extended_key_usage:
            yield _ask_openssl(program, subject, usage, mirror)


def _ask_openssl(program: str, subject: str, usage: ExtendedKeyUsage, mirror: Mirror) -> Check:
    command = (
        program, "verify", "-x509_strict", "-purpose", _PURPOSES[usage], "-CAfile", mirror.anchor,
        "-untrusted", mirror.chain, mirror.device,
    )  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if ran.returncode:
        why = [line for line in (ran.stdout + ran.stderr).splitlines() if line.startswith("error ")]
        return fail(
            subject,
            f"OpenSSL refuses every device for {usage}: {'; '.join(why) or ran.stderr.strip()}",
            "An extension of a CA certificate is not what verifiers require: see `otahsm ca show`, and"
            " `root and root-here` in the guide.",
        )
    return ok(subject, f"OpenSSL accepts devices for {usage}, in strict mode")
