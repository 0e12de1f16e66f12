#!/usr/bin/env python3
"""Writes the software bill of materials of a server, `otahsm[server,postgres,ssh]`, as CycloneDX.

Run it as `make sbom`. Names, licences and who needs whom are what the installed packages say of themselves;
versions and hashes are those of requirements.lock. Two runs write the same bytes: there is no serial number,
and the time is SOURCE_DATE_EPOCH, or none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any, Final

from cyclonedx.contrib.hash.factories import HashTypeFactory
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import fixup_id, is_expression
from packageurl import PackageURL
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from locked import Pin, read_lock

ROOT: Final = Path(__file__).resolve().parents[1]
PROJECT: Final = canonicalize_name("otahsm")
EXTRAS: Final = frozenset({"postgres", "server", "ssh"})
# What markers ask for, and what another server may have otherwise.
SYSTEM: Final = ("implementation_name", "platform_machine", "python_version", "sys_platform")
# What packages from before SPDX call their licence.
SPDX: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
}


# What packages say too little of, read from the licence that they bring.
CONCLUDED: Final = {"google-re2": "BSD-3-Clause"}


def graph_of(name: str, extras: Iterable[str]) -> dict[NormalizedName, set[NormalizedName]]:
    """Find what a package with extras needs on this system, directly or not.

    Returns:
        Each package, the first one included, with those that it needs directly.
    """
    graph: dict[NormalizedName, set[NormalizedName]] = {}
    seen: set[tuple[NormalizedName, str]] = set()
    # "" is the package itself, without an extra.
    waiting = [(canonicalize_name(name), extra) for extra in ("", *extras)]
    while waiting:
        package, extra = waiting.pop()
        if (package, extra) in seen:
            continue
        seen.add((package, extra))
        needs = graph.setdefault(package, set())
        for requirement in map(Requirement, distribution(package).requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                needs.add(needed)
                waiting += [(needed, other) for other in ("", *requirement.extras)]
    return graph


def licence_of(package: Distribution) -> License | None:
    """Return the licence that a package declares: its SPDX name if found, else the package's name for it."""
    if concluded := CONCLUDED.get(canonicalize_name(package.name)):
        return LicenseFactory().make_from_string(
            concluded, license_acknowledgement=LicenseAcknowledgement.CONCLUDED
        )
    declared = list(_declared(package))
    named = [SPDX.get(text, text) for text in declared]
    known = next((text for text in named if fixup_id(text) or is_expression(text)), None)
    if not declared:
        return None
    return LicenseFactory().make_from_string(
        known or named[0], license_acknowledgement=LicenseAcknowledgement.DECLARED
    )


def _declared(package: Distribution) -> Iterator[str]:
    for field in ("License-Expression", "License"):
        # Older packages have the whole text there.
        yield from (text for text in package.metadata.get_all(field, []) if "\n" not in text)
    for classifier in package.metadata.get_all("Classifier", []):
        kind, _, rest = classifier.partition(" :: ")
        if kind == "License":
            yield rest.rpartition(" :: ")[2]


def component_of(package: Distribution, pin: Pin | None) -> Component:
    """Describe a package; that without a pin is the one that all others are for."""
    name, version = canonicalize_name(package.name), package.version
    purl = PackageURL("pypi", name=name, version=version)
    licence = licence_of(package)
    component = Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY if pin else ComponentType.APPLICATION,
        bom_ref=str(purl),
        purl=purl,
        description=next(iter(package.metadata.get_all("Summary", [])), None),
        licenses=[licence] if licence else [],
    )
    if pin:
        # A wheel for each system: they are one package, and which file it was, only the server knows.
        component.external_references.add(
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(f"https://pypi.org/project/{name}/{version}/"),
                comment="the files that requirements.lock accepts",
                hashes=[HashTypeFactory().from_composite_str(one) for one in pin.hashes],
            )
        )
    return component


def bom_of(
    graph: Mapping[NormalizedName, Iterable[NormalizedName]], pins: Mapping[NormalizedName, Pin]
) -> Bom:
    """Describe all packages of a graph.

    Raises:
        ValueError: one is not installed as it is locked.
    """
    components = {}
    for name in graph:
        package, pin = distribution(name), pins.get(name)
        if name != PROJECT and (pin is None or pin.version != package.version):
            raise ValueError(f"{name} {package.version} is installed, but not locked: run make")
        components[name] = component_of(package, None if name == PROJECT else pin)
    bom = Bom(components=[one for name, one in components.items() if name != PROJECT])
    bom.metadata.component = components[PROJECT]
    bom.metadata.tools.components.add(this_component())
    system: Mapping[str, Any] = dict(default_environment())
    bom.metadata.properties.update(Property(name=f"otahsm:{key}", value=system[key]) for key in SYSTEM)
    for name, needs in graph.items():
        bom.register_dependency(components[name], [components[needed] for needed in needs])
    return bom


def written(bom: Bom, epoch: str | None) -> str:
    """Write it without what is different each time; the time is that of SOURCE_DATE_EPOCH, in seconds."""
    if epoch:
        bom.metadata.timestamp = datetime.fromtimestamp(int(epoch), UTC)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["serialNumber"]
    if not epoch:
        del document["metadata"]["timestamp"]
    return json.dumps(document, indent=2) + "\n"


def main() -> int:
    """Write it."""
    version = distribution(PROJECT).version
    parser = argparse.ArgumentParser(description="Write what a server installs, as CycloneDX.")
    parser.add_argument("--out", type=Path, default=ROOT / f"dist/{PROJECT}-{version}.cdx.json")
    out: Path = parser.parse_args().out
    pins = {pin.name: pin for pin in read_lock(ROOT / "requirements.lock") if pin.here}
    bom = bom_of(graph_of(PROJECT, EXTRAS), pins)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(written(bom, os.environ.get("SOURCE_DATE_EPOCH")))
    sys.stdout.write(f"{out}: {len(bom.components)} packages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
