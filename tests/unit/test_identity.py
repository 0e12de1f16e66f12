"""Identities: printable and short, whatever a certificate says, and still one for each name."""

from __future__ import annotations

import pytest

from otahsm.access import MAX_IDENTITY, check_identity, identity_of

_KINDS = ("uri:", "dns:", "cn:", "spki:", "sha256:")
STRANGE = ("a\0b", "a\nb", "a\x1b[31mb", "\u202eb", "\ud800", "a" * 8000, "a" * 8001)


@pytest.mark.parametrize("name", ["line-3", "Straße 3", "a" * (MAX_IDENTITY - 3)])
def test_a_usual_name_is_its_own_identity(name: str) -> None:
    assert check_identity(identity_of("cn", name), _KINDS) == f"cn:{name}"


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_that_is_long_or_can_not_be_printed_is_known_by_its_digest(name: str) -> None:
    identity = identity_of("cn", name)
    assert identity.isprintable()
    assert len(identity) < 100
    assert identity != identity_of("uri", name)
    with pytest.raises(ValueError, match="must"):
        check_identity(identity, _KINDS)  # no policy can name it


def test_no_two_names_have_the_same_identity() -> None:
    names = [*STRANGE, *(identity_of("cn", name) for name in STRANGE)]
    assert len({identity_of("cn", name) for name in names}) == len(names)


def test_a_policy_is_told_that_a_name_is_too_long() -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_IDENTITY} characters, not 8003"):
        check_identity("cn:" + "a" * 8000, _KINDS)
