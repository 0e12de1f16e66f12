"""`otahsm.toml` as frozen models. An unknown key is an error, and so is a value of the wrong type.

Relative paths are relative to the file that names them. A machine needs only the sections of what it
does: a factory line has `[client]` alone, a daemon has no `[client]`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from otahsm.errors import ConfigError

KeyType = Literal["ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519"]
KeyUsage = Literal["digital_signature", "key_encipherment", "key_agreement", "non_repudiation"]
ExtendedKeyUsage = Literal["client_auth", "server_auth"]

_MESSAGES: Final = {"extra_forbidden": "there is no such key", "missing": "it is missing"}

DEFAULT_DEVICE_ID: Final = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
SHARD: Final = "{shard}"

# Only what every URL library leaves as it is: verifiers compare the URL of a CRL octet by octet.
_CRL_URL: Final = r"https?://[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*(:(?P<port>[1-9][0-9]{0,4}))?(/[A-Za-z0-9][A-Za-z0-9._~-]*)+"
_MAX_URL: Final = 255
_LAST_PORT: Final = 65535


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return base / path.expanduser()


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


def _listen_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > _LAST_PORT:
        raise ValueError("must be host:port, as in 127.0.0.1:7443")
    return address


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _crl_url(url: str) -> str:
    match = re.fullmatch(_CRL_URL, url.replace(SHARD, "0", 1))
    if not match or int(match["port"] or 0) > _LAST_PORT or len(url) > _MAX_URL:
        raise ValueError(
            f"must be a plain http or https URL of at most {_MAX_URL} characters, in lower case up to its"
            " path, which ends with the name of the file, as in http://crl.example.com/fleet.crl"
        )
    if url.lower().endswith(".pem"):
        raise ValueError("must not end in .pem: what is there is DER (RFC 5280, section 4.2.1.13)")
    return url


ConfigPath = Annotated[Path, AfterValidator(_beside_the_file)]
Pattern = Annotated[str, AfterValidator(_regular_expression)]
Address = Annotated[str, AfterValidator(_listen_address)]
Addresses = Annotated[tuple[Address, ...], Field(min_length=1), BeforeValidator(_one_or_more)]
CrlUrl = Annotated[str, AfterValidator(_crl_url)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DaemonConfig(_Section):
    """[daemon]: where it listens. Port 0 takes a free one and logs it."""

    listen: Address = "127.0.0.1:7443"
    drain_seconds: Annotated[int, Field(ge=1, le=600)] = 30


class TlsConfig(_Section):
    """[tls]: the daemon's own certificate, and the operator CA whose clients may come in."""

    certificate: ConfigPath
    key: ConfigPath
    client_ca: ConfigPath


class TokenConfig(_Section):
    """[token]: the PKCS#11 token, how to log in, and how many signatures it makes at once."""

    module: ConfigPath
    label: Annotated[str, Field(min_length=1, max_length=32)]
    serial: str | None = None
    pin_file: ConfigPath
    guard_dir: ConfigPath
    environment: dict[str, str] = {}
    signers: Annotated[int, Field(ge=1, le=64)] = 2
    sessions: Annotated[int, Field(ge=1, le=64)] = 1
    sign_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0


class KeyConfig(_Section):
    """A key pair in the token, found by its label and its id."""

    key_label: Annotated[str, Field(min_length=1)]
    key_id: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{2})+$")]


class CaConfig(KeyConfig):
    """[ca]: the certificate chain of the CA (signing certificate first, root last) and its key."""

    certificate: ConfigPath


class CheckpointConfig(KeyConfig):
    """[checkpoint]: the key that signs what the ledger holds, so that nobody can change it unnoticed.

    Without this section changes are found too, but not those of somebody who knows how the ledger is made.
    """

    origin: Annotated[str, Field(pattern=r"^[!-*,-~]{1,255}$")]
    verifier_key: ConfigPath
    interval_seconds: Annotated[int, Field(ge=1, le=86_400)] = 60


class LedgerConfig(_Section):
    """[ledger]: an SQLite file, or for several daemons a PostgreSQL database, that remembers it all."""

    path: ConfigPath | None = None
    url: Annotated[str, Field(pattern=r"^postgresql://")] | None = None
    password_file: ConfigPath | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either path or url")
        if self.password_file is not None and self.url is None:
            raise ValueError("password_file goes with url")
        return self


class IssuanceConfig(_Section):
    """[issuance]: how the cycle runs."""

    default_profile: str = "ota-connect"
    preparers: Annotated[int, Field(ge=1, le=64)] = 2
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 128
    wait_for_signer_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0


class ProfileConfig(_Section):
    """[profiles.NAME]: what a certificate holds and what a CSR must look like.

    The defaults are the profile `ota-connect`, the OTA Connect guide's contract.
    """

    validity_days: Annotated[int, Field(ge=1, le=36525)] = 365
    renewal_days: Annotated[int, Field(ge=0)] = 0
    rekey_days: Annotated[int, Field(ge=0)] = 0
    backdate_minutes: Annotated[int, Field(ge=0, le=10080)] = 60
    device_id: Pattern = DEFAULT_DEVICE_ID
    key_types: Annotated[frozenset[KeyType], Field(min_length=1)] = frozenset(
        {"ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519"}
    )
    key_usage: Annotated[frozenset[KeyUsage], Field(min_length=1)] = frozenset({"digital_signature"})
    extended_key_usage: Annotated[tuple[ExtendedKeyUsage, ...], Field(min_length=1)] = ("client_auth",)
    csr_extras: Literal["refuse", "ignore"] = "refuse"

    @model_validator(mode="after")
    def _windows_are_shorter_than_the_validity(self) -> Self:
        if max(self.renewal_days, self.rekey_days) >= self.validity_days:
            raise ValueError("renewal_days and rekey_days must be less than validity_days")
        return self


class CrlConfig(_Section):
    """[crl]: where the certificate revocation lists are, and how often they are made.

    Without this section certificates state no CRL. The URL is fixed in every certificate that is issued.
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
    def _refreshed_before_it_ends(self) -> Self:
        if self.refresh_hours >= self.validity_hours:
            raise ValueError("refresh_hours must be less than validity_hours")
        return self


class ClientConfig(_Section):
    """[client]: how this machine reaches the daemon, and what it puts into device folders."""

    target: Addresses
    ca: ConfigPath
    certificate: ConfigPath
    key: ConfigPath
    devices: ConfigPath
    patience_seconds: Annotated[float, Field(ge=0)] = 30.0
    gateway_url: str | None = None
    server_ca: ConfigPath | None = None


class Config(_Section):
    """The whole file. Sections that a command needs and that are missing are its errors to raise."""

    daemon: DaemonConfig = DaemonConfig()
    tls: TlsConfig | None = None
    token: TokenConfig | None = None
    ca: CaConfig | None = None
    ledger: LedgerConfig | None = None
    issuance: IssuanceConfig = IssuanceConfig()
    profiles: Annotated[dict[str, ProfileConfig], Field(min_length=1)] = {"ota-connect": ProfileConfig()}
    crl: CrlConfig | None = None
    checkpoint: CheckpointConfig | None = None
    client: ClientConfig | None = None

    @model_validator(mode="after")
    def _default_profile_exists(self) -> Self:
        if self.issuance.default_profile not in self.profiles:
            raise ValueError(f"[issuance] default_profile: no [profiles.{self.issuance.default_profile}]")
        return self

    @model_validator(mode="after")
    def _checkpoints_have_a_key_of_their_own(self) -> Self:
        if self.ca and self.checkpoint:
            ids = bytes.fromhex(self.ca.key_id), bytes.fromhex(self.checkpoint.key_id)
            if self.ca.key_label == self.checkpoint.key_label or ids[0] == ids[1]:
                raise ValueError("[checkpoint] needs another key_label and another key_id than [ca]")
        return self


_Any = TypeVar("_Any", bound=_Section)


def section(value: _Any | None, name: str) -> _Any:
    """Return `value`, a section of the file, or say that it is missing.

    Raises:
        ConfigError: it is missing.
    """
    if value is None:
        raise ConfigError(
            f"the configuration has no [{name}] section",
            hint="`otahsm quickstart DIR` writes a complete otahsm.toml to copy it from.",
        )
    return value


def load_config(path: Path) -> Config:
    """Read and check `otahsm.toml`.

    Raises:
        ConfigError: the file can't be read, isn't TOML, or holds something it must not.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist", hint="Name it with --config, or make one with `otahsm quickstart DIR`."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    return parse_config(table, base=path.absolute().parent, source=str(path))


def parse_config(table: dict[str, Any], *, base: Path, source: str) -> Config:
    """Check a parsed TOML table; `source` names it in errors, `base` is where relative paths start.

    Raises:
        ConfigError: naming every key that is wrong.
    """
    try:
        return Config.model_validate(table, context={"base": base})
    except ValidationError as error:
        # Values are left out on purpose: a misplaced PIN must not end up in a log.
        lines = [
            f"{'.'.join(str(part) for part in problem['loc']) or source}:"
            f" {_MESSAGES.get(problem['type'], problem['msg'])}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigError(f"{source} is wrong: " + "; ".join(lines)) from None
