"""`otahsm ledger`: what shows that nobody changed the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, PatienceOption

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The ledger: what was issued, and the proof that nobody changed it.",
)

KeysOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--key", help="A verifier key of the log; may be repeated. Default: [checkpoint] verifier_key."
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="The file to write. Default: standard output.")
]


@app.command()
def init_key(as_json: JsonOption = False, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Make the key pair that signs checkpoints, in the token, and write its public key to a file.

    Uses [token] and [checkpoint] of the configuration. Refuses if the key's label or id exists in the token,
    or the file of the public key exists.
    """
    from otahsm.cli.tables import tell
    from otahsm.config import load_config, section
    from otahsm.errors import ConfigError
    from otahsm.system.hardening import harden
    from otahsm.tlog import VerifierKey
    from otahsm.token.ceremony import create_checkpoint_key
    from otahsm.token.files import write_verifier_key

    harden()
    settings = load_config(config)
    token, checkpoint = section(settings.token, "token"), section(settings.checkpoint, "checkpoint")
    if checkpoint.verifier_key.exists():
        raise ConfigError(
            f"[checkpoint] verifier_key {checkpoint.verifier_key} exists; nothing was changed",
            hint="Move it away if the key is really to be a new one, and keep it: older checkpoints need it.",
        )
    made = create_checkpoint_key(token, checkpoint)
    vkey = VerifierKey.from_spki(checkpoint.origin, made.der).vkey
    write_verifier_key(checkpoint.verifier_key, vkey)
    tell(vkey, as_json=as_json, verifier_key=vkey, file=str(checkpoint.verifier_key))
    typer.echo(
        f"The key is {checkpoint.key} in {token.name}; the public key is {checkpoint.verifier_key}:"
        " give it to those who are to verify checkpoints.",
        err=True,
    )


@app.command()
def verify(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint that was kept elsewhere, the newest there is; may be repeated."),
    ] = None,
    key: KeysOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Compute the ledger's tree anew from its rows, and say which row was changed, removed or added.

    Reads the database named in [ledger] itself, also beside a running daemon. Exits with 1 if anything does
    not fit. Without a checkpoint from elsewhere, nothing tells that the end of the ledger was cut off.
    """
    from otahsm.cli.evidence import Counter, known_checkpoints, print_verdict, trusted_keys
    from otahsm.config import load_config, section
    from otahsm.errors import ExitCode
    from otahsm.ledger import snapshot
    from otahsm.ledger import verify as verify_ledger

    settings = load_config(config)
    keys = trusted_keys(key, settings.checkpoint)
    known = known_checkpoints(checkpoint or [], keys)
    with Counter("leaves") as counter, snapshot(section(settings.ledger, "ledger")) as connection:
        verdict = verify_ledger(connection, keys, known, counter.show)
    print_verdict(verdict, seconds=counter.seconds, signed=bool(keys), as_json=as_json)
    if not verdict.good:
        raise typer.Exit(ExitCode.SOME_FAILED)


@app.command()
def checkpoint(
    new: Annotated[
        bool, typer.Option("--new", help="Have everything signed that is recorded by now.")
    ] = False,
    output: OutputOption = None,
    patience: PatienceOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Fetch the daemon's last checkpoint, a signed note. Keep it where nobody who can write the ledger can.

    \b
    Example:
      otahsm ledger checkpoint --new --output 2026-11-24.note
    """  # noqa: D301 - click reads the character, not the escape
    import asyncio

    from otahsm.cli.connect import connect, load_client
    from otahsm.cli.evidence import write_evidence
    from otahsm.client import TransparencyClient

    async def fetch() -> bytes:
        async with connect(TransparencyClient, load_client(config), patience) as client:
            return await client.checkpoint(make_new=new)

    write_evidence(output, asyncio.run(fetch()))


@app.command()
def prove(
    serial: Annotated[str, typer.Argument(help="The certificate's serial number, in hexadecimal.")],
    output: OutputOption = None,
    patience: PatienceOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Fetch the proof that the ledger holds a certificate. `otahsm ledger check-proof` verifies it, offline.

    \b
    Example:
      otahsm ledger prove 019ab2f1c4 --output 17.tlog-proof
    """  # noqa: D301
    import asyncio

    from otahsm.cli.connect import connect, load_client
    from otahsm.cli.evidence import parse_serial, write_evidence
    from otahsm.client import TransparencyClient

    number = parse_serial(serial)

    async def fetch() -> bytes:
        async with connect(TransparencyClient, load_client(config), patience) as client:
            return await client.prove_inclusion(number)

    write_evidence(output, asyncio.run(fetch()))


@app.command()
def prove_consistency(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A checkpoint that was fetched before.")],
    output: OutputOption = None,
    patience: PatienceOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Fetch the proof that the ledger only grew since an older checkpoint. Verify it with `check-proof`."""
    import asyncio

    from otahsm.cli.connect import connect, load_client
    from otahsm.cli.evidence import read_evidence, write_evidence
    from otahsm.client import TransparencyClient
    from otahsm.tlog import Checkpoint, parse_note

    size = Checkpoint.parse(parse_note(read_evidence(old)).text).size

    async def fetch() -> bytes:
        async with connect(TransparencyClient, load_client(config), patience) as client:
            return await client.prove_consistency(size)

    write_evidence(output, asyncio.run(fetch()))


@app.command()
def check_proof(
    file: Annotated[Path, typer.Argument(help="What `prove` or `prove-consistency` wrote.")],
    key: Annotated[list[Path], typer.Option(help="The log's verifier key; may be repeated.")],
    certificate: Annotated[
        Path | None, typer.Option(help="The certificate that is to be proven, PEM or DER.")
    ] = None,
    since: Annotated[
        Path | None, typer.Option(help="The older checkpoint, for what `prove-consistency` wrote.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a proof, without daemon, ledger or network. Exits with 1 if it does not prove what it should.

    \b
    Examples:
      otahsm ledger check-proof 17.tlog-proof --key checkpoint.vkey --certificate client.pem
      otahsm ledger check-proof growth.proof --key checkpoint.vkey --since 2026-11-24.note
    """  # noqa: D301
    from otahsm.cli.evidence import check_consistency, check_inclusion, read_evidence, read_key
    from otahsm.tlog import ConsistencyProof, InclusionProof

    proof = read_evidence(file)
    keys = [read_key(path) for path in key]
    if proof.startswith(b"old "):
        if since is None or certificate is not None:
            raise typer.BadParameter("a consistency proof is checked with --since, and without --certificate")
        check_consistency(ConsistencyProof.parse(proof), keys, since, as_json=as_json)
        return
    if since is not None:
        raise typer.BadParameter("--since is for what `prove-consistency` wrote")
    check_inclusion(InclusionProof.parse(proof), keys, certificate, as_json=as_json)
