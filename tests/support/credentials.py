"""CAs of gateways, and archives of credentials with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from otahsm.errors import ConfigError
from otahsm.gateway.credentials import Credentials, read_credentials

from support.gateways import NOW, URL, authority, make_zip

ROOT = authority("gateway root")
INTERMEDIATE = ROOT.authority("gateway intermediate")
OTHER = authority("p12 root")
CLIENT = OTHER.server((), name="autoprov")
GOOD = {"autoprov.url": URL.encode(), "server_ca.pem": ROOT.pem}


def read(tmp_path: Path, entries: dict[str, bytes]) -> Credentials:
    return read_credentials(make_zip(tmp_path / "credentials.zip", entries), NOW)


def refused(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_credentials(path, NOW)
    assert caught.value.hint != ConfigError.default_hint
    assert "\n" not in caught.value.message
    return caught.value
