"""[profiles.NAME], and the `pki.Profile` that it makes."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from otahsm.config.fields import ListOf, Pattern, Section, SetOf
from otahsm.config.subject import check_part, parse_subject
from otahsm.patterns import compile_pattern
from otahsm.pki.keytypes import KeyType
from otahsm.pki.profile import CsrExtras, ExtendedKeyUsage, KeyUsage, Profile

_OTA_CONNECT: Final = Profile()  # the defaults


class ProfileConfig(Section):
    """[profiles.NAME]: what a certificate contains and what a CSR must look like.

    The defaults are the profile `ota-connect`, the OTA Connect guide's contract.
    """

    validity_days: Annotated[int, Field(ge=1, le=36525)] = _OTA_CONNECT.validity // timedelta(days=1)
    renewal_days: Annotated[int, Field(ge=0)] = _OTA_CONNECT.renewal // timedelta(days=1)
    rekey_days: Annotated[int, Field(ge=0)] = _OTA_CONNECT.rekey // timedelta(days=1)
    backdate_minutes: Annotated[int, Field(ge=0, le=10080)] = _OTA_CONNECT.backdate // timedelta(minutes=1)
    device_id: Pattern = _OTA_CONNECT.device_id.pattern
    key_types: Annotated[SetOf[KeyType], Field(min_length=1)] = _OTA_CONNECT.key_types
    key_usage: Annotated[SetOf[KeyUsage], Field(min_length=1)] = _OTA_CONNECT.key_usage
    extended_key_usage: Annotated[ListOf[ExtendedKeyUsage], Field(min_length=1)] = (
        _OTA_CONNECT.extended_key_usage
    )
    csr_extras: CsrExtras = _OTA_CONNECT.csr_extras
    subject: ListOf[Annotated[str, AfterValidator(check_part)]] = ()
    ca: str = ""

    @model_validator(mode="after")
    def _windows_are_shorter_than_the_validity(self) -> Self:
        if max(self.renewal_days, self.rekey_days) >= self.validity_days:
            raise ValueError("renewal_days and rekey_days must be less than validity_days")
        return self

    def build(self) -> Profile:
        """Return the profile that certificates are issued under."""
        return Profile(
            validity=timedelta(days=self.validity_days),
            backdate=timedelta(minutes=self.backdate_minutes),
            renewal=timedelta(days=self.renewal_days),
            rekey=timedelta(days=self.rekey_days),
            device_id=compile_pattern(self.device_id),
            key_types=self.key_types,
            key_usage=self.key_usage,
            extended_key_usage=self.extended_key_usage,
            csr_extras=self.csr_extras,
            subject=parse_subject(self.subject),
        )
