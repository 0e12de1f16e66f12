"""Texts that operators write: PKCS#11 URIs, otahsm.toml, lists of devices."""

from __future__ import annotations

import contextlib
import re
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from otahsm.access import AccessControl, Caller, Open
from otahsm.config import Config, load_config, load_policy
from otahsm.daemon.edge import METHODS
from otahsm.errors import ConfigError, NotAllowedError
from otahsm.line.device_lists import (
    SEQUENCE,
    DeviceList,
    devices_of_serials,
    listed_devices,
    templated_devices,
)
from otahsm.pkcs11_names import PinSource, Pkcs11Uri
from otahsm.templates import NAME, Template

from fuzz.places import written

SECRET: Final = "hunter2"
_NOW: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)
# These values are names, or may have some in them, and errors repeat them.
_NAMES: Final = re.compile(r"\.issuance\.default_profile|\.profiles\..*\.(ca|device_id)")
_ATTRIBUTE: Final = re.compile(
    rf"[a-zA-Z0-9-]*{SECRET}[a-zA-Z0-9-]*="
)  # of a URI: errors say that there is none

_BOM: Final = b"\xef\xbb\xbf"
_SUFFIXES: Final = (".txt", ".csv", ".jsonl")
_TEMPLATE: Final = Template.parse("{plant}-{seq:04d}", numbers=frozenset({SEQUENCE}))
_LISTS: Final[tuple[Callable[[Path], DeviceList], ...]] = (
    lambda path: listed_devices(path, {}),
    lambda path: listed_devices(path, {"plant": "berlin"}),
    lambda path: devices_of_serials(path, uuid.NAMESPACE_DNS, {}),
    lambda path: templated_devices(path, _TEMPLATE, {}),
)


def uri(data: bytes) -> None:
    """Read a PKCS#11 URI, and what it says of the PIN."""
    text = data.decode(errors="replace")
    try:
        read = Pkcs11Uri.parse(text)
    except ValueError as error:
        values = [part.partition("=") for part in re.split("[:;?&]", text)]
        if not any(equals and SECRET in name for name, equals, _ in values):
            assert SECRET not in str(error)
        return
    again = Pkcs11Uri.parse(str(read))
    assert again == read
    assert str(again) == str(read)
    assert Pkcs11Uri.parse(str(read.only_token())).token_attributes == read.token_attributes
    try:
        pin = PinSource.parse(read.pin_source or "")
    except ValueError as error:
        assert SECRET not in str(error)
    else:
        assert pin.value or pin.kind == "prompt"


def config(data: bytes) -> None:
    """Read otahsm.toml, and whatever is asked of it later."""
    try:
        read = load_config(written("otahsm.toml", data))
    except ConfigError as error:
        assert error.message.isprintable() or "\n" not in error.message.rstrip("\n")
        assert SECRET not in error.message or not _is_secret(data)
        return
    _use(read)


def policy(data: bytes) -> None:
    """Read policy.toml, and ask it about clients that the draw names."""
    path = written("policy.toml", data)
    try:
        read = load_policy(path, ["ota-connect"])
    except ConfigError as error:
        assert str(path) in error.message
        return
    access = AccessControl(read)
    for grant in read:
        assert grant.name
        assert ("issuer" in grant.roles) == bool(grant.profiles)
        with contextlib.suppress(NotAllowedError):
            grant.check_time(_NOW)
            grant.check_order("ota-connect", "b")
            grant.check_device("cam-000001")
    for name in ("cn:a", "uri:spiffe://a/b/c", "dns:a.example", "cn:*"):
        caller = Caller(name, bytes(32))
        known = read.of(caller)
        for method in METHODS.values():
            try:
                access.check_call(caller, method.name, method.callers, _NOW)
            except NotAllowedError:
                continue
            assert (
                method.callers is Open.TRUSTED or known is not None
            )  # nobody gets in whom the file does not name


def device_list(data: bytes) -> None:
    """Read a list of devices; the first octet says how."""
    how, content = data[:1], data[1:]
    kind = how[0] if how else 0
    suffix, read = _SUFFIXES[kind % 3], _LISTS[kind // 3 % 4]
    path = written(f"devices{suffix}", content)
    try:
        devices = read(path)
    except ConfigError as error:
        assert str(path) in error.message
        return
    ids = [device.device_id for device in devices]
    assert len(ids) == len(devices) == len(set(ids))
    assert all(ids)
    assert all(NAME.fullmatch(name) for device in devices for name in device.attributes)
    assert read(path).digest == devices.digest
    if suffix == ".txt" and read is _LISTS[0]:
        lines = content.removeprefix(_BOM).decode().split("\n")
        assert ids == [line.strip() for line in lines if line.strip()]


def _use(read: Config) -> None:
    assert read.issuance.default_profile in read.profiles
    assert len({authority.key for authority in read.all_authorities.values()}) == len(read.all_authorities)
    for token in read.token.all if read.token else ():
        assert token.uri.module.is_absolute()
        assert token.uri.pin == PinSource.parse(token.uri.pin_source or "")
        assert Pkcs11Uri.parse(token.name) == token.uri.only_token()
    for profile in read.profiles.values():
        built = profile.build()
        assert tuple(map(str, built.subject)) == profile.subject
        assert built.device_id.pattern == profile.device_id
    if read.registration:
        assert read.registration.parts.hostname


def _is_secret(data: bytes) -> bool:
    """Return whether the secret is a value that no error may repeat, and is in no name."""
    try:
        leaves = list(_leaves(tomllib.loads(data.decode())))
    except (ValueError, RecursionError):
        return False
    return any(
        isinstance(value, str) and SECRET in _ATTRIBUTE.sub("", value) and not _NAMES.fullmatch(place)
        for place, value in leaves
    ) and not any(SECRET in place for place, _ in leaves)


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, object]]:
    yield place, value
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{place}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, place)
