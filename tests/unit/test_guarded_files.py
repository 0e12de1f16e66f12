"""Files that are checked before a daemon or a client relies on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otahsm.cli.connect import connect
from otahsm.config import ClientConfig, files_of_daemon
from otahsm.config.loading import parse_config
from otahsm.errors import ConfigError
from otahsm.quickstart.certificates import FileCa
from otahsm.system.file_modes import check_file_modes


def daemon(folder: Path, uri: str, **access: Any) -> list[str]:
    """Return what is checked of the files of a configuration, and refused."""
    table = {
        "access": {"policy": "policy.toml", "client_crls": ["a.crl"], **access},
        "token": {"uri": f"pkcs11:token=x?module-path=/x.so&pin-source={uri}", "guard_dir": "guard"},
    }
    config = parse_config(table, base=folder, source="otahsm.toml")
    refused = []
    for file in files_of_daemon(config, folder / "otahsm.toml"):
        try:
            check_file_modes([file])
        except ConfigError as error:
            refused.append(error.message.removesuffix(f" {file.path}"))
    return refused


def test_the_memory_of_crls_is_the_daemons_wherever_it_is(tmp_path: Path) -> None:
    seen = tmp_path / "own/seen.json"
    (tmp_path / "guard").mkdir()
    for path in (seen, tmp_path / "guard/client-crls.json"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
        path.chmod(0o666)
    expected = ["other users can change [access] client_crls_seen"]
    assert daemon(tmp_path, "file:pin", client_crls_seen="own/seen.json") == expected
    assert daemon(tmp_path, "file:pin") == expected
    assert daemon(tmp_path, "file:pin", client_crls=[]) == []


def test_a_pin_command_that_others_can_change_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "get-pin"
    program.touch()
    program.chmod(0o777)
    for command in (f"{program}%20--of%20fleet", f"%22{program}%22%20x"):
        assert daemon(tmp_path, f"%7C{command}") == ["other users can change the PIN command"]
    assert daemon(tmp_path, "%7C/no/such/program") == []


@pytest.mark.parametrize("name", ["ca", "certificate", "key", "fleet_ca", "server_ca"])
async def test_a_client_uses_no_file_that_others_can_change(tmp_path: Path, name: str) -> None:
    operators = FileCa.create("operators")
    operators.write_certificate(tmp_path / "ca")
    operators.issue_client(tmp_path / "certificate", tmp_path / "key", "line")
    for copy in ("fleet_ca", "server_ca"):
        operators.write_certificate(tmp_path / copy)
    paths = {path.name: path for path in tmp_path.iterdir()}
    table = {**paths, "fleet_ca": (paths["fleet_ca"],), "target": "localhost:1", "devices": "devices"}
    settings = ClientConfig.model_validate(table, context={"base": tmp_path})
    async with connect(settings, 0):
        pass
    paths[name].chmod(paths[name].stat().st_mode | 0o002)
    with pytest.raises(ConfigError, match=rf"other users can change \[client\] {name}"):
        connect(settings, 0)
