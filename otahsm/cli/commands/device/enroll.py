"""`otahsm device enroll`: a device whose key is made in its own secure element."""

from __future__ import annotations

import asyncio
import string
from pathlib import Path
from typing import Annotated, get_args

import typer

from otahsm.cli.connect import connect, load_client, open_folders
from otahsm.cli.inputs import choices_of
from otahsm.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    OutOption,
    PatienceOption,
    ProfileOption,
)
from otahsm.cli.output.failures import print_failure
from otahsm.cli.output.fields import print_json_line
from otahsm.client import IssuedCertificate, Refusal
from otahsm.errors import RequestRefusedError
from otahsm.pkcs11_names import KeyFlaw
from otahsm.pki.keytypes import KeyType
from otahsm.pki.names import check_device_id
from otahsm.token.element import ElementKey, KeySpec, SecureElement, element_opened, read_element_uri

_LOGINS = ".logins"  # beside the device folders; no device id starts with a dot


def enroll(
    device_id: Annotated[str, typer.Argument(help="The device id.")],
    uri: Annotated[
        str,
        typer.Option(
            "--pkcs11",
            help="The PKCS#11 URI of the device's token, with module-path and pin-source.",
        ),
    ],
    key_id: Annotated[str, typer.Option(help="The id (CKA_ID) of the key, two hexadecimal digits.")] = "02",
    certificate_id: Annotated[
        str, typer.Option(help="The id (CKA_ID) of the certificate, two hexadecimal digits.")
    ] = "01",
    label: Annotated[str, typer.Option(help="The label of new objects. Default: the device id.")] = "",
    key_type: Annotated[
        KeyType | None,
        typer.Option(
            help="The type of the key. Default: ec-p256 for a new key; an existing key may have any type."
        ),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(get_args(KeyFlaw)),
            help="Accept an existing key although the token reports this flaw. Repeatable.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a certificate of another device or another key.")
    ] = False,
    profile: ProfileOption = "",
    out: OutOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Make a device's key in its own token, get a certificate for it, and write that into the token.

    The private key is made in the token and can't leave it. An existing key is used. The device folder gets
    all files but the key. The default ids are those that aktualizr uses for its TLS key and certificate.

    Run the same command again to finish what an interrupted run left. A PIN that the token refuses is not
    tried again until you remove the note that the error names.

    Exit codes: 0 the device has its certificate, 1 it was refused, 2 wrong use or configuration, 3 can't
    reach the daemon or the token, 4 the token refuses, and an operator must act.

    \b
    Examples:
      otahsm device enroll sensor-17 \\
        --pkcs11 'pkcs11:token=sensor?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:pin'
      otahsm device enroll --key-type rsa-2048 gateway-4 \\
        --pkcs11 'pkcs11:serial=DENK0105461?module-path=/usr/lib/opensc-pkcs11.so&pin-source=prompt:'
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_client(config)
    try:
        check_device_id(device_id)  # the profile's own pattern is the daemon's to apply
    except RequestRefusedError as error:
        raise typer.BadParameter(error.message) from None
    spec = KeySpec(
        device_id,
        _octet(key_id, "--key-id"),
        _octet(certificate_id, "--certificate-id"),
        label or device_id,
        key_type,
        frozenset(choices_of(KeyFlaw, accept, "--accept")),
        replace=replace,
    )
    token = read_element_uri(uri, settings.devices / _LOGINS)

    async def run() -> bool:
        async with (
            connect(settings, patience) as client,
            open_folders(client.issuance, settings, out) as folders,
        ):
            with element_opened(token) as login:
                element = SecureElement(login, spec)
                key = element.find_or_make_key()
                csr = element.make_csr(key)
                result = await client.issuance.issue_one(csr, device_id=device_id, profile=profile)
                if isinstance(result, Refusal):
                    if result.lasting:
                        element.forget(key)
                    print_failure(device_id, result.error, as_json=as_json)
                    return False
                written = element.certificate.write(key.public_key, result.chain[0])
            anchors = {device_id: result.trust_anchor}
            folders.finish({device_id: result.chain}, {device_id: csr}, anchors)
            _report(result, element, key, folders.path(device_id), written=written, as_json=as_json)
            return True

    if not asyncio.run(run()):
        raise typer.Exit(1)


def _octet(text: str, option: str) -> bytes:
    """Read an id. aktualizr puts two digits after a percent sign, so for it an id is one octet."""
    if len(text) != 2 or not set(text) <= set(string.hexdigits):  # noqa: PLR2004 - digits of an octet
        raise typer.BadParameter(f"{option} takes two hexadecimal digits, as in 02")
    return bytes.fromhex(text)


def _report(
    result: IssuedCertificate,
    element: SecureElement,
    key: ElementKey,
    folder: Path,
    *,
    written: bool,
    as_json: bool,
) -> None:
    serial = result.serial.hex()
    if as_json:
        fields = {
            "type": "issued" if written else "complete",
            "device_id": result.device_id,
            "serial": serial,
            "replayed": result.replayed,
            "folder": str(folder),
            "token": str(element.token),
            "key_type": key.key_type,
            "key_made": key.made,
        }
        print_json_line(fields)
        return
    typer.echo(f"{result.device_id} has its certificate, {serial}, in {element.token}.")
    typer.echo(
        f"Key: {key.key_type}, {'new' if key.made else 'existing'}. Certificate:"
        f" {'written' if written else 'already there'}. Folder: {folder}."
    )
