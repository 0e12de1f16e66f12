"""The sections of `otahsm.toml`, as frozen models, and the whole file."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from otahsm.config.fields import Address, Addresses, ConfigPath, CrlUrl, ListOf, Section
from otahsm.config.profiles import ProfileConfig
from otahsm.config.registration import RegistrationConfig
from otahsm.config.token import CaConfig, CheckpointConfig, KeyConfig, TokenConfig, may_be_one
from otahsm.pkcs11_names import Pkcs11Uri
from otahsm.pki.crls.distribution import SHARD, CrlLocation

_CRLS_SEEN: Final = "client-crls.json"


class DaemonConfig(Section):
    """[daemon]: where it listens. Port 0 picks a free port and logs it."""

    listen: Address = "127.0.0.1:7443"
    drain_seconds: Annotated[int, Field(ge=1, le=600)] = 30


class TlsConfig(Section):
    """[tls]: the daemon's own certificate, and the operator CA whose clients may connect."""

    certificate: ConfigPath
    key: ConfigPath
    client_ca: ConfigPath


class AccessConfig(Section):
    """[access]: which client may make which call, and which client certificates are revoked."""

    policy: ConfigPath
    client_crls: ListOf[ConfigPath] = ()
    client_crls_seen: ConfigPath | None = None


class LedgerConfig(Section):
    """[ledger]: the database that records everything: an SQLite file, or PostgreSQL for several daemons."""

    path: ConfigPath | None = None
    url: Annotated[str, Field(pattern=r"^postgresql://")] | None = None
    password_file: ConfigPath | None = None
    key_file: ConfigPath | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("set either path or url")
        if self.password_file is not None and self.url is None:
            raise ValueError("password_file needs url")
        return self


class IssuanceConfig(Section):
    """[issuance]: how the cycle runs."""

    default_profile: str = "ota-connect"
    preparers: Annotated[int, Field(ge=1, le=64)] = 2
    preparer_socket: ConfigPath | None = None
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 128
    wait_for_signer_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0


class CrlConfig(Section):
    """[crl]: where the certificate revocation lists are, and how often they are made.

    Without this section certificates name no CRL. Every certificate contains the URL for its whole life.
    """

    url: CrlUrl
    shards: Annotated[int, Field(ge=1, le=4096)] = 1
    validity_hours: Annotated[int, Field(ge=2, le=8784)] = 168
    refresh_hours: Annotated[int, Field(ge=1, le=8784)] = 24
    directory: ConfigPath

    @model_validator(mode="after")
    def _url_fits_shards(self) -> Self:
        if self.shards > 1 and SHARD not in self.url.rpartition("/")[2]:
            raise ValueError(f"with several shards, the last part of url must contain {SHARD}")
        if self.shards == 1 and SHARD in self.url:
            raise ValueError(f"with one shard, url must not contain {SHARD}")
        return self

    @model_validator(mode="after")
    def _refreshed_before_it_expires(self) -> Self:
        if self.refresh_hours >= self.validity_hours:
            raise ValueError("refresh_hours must be less than validity_hours")
        return self

    @property
    def location(self) -> CrlLocation:
        """Where the lists are, as certificates name it."""
        return CrlLocation(self.url, self.shards)


class AuthorityConfig(CaConfig):
    """[authorities.NAME]: a CA besides [ca], such as the next one or the last one. Profiles name it.

    Its `crl` is like [crl], with its own URL and directory.
    """

    crl: CrlConfig | None = None
    retired: bool = False


class ClientConfig(Section):
    """[client]: how this machine reaches the daemon, and what it puts into device folders."""

    target: Addresses
    ca: ConfigPath
    certificate: ConfigPath
    key: ConfigPath
    devices: ConfigPath
    patience_seconds: Annotated[float, Field(ge=0)] = 30.0
    fleet_ca: ListOf[ConfigPath] = ()
    gateway_url: str | None = None
    server_ca: ConfigPath | None = None
    credentials: ConfigPath | None = None

    @model_validator(mode="after")
    def _gateway_is_named_once(self) -> Self:
        if self.credentials is not None and (self.gateway_url is not None or self.server_ca is not None):
            raise ValueError("credentials replaces gateway_url and server_ca: remove it or those")
        return self


class Config(Section):
    """The whole file. A command that needs a missing section raises the error itself."""

    daemon: DaemonConfig = DaemonConfig()
    tls: TlsConfig | None = None
    access: AccessConfig | None = None
    token: TokenConfig | None = None
    ca: CaConfig | None = None
    authorities: dict[str, AuthorityConfig] = {}  # noqa: RUF012 - pydantic copies it
    ledger: LedgerConfig | None = None
    issuance: IssuanceConfig = IssuanceConfig()
    profiles: Annotated[dict[str, ProfileConfig], Field(min_length=1)] = {  # noqa: RUF012 - pydantic copies it
        "ota-connect": ProfileConfig()
    }
    crl: CrlConfig | None = None
    checkpoint: CheckpointConfig | None = None
    client: ClientConfig | None = None
    registration: RegistrationConfig | None = None

    @model_validator(mode="after")
    def _default_profile_exists(self) -> Self:
        if self.issuance.default_profile not in self.profiles:
            raise ValueError(
                f"issuance.default_profile: there is no [profiles.{self.issuance.default_profile}]"
            )
        return self

    @property
    def all_authorities(self) -> dict[str, AuthorityConfig]:
        """Every CA by the name that profiles use; [ca] with [crl] has the name ""."""
        if self.ca is None:
            return dict(self.authorities)
        return {"": AuthorityConfig(**dict(self.ca), crl=self.crl), **self.authorities}

    @property
    def client_crls_seen(self) -> Path | None:
        """Where a daemon remembers the CRLs of operator CAs; None if there is no place that is its own."""
        if self.access and self.access.client_crls_seen:
            return self.access.client_crls_seen
        if self.ledger and self.ledger.path:
            return self.ledger.path.parent / _CRLS_SEEN
        if self.token and self.token.signer_socket is None:
            return self.token.guard_dir / _CRLS_SEEN
        return None

    @property
    def _named_keys(self) -> dict[str, Pkcs11Uri]:
        """Every key in the token, by the name of its section."""
        keys = {ca_section(name): authority.key for name, authority in self.all_authorities.items()}
        if self.checkpoint:
            keys["checkpoint"] = self.checkpoint.key
        return keys

    @property
    def token_keys(self) -> dict[str, KeyConfig]:
        """Every key in the token, by its URI."""
        sections = (*self.all_authorities.values(), self.checkpoint)
        return {str(key.key): key for key in sections if key}

    @model_validator(mode="after")
    def _profiles_name_authorities(self) -> Self:
        for name, profile in self.profiles.items():
            if profile.ca and profile.ca not in self.authorities:
                raise ValueError(f"profiles.{name}.ca: there is no [authorities.{profile.ca}]")
            if profile.ca and self.authorities[profile.ca].retired:
                raise ValueError(f"profiles.{name}.ca: [authorities.{profile.ca}] is retired")
        if self.authorities and self.ca is None:
            raise ValueError("[authorities] needs a [ca] section, and there is none")
        return self

    @model_validator(mode="after")
    def _keys_are_apart(self) -> Self:
        for (first, one), (second, other) in combinations(self._named_keys.items(), 2):
            if may_be_one(one, other):
                raise ValueError(
                    f"{second}.key needs a label (object) and an id that differ from those of {first}.key"
                )
        return self

    @model_validator(mode="after")
    def _crls_are_apart(self) -> Self:
        crls = [authority.crl for authority in self.all_authorities.values() if authority.crl]
        for one, other in combinations(crls, 2):
            if one.url == other.url or one.directory == other.directory:
                raise ValueError("each CA needs its own CRL url and directory")
        return self

    @model_validator(mode="after")
    def _keys_are_in_the_token(self) -> Self:
        for name, key in self._named_keys.items():
            where = key.token_attributes.items()
            if self.token and not all(
                where <= token.uri.token_attributes.items() for token in self.token.all
            ):
                raise ValueError(f"{name}.key names a different token than token.uri")
        return self


def ca_section(authority: str) -> str:
    """Return the name of a CA's section: "authorities.NAME", or "ca" if the name is empty."""
    return f"authorities.{authority}" if authority else "ca"
