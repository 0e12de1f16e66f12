"""The manual page, as groff sees it. That it is what the commands say is checked with the reference."""

from __future__ import annotations

import re
from pathlib import Path

from support.programs import run

PAGE = Path(__file__).resolve().parents[2] / "docs/man/otahsm.1"
SECTIONS = ("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO")


def test_groff_has_nothing_to_say_against_the_manual_page() -> None:
    verdict = run("groff", "-man", "-ww", "-z", PAGE)
    assert (verdict.status, verdict.text) == (0, "")


def test_a_reader_finds_every_section_and_can_copy_what_is_to_be_typed() -> None:
    shown = run("groff", "-man", "-Tascii", "-P-c", "-P-b", "-P-u", PAGE).text
    assert tuple(re.findall(r"^[A-Z]{3}[A-Z ]*$", shown, re.MULTILINE)) == SECTIONS
    for typed in ("otahsm device enroll", "--key-type", "'pkcs11:token=sensor?module-path=/usr/lib/"):
        assert typed in shown, typed
    assert "\\" not in re.sub(r"\\$", "", shown, flags=re.MULTILINE)  # but where a line is continued
