"""Step 2 of the cycle: what is to be signed, built from what a preparer returned and `Preparers` compared."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

from otahsm.errors import OtahsmError
from otahsm.pki.certificate import Binding
from otahsm.pki.serial import SERIAL_RANDOM_BYTES, make_serial
from otahsm.pki.template import ProfileTemplate
from otahsm.preparation.codec import Task
from otahsm.preparation.pool import Preparers
from otahsm.system.clock import microseconds
from otahsm.token.desk.codec import CertificateToSign


class Attributed(NamedTuple):
    """A task, and what its request says for the subject: names and values, not checked."""

    task: Task
    attributes: tuple[tuple[str, str], ...]


class Draft(NamedTuple):
    """A certificate ready to be journalled and signed.

    Attributes:
        values: what it was built from.
        tbs: its TBSCertificate, in DER.
    """

    values: CertificateToSign
    tbs: bytes


class Drafting:
    """Has CSRs checked, and builds the certificates.

    Args:
        preparers: check the CSRs.
        templates: what is issued, by profile.
    """

    def __init__(self, preparers: Preparers, templates: Mapping[str, ProfileTemplate]) -> None:
        self._preparers = preparers
        self._templates = templates

    async def draft(self, items: Sequence[Attributed], now: datetime) -> list[Draft | OtahsmError]:
        """Return a draft or an error for each item, in order; `now` is the time of their serial numbers."""
        milliseconds = microseconds(now) // 1000
        answers = await self._preparers.prepare([item.task for item in items])
        return [
            answer if isinstance(answer, OtahsmError) else self._built(item, answer, milliseconds)
            for item, answer in zip(items, answers, strict=True)
        ]

    def _built(self, item: Attributed, binding: Binding, milliseconds: int) -> Draft | OtahsmError:
        try:
            serial = make_serial(secrets.token_bytes(SERIAL_RANDOM_BYTES), milliseconds)
            tbs = self._templates[item.task.profile].fill(serial, binding, item.attributes)
        except OtahsmError as error:
            return error
        values = CertificateToSign(serial, binding, item.attributes, sha256(tbs).digest())
        return Draft(values, tbs)
