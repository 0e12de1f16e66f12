"""`otahsm ca`: keys and certificates that are exchanged with other parties."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from asn1crypto import pem

from otahsm.cli.commands.ca.options import (
    AnswersOption,
    CaOption,
    KeyTypeOption,
    OperatorsOption,
    RecordOption,
    token_and_authority,
)
from otahsm.cli.commands.ca.record import certificate_fields, fingerprint, write_record
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, NewFileOption
from otahsm.cli.output.fields import print_descriptions
from otahsm.cli.output.files import write_output
from otahsm.cli.settings import load_config
from otahsm.config import ca_section
from otahsm.errors import ConfigError
from otahsm.pki.bundle import find_chain_problems, order_bundle
from otahsm.pki.chain import load_chain
from otahsm.pki.descriptions import describe
from otahsm.pki.keytypes import is_pss
from otahsm.system.files import read_file
from otahsm.token.ceremony import MAX_NAME, check_key, create_request
from otahsm.token.ceremony import prove_possession as prove
from otahsm.token.files import read_chain


def csr(
    name: Annotated[str, typer.Option(help="The CA's common name, 1 to 64 characters.")],
    output: NewFileOption,
    organization: Annotated[
        str, typer.Option(help="The organization in the CA's name, at most 64 characters.")
    ] = "",
    key_type: KeyTypeOption = "ec-p256",
    reuse_key: Annotated[
        bool, typer.Option("--reuse-key", help="Use the existing key that [ca] key names.")
    ] = False,
    ca_name: CaOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    operators: OperatorsOption = None,
    record: RecordOption = None,
    _answers: AnswersOption = None,
) -> None:
    """Make the CA key pair in the token, and a CSR for an offline or external CA to sign.

    Import the signed certificate, and all those above it, with `otahsm ca import`.

    Example: otahsm ca csr --name "Fleet CA 1" --organization "Acme" -o fleet-ca.csr
    """
    if not 1 <= len(name) <= MAX_NAME or len(organization) > MAX_NAME:
        raise typer.BadParameter(f"--name takes 1 to {MAX_NAME} characters, --organization at most as many")
    token, ca = token_and_authority(load_config(config), ca_name)
    made = create_request(
        token,
        ca,
        key_type=None if reuse_key else key_type,
        common_name=name,
        organization=organization,
    )
    write_output(output, pem.armor("CERTIFICATE REQUEST", made.der))
    typer.echo(f"The key is {ca.key} in {token.name}.")
    fields = {"CSR for": f"CN={name}", "CSR, SHA-256": fingerprint(made.der)}
    write_record("ca csr", token, ca, made.facts, fields, record, operators)


def import_certificates(
    files: Annotated[list[Path], typer.Argument(help="PEM files: the CA's certificate and all above it.")],
    ca_name: CaOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    operators: OperatorsOption = None,
    record: RecordOption = None,
    _answers: AnswersOption = None,
) -> None:
    """Check the certificates from an external CA, and write them to the file that [ca] certificate names.

    They may be in any order, and must reach up to the self-signed root. The key in the token makes a
    signature, which must verify with the CA's certificate. If anything is wrong, nothing is written.
    """
    token, ca = token_and_authority(load_config(config), ca_name)
    bundle = order_bundle({str(path): read_file(path) for path in files})
    chain = load_chain(bundle, pss=is_pss(ca.mechanism))
    if problems := find_chain_problems(chain, datetime.now(UTC)):
        raise ConfigError(
            f"devices can't be issued under this chain: {'; '.join(problems)}",
            hint="Have the certificate reissued. Nothing was written.",
        )
    facts = check_key(token, ca, chain.issuer.public_key)
    ca.certificate.parent.mkdir(parents=True, exist_ok=True)
    write_output(ca.certificate, bundle)
    print_descriptions(describe(bundle), as_json=False)
    fields = {
        **certificate_fields(chain.issuer.subject_text, chain.issuer.certificate),
        "trust anchor, SHA-256": fingerprint(chain.trust_anchor),
    }
    write_record("ca import", token, ca, facts, fields, record, operators)


def prove_possession(
    code: Annotated[str, typer.Argument(help="The code from the cloud, 1 to 64 characters.")],
    output: NewFileOption,
    ca_name: CaOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    operators: OperatorsOption = None,
    record: RecordOption = None,
    _answers: AnswersOption = None,
) -> None:
    """Make the certificate that proves to a cloud that the CA is yours: its common name is the cloud's code.

    AWS IoT calls the code a registration code, Azure DPS a verification code. The certificate belongs to no
    device and is not in the ledger; the ceremony's record says that it was made.
    """
    if not 1 <= len(code) <= MAX_NAME or not code.isascii() or not code.isprintable():
        raise typer.BadParameter(f"the code is 1 to {MAX_NAME} printable ASCII characters")
    token, ca = token_and_authority(load_config(config), ca_name)
    issuer = read_chain(ca, ca_section(ca_name)).issuer
    made = prove(token, ca, issuer, code, datetime.now(UTC))
    write_output(output, pem.armor("CERTIFICATE", made.der))
    typer.echo("Give it to the cloud together with `otahsm ca export certificate`.")
    fields = certificate_fields(f"CN={code}", made.der)
    write_record("ca prove-possession", token, ca, made.facts, fields, record, operators)
