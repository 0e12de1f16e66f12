"""Creates the quickstart folder."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Final

import softhsm
from otahsm.config import load_config, section
from otahsm.errors import ConfigError, FolderError
from otahsm.ledger import create_mac_key
from otahsm.pkcs11_names import Pkcs11Uri
from otahsm.quickstart.certificates import FileCa
from otahsm.system.durable import create_file, make_folder
from otahsm.tlog import VerifierKey
from otahsm.token.ceremony import create_checkpoint_key, create_root, valid_for
from otahsm.token.configured import mandate_of
from otahsm.token.desk.beginning import begin
from otahsm.token.files import write_certificate, write_verifier_key

TOKEN_LABEL: Final = "otahsm-quickstart"  # noqa: S105 - a name, not a secret
_ROOT_DAYS: Final = 7300


def create(folder: Path, port: int) -> Path:
    """Create token, fleet root, checkpoint key, operator and gateway credentials, and otahsm.toml.

    Args:
        folder: must be empty or not exist.
        port: the daemon's port on 127.0.0.1.

    Returns:
        The path of otahsm.toml.

    Raises:
        ConfigError: the folder is not empty, or SoftHSM2 is missing.
        FolderError: the folder can't be written.
        OtahsmError: the token failed.
    """
    folder = folder.absolute()
    before = os.umask(0o022)  # the daemon refuses group-writable files
    os.umask(before | 0o022)
    try:
        return _create(folder, port)
    finally:
        os.umask(before)


def _create(folder: Path, port: int) -> Path:
    try:
        make_folder(folder)
        if any(folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty; nothing was changed", hint="Name a folder that doesn't exist yet."
            )
    except OSError as error:
        raise FolderError(f"can't use {folder}: {error.strerror}") from None
    try:
        return _fill(folder, port)
    except BaseException:
        for child in folder.iterdir():  # all of it is ours: the folder was empty
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        raise


def _fill(folder: Path, port: int) -> Path:
    try:
        token = softhsm.provision(folder / "token", TOKEN_LABEL)
    except softhsm.MissingSoftHsmError as error:
        raise ConfigError(str(error), hint="Install it and run the command again.") from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"SoftHSM2 can't make a token: {error.stderr.decode(errors='replace')}") from None
    (folder / "secrets").mkdir(mode=0o700)
    for name in ("tls", "gateway", "ca"):
        (folder / name).mkdir()
    _write_secret(folder / "secrets/pin", token.user_pin)
    _write_secret(folder / "secrets/so-pin", token.so_pin)
    operators = FileCa.create("otahsm quickstart operator CA")
    operators.write_certificate(folder / "tls/operator-ca.pem")
    operators.write_key(folder / "tls/operator-ca.key")
    operators.issue_server(folder / "tls/server.pem", folder / "tls/server.key", "otahsm")
    operators.issue_client(folder / "tls/client.pem", folder / "tls/client.key", "quickstart")
    gateway = FileCa.create("otahsm quickstart gateway CA")
    gateway.write_certificate(folder / "gateway/server_ca.pem")
    gateway.issue_server(folder / "gateway/server.pem", folder / "gateway/server.key", "gateway")
    path = folder / "otahsm.toml"
    text = resources.files(__package__).joinpath("otahsm.toml.in").read_text()
    for name, value in {
        "PORT": str(port),
        "TOKEN": str(
            Pkcs11Uri(token=token.label, module_path=str(token.module), pin_source="file:secrets/pin")
        ),
        "SOFTHSM2_CONF": token.environment["SOFTHSM2_CONF"],
        "ORIGIN": f"quickstart.example/{secrets.token_hex(8)}",  # unique to each log
    }.items():
        text = text.replace(f"@{name}@", value)
    path.write_text(text)
    policy = resources.files(__package__).joinpath("policy.toml.in").read_text()
    (folder / "policy.toml").write_text(policy)
    config = load_config(path)
    ca = section(config.ca, "ca")
    root = create_root(
        section(config.token, "token"),
        ca,
        key_type="ec-p256",
        common_name="otahsm quickstart fleet root",
        validity=valid_for(_ROOT_DAYS, datetime.now(UTC)),
        kind="root",
    )
    write_certificate(ca.certificate, root.der)
    checkpoint = section(config.checkpoint, "checkpoint")
    spki = create_checkpoint_key(section(config.token, "token"), checkpoint).der
    write_verifier_key(checkpoint.verifier_key, VerifierKey.from_spki(checkpoint.origin, spki).vkey)
    begin(mandate_of(config))
    create_mac_key(section(config.ledger, "ledger"))
    return path


def _write_secret(path: Path, secret: str) -> None:
    create_file(path, f"{secret}\n".encode(), 0o600)
