"""PKCS#11 URIs: the examples of RFC 7512, section 3, and what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otahsm.pkcs11_names import Pkcs11Uri

TEXT = st.none() | st.text(max_size=20)

SNAKE_OIL = (
    "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
    "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin"
)


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("pkcs11:", Pkcs11Uri()),
        ("PKCS11:object=my-pubkey;type=public", Pkcs11Uri(object="my-pubkey", type="public")),
        (
            "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
            Pkcs11Uri(object="my-key", type="private", pin_source="file:/etc/token"),
        ),
        (
            SNAKE_OIL,
            Pkcs11Uri(
                token="The Software PKCS#11 Softtoken",
                manufacturer="Snake Oil, Inc.",
                model="1.0",
                object="my-certificate",
                type="cert",
                id=bytes.fromhex("69953e5cf4bdec91"),
                serial="",
                pin_source="file:/etc/token_pin",
            ),
        ),
        (
            "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1&pin-source=|/usr/lib/pinomatic",
            Pkcs11Uri(
                object="my-sign-key",
                type="private",
                module_path="/mnt/libmypkcs11.so.1",
                pin_source="|/usr/lib/pinomatic",
            ),
        ),
        (
            "pkcs11:token=My%20token%25%20created%20by%20Joe;id=%01%02%03%Ba%dd%Ca%fe%04%05%06",
            Pkcs11Uri(token="My token% created by Joe", id=bytes.fromhex("010203baddcafe040506")),
        ),
        (
            "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
            Pkcs11Uri(token="A name with a substring %;", object="my-certificate", type="cert"),
        ),
        (
            "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1",
            Pkcs11Uri(token="Name with a small A with acute: \u00e1"),
        ),
    ],
)
def test_what_the_rfc_shows_is_understood(text: str, uri: Pkcs11Uri) -> None:
    assert Pkcs11Uri.parse(text) == uri
    assert Pkcs11Uri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must start with pkcs11:"),
        ("token=a", "must start with pkcs11:"),
        ("pkcs12:token=a", "must start with pkcs11:"),
        ("pkcs11:token=a b", "without spaces"),
        ("pkcs11:token=\u00e1", "must be ASCII"),
        ("pkcs11:token=a\n", "without spaces"),
        ("pkcs11:token", "no such attribute"),
        ("pkcs11:token=a;", "no such attribute"),
        ("pkcs11:token=a;;id=%01", "no such attribute"),
        ("pkcs11:token=a;token=b", "twice"),
        ("pkcs11:tok%65n=a", "no such attribute"),
        ("pkcs11:token=%", "hexadecimal"),
        ("pkcs11:token=%4", "hexadecimal"),
        ("pkcs11:id=%zz", "hexadecimal"),
        ("pkcs11:token=%ff", "not UTF-8"),
        ("pkcs11:type=key", "type must be one of"),
        ("pkcs11:module-path=/a", "no attribute 'module-path'"),
        ("pkcs11:?token=a", "no attribute 'token'"),
        ("pkcs11:?pin-source=file:a&pin-source=file:b", "twice"),
        ("pkcs11:slot-id=0", "change from start to start"),
        ("pkcs11:?pin-value=hunter2", "pin-value is refused"),
        ("pkcs11:?module-name=a", "module-path"),
        ("pkcs11:library-version=3", "no attribute 'library-version'"),
        ("pkcs11:token=my-token;vendor-aaa=value-a", "no attribute 'vendor-aaa'"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        Pkcs11Uri.parse(text)
    assert "hunter2" not in str(caught.value)


@given(
    st.builds(
        Pkcs11Uri, TEXT, TEXT, TEXT, TEXT, TEXT, st.none() | st.binary(max_size=20), st.none(), TEXT, TEXT
    )
)
def test_every_uri_that_is_written_is_read_again(uri: Pkcs11Uri) -> None:
    assert Pkcs11Uri.parse(str(uri)) == uri
    assert str(uri).isascii()
    assert str(uri).isprintable()


@given(st.text())
def test_nothing_that_is_read_raises_anything_else(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert Pkcs11Uri.parse(str(uri := Pkcs11Uri.parse(f"pkcs11:{text}"))) == uri
