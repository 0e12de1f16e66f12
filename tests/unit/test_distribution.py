"""Shards: chosen by the serial number, stated in the certificate, and read back from it."""

from __future__ import annotations

import string
from collections import Counter
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from otahsm.config import CrlConfig
from otahsm.pki.crls.distribution import CrlLocation, crl_distribution_points
from otahsm.pki.crls.reading import describe_crl
from otahsm.pki.parsing import crl_url_in
from otahsm.pki.serial import make_serial

from support.authority import crl, leaf
from support.examples import examples

URL = "http://crl.example.com/fleet-{shard}.crl"
SHARDED = CrlLocation(URL, 16)
hosts = st.lists(st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=20), min_size=1)
ports = st.just("") | st.integers(1, 65535).map(lambda port: f":{port}")
names = st.text(string.ascii_letters + string.digits + "._~-", min_size=1, max_size=20).filter(
    lambda name: name[0].isalnum()
)
urls = st.builds(
    lambda scheme, host, port, path: f"{scheme}://{'.'.join(host[:4])}{port}/{'/'.join(path)}",
    st.sampled_from(["http", "https"]),
    hosts,
    ports,
    st.lists(names, min_size=1, max_size=4),
).filter(lambda url: not url.lower().endswith(".pem"))  # which is refused: see test_config.py


@given(st.integers(1, 2**159 - 1), st.integers(1, 4096))
def test_a_serial_number_has_one_of_the_shards(serial: int, shards: int) -> None:
    assert 0 <= CrlLocation(URL, shards).shard_of(serial) < shards
    assert CrlLocation(URL).shard_of(serial) == 0


@given(st.binary(min_size=4, max_size=4), st.integers(1, 2**47 - 1), st.integers(1, 2**47 - 1))
def test_the_time_in_a_serial_number_does_not_move_it_to_another_shard(
    last: bytes, first: int, second: int
) -> None:
    shard_of = CrlLocation(URL, 7).shard_of
    assert shard_of(make_serial(b"\xa5" * 10 + last, first)) == shard_of(
        make_serial(b"\x5a" * 10 + last, second)
    )


@pytest.mark.parametrize("shards", [2, 7, 16, 1000, 4096])
def test_random_serial_numbers_fill_all_shards_alike(shards: int) -> None:
    # The multiples of an odd number run through the last 32 bits evenly, as random ones do on average.
    step, diagnostics = 2_654_435_769, 64
    location = CrlLocation(URL, shards)
    counts = Counter(location.shard_of(number * step) for number in range(shards * diagnostics))
    assert len(counts) == shards
    assert max(counts.values()) < 2 * diagnostics


def test_each_shard_has_its_own_url() -> None:
    made = SHARDED.urls
    assert made[3] == "http://crl.example.com/fleet-3.crl"
    assert len(set(made)) == 16
    plain = CrlConfig(url="http://crl.example.com/fleet.crl", directory=Path("crl"))
    assert plain.location.urls == [plain.url]


@settings(max_examples=examples(300), deadline=None)
@given(urls)
def test_any_url_that_may_be_configured_is_the_same_in_certificate_and_crl(url: str) -> None:
    # Verifiers compare them octet by octet, and devices fetch what is written there.
    CrlConfig(url=url, directory=Path("crl"))
    certificate = leaf("device", "ed25519", ca="ed25519", crl_url=url)
    assert crl_url_in(certificate) == url
    assert url.encode() in certificate
    shard = crl(ca="ed25519", url=url)
    assert describe_crl(shard).distribution_point == url
    assert url.encode() in shard


def test_a_certificate_states_one_distribution_point_that_is_not_critical() -> None:
    url = "http://crl.example.com/fleet.crl"
    certificate = x509.load_der_x509_certificate(leaf("device", "ec-p256", crl_url=url))
    *_, last = certificate.extensions
    assert not last.critical
    assert last.value == x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)]
    )


def test_a_certificate_without_a_url_states_none() -> None:
    assert crl_url_in(leaf("device", "ec-p256")) is None


def test_several_urls_are_places_of_one_crl() -> None:
    places = ["http://a.example.com/fleet.crl", "http://b.example.com/fleet.crl"]
    encoded = crl_distribution_points(places).dump()
    ((name, reasons, issuer),) = (
        (point["distribution_point"], point["reasons"], point["crl_issuer"])
        for point in crl_distribution_points(places).load(encoded)
    )
    assert [place.native for place in name.chosen] == places
    assert (reasons.native, issuer.native) == (None, None)


@pytest.mark.parametrize("der", [b"", b"text", leaf("device", "ec-p256")[:-1]])
def test_what_is_no_certificate_states_nothing(der: bytes) -> None:
    with pytest.raises(ValueError, match="can't read"):
        crl_url_in(der)
