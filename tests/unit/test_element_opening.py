"""The URI of a device's token, as it is typed at the line, and what its errors mean there."""

from __future__ import annotations

from pathlib import Path

import pkcs11
import pytest
from pkcs11 import exceptions

from otahsm.errors import ConfigError, PinRefusedError, TokenRefusedError, TokenUnavailableError
from otahsm.token.element.opening import explain_element, read_element_uri

LOGINS = Path("logins")


def test_a_uri_says_where_token_module_and_pin_are(tmp_path: Path) -> None:
    module = tmp_path / "module.so"
    module.touch()
    config = read_element_uri(f"pkcs11:serial=1?module-path={module}&pin-source=file:{tmp_path}/pin", LOGINS)
    assert (config.uri.module, config.uri.pin.value) == (module, f"{tmp_path}/pin")
    assert config.guard_dir == LOGINS


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("token=a", "must start with pkcs11:"),
        ("pkcs11:token=a?module-path=/nowhere.so&pin-source=file:pin", "/nowhere.so does not exist"),
        ("pkcs11:token=a?pin-value=123456", "pin-value is refused"),
        ("pkcs11:token=a?module-path=/a.so&pin-source=123456", "pin-source must be"),
        ("pkcs11:token=a?module-path=/a.so", "must end with ?module-path"),
        ("pkcs11:?module-path=/a.so&pin-source=file:pin", "must name the token"),
        ("pkcs11:token=a;id=%02?module-path=/a.so&pin-source=file:pin", "names an object"),
    ],
)
def test_what_is_wrong_with_a_uri_is_said_and_no_pin_is_quoted(uri: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_element_uri(uri, LOGINS)
    assert said in raised.value.message
    assert "123456" not in f"{raised.value.message} {raised.value.hint}"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (exceptions.DeviceMemory(), TokenRefusedError, "is full"),
        (exceptions.TokenWriteProtected(), TokenRefusedError, "is write-protected"),
        (exceptions.SessionReadOnly(), TokenRefusedError, "is write-protected"),
        (exceptions.DeviceRemoved(), TokenUnavailableError, "was removed"),
        (exceptions.GeneralError(), TokenUnavailableError, "GeneralError"),
        (exceptions.PinIncorrect(), PinRefusedError, "PinIncorrect"),
    ],
)
def test_an_error_of_the_tokens_says_what_is_the_matter(
    error: pkcs11.PKCS11Error, kind: type[Exception], said: str
) -> None:
    explained = explain_element(error, "being tested")
    assert type(explained) is kind
    assert said in explained.message
    assert "while being tested" in explained.message
    assert "daemon" not in explained.hint
