"""What is issued under each profile crosses the pipe to a preparer unchanged."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from otahsm.config.subject import parse_subject
from otahsm.pki.chain import load_issuer
from otahsm.pki.crls.distribution import CrlLocation
from otahsm.pki.keytypes import KeyType
from otahsm.pki.profile import ExtendedKeyUsage, KeyUsage, Profile
from otahsm.preparation.terms import Terms, decode_terms, encode_terms

from support.authority import issuer_of

ISSUERS = [issuer_of("ec-p256"), issuer_of("rsa-2048"), issuer_of("ed25519")]

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
terms = st.builds(
    Terms,
    profiles,
    st.sampled_from(ISSUERS),
    st.none() | st.builds(CrlLocation, st.text(), st.integers(1, 4096)),
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), terms, max_size=3))
def test_terms_come_back_as_they_were(of_profiles: dict[str, Terms]) -> None:
    assert decode_terms(encode_terms(of_profiles)) == of_profiles


def test_an_issuer_that_signs_with_pss_still_does() -> None:
    issuer = load_issuer(issuer_of("rsa-2048").certificate, pss=True)
    assert issuer != issuer_of("rsa-2048")
    assert decode_terms(encode_terms({"": Terms(Profile(), issuer, None)}))[""].issuer == issuer
