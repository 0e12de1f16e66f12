"""Reads or makes the devices that a command is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import typer

from otahsm.client import IdScheme
from otahsm.line import (
    SEQUENCE,
    Device,
    DeviceList,
    devices_of_serials,
    listed_devices,
    numbered_devices,
    parse_namespace,
    random_devices,
    templated_devices,
)
from otahsm.templates import NAME as ATTRIBUTE_NAME
from otahsm.templates import Template

_SAMPLE: Final = 3


@dataclass(frozen=True, slots=True)
class Source:
    """Devices, and what identifies a run for them.

    Attributes:
        kind: of ids: "uuid4", "uuid5", "template" or "list".
        count: how many devices.
        devices: read and checked, or drawn as they are taken.
        digest: of the list, hexadecimal; empty if ids are drawn.
        shared: values that all devices share.
    """

    kind: str
    count: int
    devices: Iterable[Device]
    digest: str
    shared: Mapping[str, str]

    @property
    def drawn(self) -> bool:
        """Whether nobody else knows their ids."""
        return not self.digest

    @property
    def sample(self) -> Sequence[str]:
        """The first ids and the last one, as a person would check them."""
        if not isinstance(self.devices, DeviceList):
            return ["their ids are random UUIDs"]
        ids = [device.device_id for device in islice(self.devices, _SAMPLE)]
        return [*ids, self.devices.last.device_id] if self.count > len(ids) else ids

    @property
    def asked(self) -> Sequence[str]:
        """Words that identify the run."""
        if self.digest:
            return ["--ids", self.digest]
        return [
            "--count",
            str(self.count),
            *(f"--set={name}={value}" for name, value in sorted(self.shared.items())),
        ]


def devices_from(
    count: int | None,
    ids: Path | None,
    uuid5: str,
    template: str,
    first: int,
    values: Sequence[str] | None,
) -> Source:
    """Read the devices that the options name.

    Raises:
        ConfigError: a file, a template or a value is wrong.
        BadParameter: the options don't go together.
    """
    if (count is None) == (ids is None):
        raise typer.BadParameter("give either --count or --ids")
    if uuid5 and template:
        raise typer.BadParameter("give either --uuid5 or --template")
    if uuid5 and ids is None:
        raise typer.BadParameter("--uuid5 needs serial numbers: name their file with --ids")
    if first != 1 and not template:
        raise typer.BadParameter("--first is the first {seq} of a template: give it with --template")
    shared = read_values(values or ())
    if count is not None and not template:
        return Source("uuid4", count, random_devices(count, shared), "", shared)
    kind = "template" if template else "uuid5" if uuid5 else "list"
    devices = devices_of(IdScheme(kind, template or uuid5, first, values=shared), ids, count or 0)
    return Source(kind, len(devices), devices, devices.digest, shared)


def devices_of(scheme: IdScheme, ids: Path | None, count: int) -> DeviceList:
    """Return the devices of a scheme whose ids are not random.

    Args:
        scheme: where they come from.
        ids: the file of devices, if it has one.
        count: how many, without a file.

    Raises:
        ConfigError: a file, a template or a value is wrong.
    """
    if scheme.kind == "template":
        template = Template.parse(scheme.value, numbers=frozenset({SEQUENCE}))
        if ids is None:
            return numbered_devices(template, count, scheme.values, scheme.first)
        return templated_devices(ids, template, scheme.values, scheme.first)
    assert ids is not None  # noqa: S101 - the callers see to it
    if scheme.kind == "uuid5":
        return devices_of_serials(ids, parse_namespace(scheme.value), scheme.values)
    return listed_devices(ids, scheme.values)


def read_values(values: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE pairs.

    Raises:
        BadParameter: one is none, or a name comes twice.
    """
    read: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not ATTRIBUTE_NAME.fullmatch(name) or not value or name in read:
            raise typer.BadParameter(f"--set {text[:64]!r}: write NAME=VALUE, each name once")
        read[name] = value
    return read
