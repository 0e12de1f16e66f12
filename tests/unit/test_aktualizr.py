"""aktualizr's configuration: what its own examples say, in a form that its INI parser and TOML read alike."""

from __future__ import annotations

import configparser
import tomllib

import pytest

from otahsm.errors import ConfigError
from otahsm.install.aktualizr import TokenKeys, sota_toml


def read(text: str) -> dict[str, dict[str, str]]:
    """Read it as TOML, and as aktualizr does: as INI, with the quotes stripped."""
    ini = configparser.ConfigParser(interpolation=None)
    ini.optionxform = str  # type: ignore[assignment,method-assign]
    ini.read_string(text)
    stripped = {name: {key: value.strip('"') for key, value in ini[name].items()} for name in ini.sections()}
    assert tomllib.loads(text) == stripped
    return stripped


def test_keys_in_files_are_named_as_in_aktualizrs_own_example() -> None:
    assert read(sota_toml("imx8")) == {
        "tls": {
            "server_url_path": "/var/sota/import/gateway.url",
            "ca_source": "file",
            "cert_source": "file",
            "pkey_source": "file",
        },
        "import": {
            "base_path": "/var/sota/import",
            "tls_cacert_path": "root.crt",
            "tls_clientcert_path": "client.pem",
            "tls_pkey_path": "pkey.pem",
        },
        "storage": {"type": "sqlite", "path": "/var/sota/"},
        "provision": {"primary_ecu_hardware_id": "imx8"},
    }


def test_keys_in_a_token_are_named_as_in_aktualizrs_own_example() -> None:
    read_back = read(sota_toml(token=TokenKeys("/usr/lib/softhsm/libsofthsm2.so", "1234")))
    assert read_back["p11"] == {
        "module": "/usr/lib/softhsm/libsofthsm2.so",
        "pass": "1234",
        "uptane_key_id": "03",
        "tls_clientcert_id": "01",
        "tls_pkey_id": "02",
    }
    assert read_back["uptane"] == {"key_source": "pkcs11"}
    assert read_back["tls"]["pkey_source"] == read_back["tls"]["cert_source"] == "pkcs11"
    assert read_back["import"] == {"base_path": "/var/sota/import", "tls_cacert_path": "root.crt"}
    assert "provision" not in read_back


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "a\0b", "\u202e"])
def test_what_aktualizr_could_not_read_is_refused_by_its_key(value: str) -> None:
    with pytest.raises(ConfigError, match=r"can't write .*primary_ecu_hardware_id"):
        sota_toml(value)
    with pytest.raises(ConfigError, match=r"can't write .*pass") as refused:
        sota_toml(token=TokenKeys("/x", value))
    assert value not in refused.value.message
