"""[registration]: the backend where every device is registered, and the requests it gets."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from otahsm.config.fields import ConfigPath, Section
from otahsm.errors import ConfigError
from otahsm.templates import Template

BackendKind = Literal["community-edition", "foundries", "webhook"]

IN_URLS: Final = frozenset({"device_id", "serial"})  # nothing else is safe in a path
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")  # RFC 9110, section 5.6.2
_OURS: Final = frozenset({"connection", "content-length", "host", "te", "transfer-encoding", "upgrade"})
_VISIBLE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")
_URL_CHARACTERS: Final = re.compile(r"[!-~]{1,1024}")
_MAX_DEPTH: Final = 32
_TOKENS: Final = frozenset({"osf-token", "authorization"})


class HeaderConfig(Section):
    """A header's value: a string, or a secret that is read when it is needed.

    `prefix` is put before the secret, as in "Bearer ".
    """

    value: str | None = None
    file: ConfigPath | None = None
    env: Annotated[str, Field(min_length=1)] | None = None
    command: Annotated[str, Field(min_length=1)] | None = None
    prefix: str = ""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = [one for one in (self.value, self.file, self.env, self.command) if one is not None]
        if len(given) != 1:
            raise ValueError(
                'must be a string, or one of { file = "..." }, { env = "..." } and { command = "..." }'
            )
        if self.value is not None and (self.prefix or not is_header_value(self.value)):
            raise ValueError("a header's text must be visible ASCII characters, and can't have a prefix")
        if self.prefix and not is_header_value(f"{self.prefix}x"):
            raise ValueError("prefix must be visible ASCII characters")
        return self

    @property
    def is_secret(self) -> bool:
        """Whether the value is a secret; a string in the file is not."""
        return self.value is None


def is_header_value(text: str) -> bool:
    """Return whether a text can be a header's value (RFC 9110, section 5.5); only ASCII arrives reliably."""
    return _VISIBLE.fullmatch(text) is not None


def _text_or_secret(value: object) -> object:
    return {"value": value} if isinstance(value, str) else value


def _header_name(name: str) -> str:
    if not _HEADER.fullmatch(name) or name.lower() in _OURS:
        raise ValueError("not a valid header name, or one that otahsm sets itself")
    return name


def _web_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = _URL_CHARACTERS.fullmatch(url) and parts.hostname and parts.port != 0
        template = Template.parse(f"{parts.path}?{parts.query}")
    except (ValueError, ConfigError):
        raise ValueError("not a valid URL; write one such as https://registry.example.com") from None
    if not sound or parts.scheme not in {"http", "https"} or "@" in parts.netloc or "#" in url:
        raise ValueError(
            "must be an http or https URL such as https://registry.example.com, without user, password or"
            " fragment"
        )
    if not template.names <= IN_URLS or "{" in parts.netloc:
        raise ValueError("only {device_id} and {serial} are allowed, and only in the path and query")
    return url


def _json_table(table: dict[str, Any]) -> dict[str, Any]:
    for place, value in _leaves(table, "body"):
        if isinstance(value, str):
            try:
                Template.parse(value)
            except ConfigError:  # it would quote the value
                raise ValueError(
                    f"{place} is not a valid template; write placeholders as {{name}}, and braces as {{{{ and"
                    " }}"
                ) from None
        elif not isinstance(value, bool | int) and not (isinstance(value, float) and math.isfinite(value)):
            raise ValueError(f"{place} can't be written as JSON: make it a string")
    return table


def _leaves(value: object, place: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"tables and lists are nested more than {_MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{place}.{name}", depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{number}]", depth + 1)
    else:
        yield place, value


def _template(text: str) -> str:
    try:
        Template.parse(text)
    except ConfigError:
        raise ValueError("not a valid template; write placeholders as {name}") from None
    return text


Header = Annotated[HeaderConfig, BeforeValidator(_text_or_secret)]
HeaderName = Annotated[str, AfterValidator(_header_name)]


class RegistrationConfig(Section):
    """[registration]: the backend where `otahsm device register` registers devices that were issued here.

    Without this section no device is registered.
    """

    kind: BackendKind
    url: Annotated[str, AfterValidator(_web_address)]
    method: Literal["POST", "PUT", "PATCH"] | None = None
    headers: dict[HeaderName, Header] = {}  # noqa: RUF012 - pydantic copies it
    body: Annotated[dict[str, Any], Field(min_length=1), AfterValidator(_json_table)] | None = None
    group: Annotated[str, Field(min_length=1), AfterValidator(_template)] | None = None
    ca: ConfigPath | None = None
    timeout_seconds: Annotated[float, Field(ge=0.1, le=600)] = 30.0
    parallel: Annotated[int, Field(ge=1, le=64)] = 8

    @model_validator(mode="after")
    def _headers_are_named_once(self) -> Self:
        if len({name.lower() for name in self.headers}) < len(self.headers):
            raise ValueError("two headers have the same name")
        return self

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        if self.group is not None and (self.kind != "foundries" or self.body is not None):
            raise ValueError('group needs kind = "foundries", and excludes body')
        if self.kind == "foundries" and not _TOKENS & {name.lower() for name in self.headers}:
            raise ValueError(
                'kind = "foundries" needs its token, as in headers = { OSF-TOKEN = { file = "..." } }'
            )
        if self.kind != "webhook" and (self.parts.query or "{" in self.url):
            raise ValueError(
                f'kind = "{self.kind}" needs the base URL of its API, such as https://registry.example.com'
            )
        return self

    @model_validator(mode="after")
    def _secrets_are_not_sent_in_the_clear(self) -> Self:
        secret = any(header.is_secret for header in self.headers.values())
        if secret and self.parts.scheme == "http" and not _is_this_machine(self.parts.hostname or ""):
            raise ValueError("headers contain a secret, so url must be https")
        if self.ca is not None and self.parts.scheme == "http":
            raise ValueError("ca needs an https url")
        return self

    @property
    def parts(self) -> SplitResult:
        """The parsed URL."""
        return urlsplit(self.url)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
