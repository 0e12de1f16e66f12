"""A profile crosses the pipe to another process unchanged."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from otahsm.config.subject import parse_subject
from otahsm.pki.keytypes import KeyType
from otahsm.pki.profile import ExtendedKeyUsage, KeyUsage, Profile

windows = st.integers(0, 36525 * 86400).map(lambda seconds: timedelta(seconds=seconds))
profiles = st.builds(
    Profile,
    validity=windows,
    backdate=windows,
    renewal=windows,
    rekey=windows,
    key_types=st.frozensets(st.sampled_from(get_args(KeyType))),
    key_usage=st.frozensets(st.sampled_from(get_args(KeyUsage))),
    extended_key_usage=st.lists(st.sampled_from(get_args(ExtendedKeyUsage)), unique=True).map(tuple),
    csr_extras=st.sampled_from(["refuse", "ignore"]),
    subject=st.sampled_from([(), ("O=Ä{{}}",), ("O=Acme", "OU={plant}-{line}")]).map(parse_subject),
)


@given(profiles)
def test_a_profile_comes_back_as_it_was(profile: Profile) -> None:
    assert Profile.decode(profile.encode()) == profile


@given(profiles)
def test_equal_profiles_are_equal_octets(profile: Profile) -> None:
    again = Profile.decode(profile.encode())
    assert again.encode() == profile.encode()
