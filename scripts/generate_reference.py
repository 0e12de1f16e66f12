#!/usr/bin/env python3
"""Writes docs/reference and docs/man from the code, so that they can't say anything else.

Run it with the project's interpreter: .venv/bin/python scripts/generate_reference.py [--check]. With --check
it writes nothing, and exits with 1 if a committed file is not what it would write.
"""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import annotated_types
import google.rpc
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo
from typer.models import ArgumentInfo, OptionInfo

from otahsm import access, config, errors
from otahsm.cli.commands import COMMANDS, HELP
from otahsm.cli.lazy import every_command
from otahsm.daemon.edge import METHODS, SERVICES, Method
from otahsm.pkcs11_names import Pkcs11Uri

from man_page import Command, man_page

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "docs"
TEMPLATE: Final = ROOT / "otahsm/quickstart/otahsm.toml.in"
COMMAND: Final = ".venv/bin/python scripts/generate_reference.py"

MECHANISM: Final = (
    "The PKCS#11 mechanism that the key signs with. Default: the first mechanism for the key type that the"
    " token supports; those that sign a digest come first. An RSA key signs with PSS only if a PSS mechanism"
    " is named."
)
ACCEPT: Final = (
    "Insecure key attributes to accept, as the token reports them: `extractable` (CKA_EXTRACTABLE is true),"
    " `not-sensitive` (CKA_SENSITIVE is false), `not-local` (CKA_LOCAL is false: it was not generated in the"
    " token)."
)

# Descriptions of keys that have no comment of their own in the template.
WORDS: Final = {
    "tls.key": "The private key of `certificate`, in PEM, not encrypted.",
    "token.weight": "The token's share of the work if there are replicas. 0: it signs only if no other token"
    " can.",
    "token.journal_dir": "Where signers keep a journal of what they sign, and the last CRLs and checkpoint."
    " Default: the folder `signed` in `guard_dir`. They sign nothing that they can't write there: a million"
    " certificates need 118 MB.",
    "token.signer_socket": "A socket where systemd starts a signer under another user for each connection"
    " (deploy/otahsm-signer.socket), so that the daemon's user can read neither PIN nor token. Default: the"
    " daemon starts its signers itself.",
    "issuance.preparer_socket": "A socket where systemd starts a preparer under a user of its own for each"
    " connection (deploy/otahsm-preparer.socket), who can reach no file, no network and no other process."
    " Default: the daemon starts its preparers itself.",
    "token.replica": "More tokens with the same keys (`[[token.replica]]`), each with the settings above. If"
    " one fails, another takes over.",
    "authorities.NAME.certificate": "As in `[ca]`.",
    "authorities.NAME.key": "As in `[ca]`.",
    "authorities.NAME.mechanism": "As in `[ca]`.",
    "authorities.NAME.accept": "As in `[ca]`.",
    "authorities.NAME.retired": "If true, the CA signs nothing any more, and its key may be destroyed"
    " (`otahsm ca retire`). The ledger keeps its certificates.",
    "authorities.NAME.crl": "A table like `[crl]`, with a `url` and a `directory` of its own.",
    "ca.mechanism": MECHANISM,
    "ca.accept": ACCEPT,
    "checkpoint.mechanism": MECHANISM,
    "checkpoint.accept": ACCEPT,
    "access.client_crls": "CRLs of the CAs in `tls.client_ca`, in PEM (several in a file) or DER. Clients on"
    " them are denied. Reloaded when they change.",
    "access.client_crls_seen": "The file where the daemon remembers the last of those CRLs, so that it takes"
    " no older one. Default: `client-crls.json` beside the ledger or, with PostgreSQL, in `guard_dir`."
    " Required with `client_crls`, PostgreSQL and `signer_socket`.",
    "ledger.path": "The SQLite file. Set this or `url`.",
    "ledger.url": "`postgresql://user@host/database`, with hosts and parameters as in libpq.",
    "ledger.password_file": "A file whose first line is the password for `url`. Default: libpq's own lookup.",
    "profiles.NAME.validity_days": "How long a certificate is valid. It never outlives the CA certificate.",
    "profiles.NAME.renewal_days": "From this many days before its certificate expires, a device can get a new"
    " one for the same key; the old one is superseded. 0: never.",
    "profiles.NAME.rekey_days": "The same for another key. 0: only after `otahsm device reset`.",
    "profiles.NAME.key_types": "The key types that a CSR may have.",
    "profiles.NAME.key_usage": "The keyUsage extension, which is critical.",
    "profiles.NAME.extended_key_usage": "The extendedKeyUsage extension, which is critical.",
    "crl.url": "The URL of the CRL, which every certificate contains (cRLDistributionPoints). With several"
    " shards, its last part contains `{shard}`. Certificates already issued keep their URL.",
    "crl.shards": "The number of CRLs that revocations are divided among, by serial number. OpenSSL and nginx"
    " support shards, GnuTLS does not.",
    "crl.validity_hours": "The time from making a CRL to its nextUpdate. Verifiers that have no newer CRL by"
    " then refuse all devices.",
    "crl.refresh_hours": "How often a new CRL is made. It must be less than `validity_hours`.",
    "crl.directory": "The folder that CRLs are written to, for a web server: in DER, named as in `url`; and"
    " the complete one as `complete.crl` and, for nginx, `complete.pem`.",
    "client.ca": "The CA that issued the daemon's TLS certificate, in PEM.",
    "client.certificate": "This client's certificate (and chain), from the CA in `tls.client_ca`, in PEM.",
    "client.key": "The private key of `certificate`, in PEM, not encrypted.",
    "client.gateway_url": "The OTA gateway's address, written to each device's folder as `gateway.url`.",
    "client.credentials": "An OTA account's `credentials.zip`, instead of `gateway_url` and `server_ca`.",
    "registration.kind": "The backend's API.",
    "registration.url": "The backend's URL. A webhook's path may contain `{device_id}` and `{serial}`.",
    "registration.method": "The HTTP method. Default: PUT; for a webhook, POST.",
    "registration.headers": "HTTP headers: strings, or secrets as tables with `file`, `env` or `command`, and"
    " `prefix`.",
    "registration.body": "The JSON to send instead of the kind's own; its strings are templates.",
    "registration.group": "The Foundries group that devices are put into.",
    "registration.ca": "The CA of the backend's certificate, in PEM. Default: the system's CAs.",
    "registration.timeout_seconds": "The timeout of one request.",
    "registration.parallel": "The number of concurrent requests.",
    "client.fleet_ca": "The fleet's root certificate in PEM, or a list: during a rotation, both."
    " What is issued must lead to one of them. Without it, to one that the daemon named when the run began.",
    "client.server_ca": "The CA of the gateway's certificate, written to each device's folder as `root.crt`.",
}
POLICY: Final = {
    "identities": 'The certificate identities of this client: `"uri:..."`, `"dns:..."`, `"cn:..."`, or'
    ' `"spki:"` and the SHA-256 of the public key (SubjectPublicKeyInfo, in DER) in hexadecimal. A URI may'
    " end in `/*` to match all URIs below it.",
    "roles": "What the client may do. `issuer`: issue certificates, and see its own. `auditor`: see"
    " everything. `operator`: revoke certificates, reset devices, create batches, deny clients. `admin`: deny"
    " any client, allow clients again, and reset quotas.",
    "profiles": 'The profiles of an issuer, by name; `["*"]` for all. An issuer needs at least one.',
    "device_ids": "The device ids that an issuer may request: the pattern must match the whole id.",
    "batches": "An issuer may issue only in these batches: the pattern must match the whole name.",
    "times": 'When the client has access, in UTC: `"Mon-Fri 06:00-22:00"`, `"Sat 08:00-24:00"`. Several add'
    " up.",
    "until": "When the client's access expires. A time with a zone.",
    "per_second": "Certificates per second, in bursts of at most one second's worth.",
    "per_day": "Certificates per UTC day.",
    "total": "Certificates in total, ever.",
    "formerly": "Names that the client had in the policy before. What the ledger has under them is its own:"
    " certificates, batches, quotas. No two clients may have had the same name.",
    "acts_per_day": "How much of each kind an operator or admin may do in 24 hours without another:"
    " certificates revoked, devices reset, clients denied, batches created, batches closed. What exceeds it"
    " is held until a second client confirms it (`otahsm approve`). With 0, each takes two.",
}
NAMES: Final = {
    "_regular_expression": "regular expression (RE2)",
    "_listen_address": "string, `host:port`",
    "_one_or_more": "string, `host:port`, or list of them",
    "_crl_url": "string, `http` or `https` URL",
}


def header(title: str, source: str) -> list[str]:
    """Return the first lines of a page."""
    note = f"<!-- Generated from {source} by {COMMAND}. Do not edit. -->"
    return [note, "", f"# {title}", ""]


def table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Write a Markdown table."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines] + [""]


def configuration() -> list[str]:
    """Describe otahsm.toml: the models, and the comments of the file that quickstart writes."""
    comments = dict(template_comments())
    page = header("otahsm.toml", "otahsm/config and otahsm/quickstart/otahsm.toml.in")
    page += [
        "`otahsm quickstart DIR` writes a complete file. A key that is not on this page is an error, and so",
        "is a value of the wrong type. Relative paths are relative to the file's folder. A machine needs",
        "only the sections for what it does: `otahsm serve` needs `[tls]`, `[token]`, `[ca]` and `[ledger]`;",
        "`otahsm ca` needs `[token]` and `[ca]`; `otahsm device`, `csr`, `revoke`, `crl` and `health` need",
        "`[client]`, and so does most of `ledger`; `reconcile`, `backup` and `restore` need `[ledger]`.",
        "",
    ]
    for name, field in config.Config.model_fields.items():
        model = section_model(field)
        section = f"{name}.NAME" if name in {"profiles", "authorities"} else name
        rows = []
        for key, value in model.model_fields.items():
            path = f"{section}.{key}"
            what = WORDS.get(path) or comments.get(path)
            if what is None:
                raise SystemExit(f"{path} has no comment in {TEMPLATE.name} and no words in this script")
            rows.append((f"`{key}`", type_text(value), default_text(value), what))
        text = summary(model.__doc__).removeprefix(f"[{section}]: ")
        page += [f"## [{section}]", "", text[0].upper() + text[1:], ""]
        page += table(("key", "type", "default", "what it is"), rows)
    return page


def policy() -> list[str]:
    """Describe policy.toml: its model, and the table of calls."""
    page = header("policy.toml", "otahsm/config/policy.py and otahsm/access/calls.py")
    page += [
        "The access policy: which client may do what. Everything else is refused. `[access] policy` names",
        "the file. The daemon reads it at start and on SIGHUP; if the new policy is invalid, the previous",
        "one stays in force. `otahsm policy check` checks the file as the daemon does, `otahsm policy",
        "explain` explains what a client may do.",
        "",
        "`acts_per_day` at the top, before the clients, is like that of a client, for all clients together:",
        f"an integer, by default {access.FLEET_ACTS_PER_DAY}.",
        "",
        "## [clients.NAME]",
        "",
        "One client, whatever certificates it has. Certificates, batches and quotas are those of its name.",
        "If you rename it, add the previous name to `formerly`.",
        "",
    ]
    fields = config.ClientPolicy.model_fields.items()
    rows = [(f"`{key}`", type_text(value), default_text(value), POLICY[key]) for key, value in fields]
    page += table(("key", "type", "default", "what it is"), rows)
    page += [
        "A client is matched by its most specific identity: its key, otherwise its exact name, otherwise the",
        "longest URI that ends in `/*`. Its name is the first URI in its certificate, otherwise its first",
        "DNS name, otherwise its common name. A SPIFFE id counts only if it is the only URI.",
        "",
        "A client that is matched by its key is that client whatever name its certificate has. The ledger",
        "and the audit log have `spki:` and the key then, in place of that name.",
        "",
        "## Calls",
        "",
        "The roles that may make each call. **own**: only for certificates that were issued to this client,",
        "or batches that it may issue in. The commands `device issue`, `csr sign` and `batch run` call",
        "`IssuanceService`.",
        "",
    ]
    roles = get_args(access.Role)
    cells = []
    for path, method in METHODS.items():
        call = method.callers
        if isinstance(call, access.Call):
            marks = [
                "yes" if role in call.roles else "own" if role == "issuer" and call.own else ""
                for role in roles
            ]
        else:
            marks = [call.value, *[""] * (len(roles) - 1)]
        cells.append((f"`{path.removeprefix('/').removeprefix('otahsm.v1.')}`", *marks))
    return page + table(("call", *roles), cells)


def template_comments() -> Iterator[tuple[str, str]]:
    """Yield the comment right above each key of the template."""
    section, comment = "", list[str]()
    for line in TEMPLATE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
            continue
        if match := re.fullmatch(r"\[(.+)\]", line):
            section = re.sub(r"^profiles\..+", "profiles.NAME", match[1])
            if comment or section == "token.environment":
                yield "token.environment", "Environment variables for the PKCS#11 module; a table."
        elif (match := re.match(r"(\w+) = ", line)) and comment:
            yield f"{section}.{match[1]}", " ".join(comment)
        comment = []


def section_model(field: FieldInfo) -> type[BaseModel]:
    """Return the model of a section."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))


def type_text(field: FieldInfo) -> str:
    """Return the type and the limits of a key."""
    limits = [text for item in field.metadata for text in limit_texts(item)]
    validators = [getattr(getattr(item, "func", None), "__name__", "") for item in field.metadata]
    text = next((NAMES[name] for name in validators if name in NAMES), annotation_text(field.annotation))
    return ", ".join([text, *limits])


def limit_texts(item: object) -> Iterator[str]:
    """Yield the text of a constraint."""
    match item:
        case annotated_types.Ge(ge=limit):
            yield f"at least {limit}"
        case annotated_types.Gt(gt=limit):
            yield f"more than {limit}"
        case annotated_types.Le(le=limit):
            yield f"at most {limit}"
        case annotated_types.MinLen(min_length=1):
            yield "not empty"
        case annotated_types.MaxLen(max_length=limit):
            yield f"at most {limit} characters"
    if pattern := getattr(item, "pattern", None):
        yield f"matching `{pattern}`"


def annotation_text(annotation: Any) -> str:
    """Return the name of a type in TOML."""
    arguments = [item for item in get_args(annotation) if item not in (type(None), ...)]
    origin = get_origin(annotation)
    if origin is Annotated:
        return annotation_text(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(f"`{item}`" for item in arguments)
    if origin in (frozenset, tuple):
        tables = isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel)
        what = "tables" if tables else annotation_text(arguments[0]).removeprefix("one of ")
        return f"list of {what}"
    if origin is dict:
        return "table of strings"
    if len(arguments) == 1:  # X | None
        return annotation_text(arguments[0])
    names = {
        str: "string",
        bool: "boolean",
        int: "integer",
        float: "number",
        Path: "path",
        AwareDatetime: "time with a zone",
        Pkcs11Uri: "PKCS#11 URI",
    }
    return "table" if issubclass(annotation, BaseModel) else names[annotation]


def default_text(field: FieldInfo) -> str:
    """Return the default of a key."""
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value in ({}, ()):
        return "none"
    if isinstance(value, frozenset | tuple):
        return ", ".join(f"`{item}`" for item in sorted(value))
    return f"`{value}`"


def command_line() -> list[str]:
    """Describe the commands: their docstrings and their options."""
    page = header("The otahsm command", "otahsm/cli")
    page += ["Errors go to standard error: what is wrong, then what to do. Exit codes:", ""]
    page += table(("code", "meaning"), list(exit_codes()))
    page += [
        "Every command takes `--help`. `otahsm --install-completion` completes commands in your shell.",
        "",
    ]
    for words, callback in commands():
        page += [f"## {words}", "", *help_text(inspect.getdoc(callback) or "")]
        page += table(("argument or option", "takes", "default", "what it is"), list(parameters(callback)))
    return page


def manual() -> list[str]:
    """Describe the commands as a manual page."""
    listed = (
        Command(words, inspect.getdoc(callback) or "", list(parameters(callback)))
        for words, callback in commands()
    )
    return man_page(COMMAND, HELP, listed, exit_codes())


def exit_codes() -> Iterator[tuple[str, str]]:
    """Yield each exit code and what it means."""
    meanings = {
        errors.ExitCode.SOME_FAILED: "some requests failed; each is listed",
        errors.ExitCode.USAGE: "wrong usage, an invalid file, or a configuration that can't work",
        errors.ExitCode.UNAVAILABLE: "daemon, token or ledger can't be reached; retrying may help",
        errors.ExitCode.OPERATOR: "token or CA refused, or the ledger is damaged; an operator must act first",
    }
    yield "0", "success"
    for code in errors.ExitCode:
        yield str(int(code)), meanings[code]
    yield "130", "interrupted with Ctrl-C"


def commands() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield each command's words and its function."""
    for words, command in every_command(COMMANDS):
        yield f"otahsm {words}", command.load()


def help_text(text: str) -> list[str]:
    """Turn a docstring into paragraphs and a block of examples."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b"):  # click's mark for lines that stay as they are
            _, _, *examples = paragraph.splitlines()
            lines += ["```sh", *(line.strip() for line in examples), "```", ""]
        else:
            lines += [" ".join(paragraph.split()), ""]
    return lines


def parameters(callback: Callable[..., Any]) -> Iterator[tuple[str, ...]]:
    """Yield a command's arguments and options."""
    hints = get_type_hints(callback, include_extras=True)
    for name, parameter in inspect.signature(callback).parameters.items():
        kind, info = get_args(hints[name])[:2]
        if isinstance(info, OptionInfo) and info.hidden:
            continue
        what = info.help or ""
        if isinstance(info, ArgumentInfo):
            shown = info.metavar or name.upper()
        else:
            assert isinstance(info, OptionInfo)  # noqa: S101 - typer has no third kind
            # Inside Annotated, typer stores the first declaration as the default.
            declared = [item for item in (info.default, *(info.param_decls or ())) if isinstance(item, str)]
            shown = ", ".join(declared or [f"--{name.replace('_', '-')}"])
        if info.envvar:
            what += f" Environment variable: `{info.envvar}`."
        default = parameter.default
        if default is inspect.Parameter.empty:
            given = "required"
        elif default in (None, "") or default is False:
            given = "none"
        else:
            given = f"`{default.value if isinstance(default, Enum) else default}`"
        yield f"`{shown}`", takes(kind, info), given, what


def takes(kind: Any, info: ArgumentInfo | OptionInfo) -> str:
    """Return the type and the limits of an option."""
    while get_origin(kind) is not Literal and (inner := get_args(kind)):  # X | None, list[X]
        kind = inner[0]
    if kind is bool:
        return "nothing"
    choices = get_args(kind)
    if kind is str and isinstance(info, OptionInfo):  # a list of choices, of which Typer knows only the text
        choices = tuple((info.metavar or "").split("|"))
    if len(choices) > 1:
        return ", ".join(f"`{choice}`" for choice in choices)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{item.value}`" for item in kind)
    text = {str: "text", int: "integer", float: "number", Path: "path", datetime: "date and time"}[kind]
    limits = [f"at least {info.min}"] if info.min is not None else []
    limits += [f"at most {info.max}"] if info.max is not None else []
    return ", ".join([text, *limits])


# Field numbers of FileDescriptorProto and below: a comment's place is a path of them and of positions.
_MESSAGE, _ENUM, _SERVICE, _FIELD, _METHOD, _VALUE = 4, 5, 6, 2, 2, 2


def api() -> list[str]:
    """Describe the API: services and messages, with the comments of the protos."""
    page = header("The gRPC API", "proto/otahsm/v1")
    page += [
        "Package `otahsm.v1`. The daemon also serves `grpc.health.v1.Health` (SERVING while a signer and a",
        "preparer are ready) and server reflection. All of them require mutual TLS.",
        "",
    ]
    for file in descriptors():
        comments = {tuple(item.path): item.leading_comments for item in file.source_code_info.location}
        for at, service in enumerate(file.service):
            page += [f"## {service.name}", "", *comment_text(comments[_SERVICE, at])]
            page += [health_text(f"{file.package}.{service.name}"), ""]
            for number, method in enumerate(service.method):
                page += [f"### {service.name}.{method.name}", ""]
                request = ("stream " if method.client_streaming else "") + method.input_type.rpartition(".")[
                    2
                ]
                response = ("stream " if method.server_streaming else "") + method.output_type.rpartition(
                    "."
                )[2]
                page += [
                    f"`{request}` → `{response}`",
                    "",
                    *comment_text(comments[_SERVICE, at, _METHOD, number]),
                    facts_text(METHODS[f"/{file.package}.{service.name}/{method.name}"]),
                    "",
                ]
        for at, message in enumerate(file.message_type):
            page += [f"## {message.name}", "", *comment_text(comments[_MESSAGE, at])]
            rows = [
                (
                    str(field.number),
                    f"`{field.name}`",
                    field_type(message, field),
                    " ".join(comments[_MESSAGE, at, _FIELD, number].split()),
                )
                for number, field in enumerate(message.field)
            ]
            page += table(("number", "field", "type", "what it is"), rows) if rows else []
        for at, enum in enumerate(file.enum_type):
            page += [f"## {enum.name}", "", *comment_text(comments[_ENUM, at])]
            values = [
                (str(value.number), f"`{value.name}`", " ".join(comments[_ENUM, at, _VALUE, number].split()))
                for number, value in enumerate(enum.value)
            ]
            page += table(("number", "value", "what it means"), values)
    return page


def health_text(name: str) -> str:
    """Return when a service is SERVING."""
    service = next(service for service in SERVICES if service.name == name)
    return "Health: SERVING while " + (
        "a signer and a preparer are ready." if service.needs_signer else "the daemon runs."
    )


def facts_text(method: Method) -> str:
    """Return the roles that may call a method, and the event that it logs."""
    call = method.callers
    if not isinstance(call, access.Call):
        return f"For {call.value}."
    roles = ", ".join(role for role in get_args(access.Role) if role in call.roles)
    text = f"Roles: {roles}{'; issuer for its own' if call.own else ''}."
    return f"{text} Audit event: `{method.leaves}`." if method.leaves else text


def field_type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    """Return the type of a field."""
    name = field.type_name.lstrip(".").removeprefix("otahsm.v1.")
    text = name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated `{text}`"
    if field.HasField("oneof_index"):
        return f"`{text}` (one of `{message.oneof_decl[field.oneof_index].name}`)"
    return f"`{text}`"


def comment_text(comment: str) -> list[str]:
    """Turn a proto comment into paragraphs."""
    return [line for part in re.split(r"\n\s*\n", comment.strip()) for line in (" ".join(part.split()), "")]


def descriptors() -> list[FileDescriptorProto]:
    """Compile the protos, with their comments."""
    googleapis = Path(next(iter(google.rpc.__path__))).parents[1]
    names = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    names.sort(key=lambda name: "issuance" not in name)  # the main service comes first
    with tempfile.NamedTemporaryFile(suffix=".binpb") as image:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'proto'}"]
        command += [f"--proto_path={googleapis}", "--include_source_info"]
        subprocess.run([*command, f"--descriptor_set_out={image.name}", *names], check=True)
        return list(FileDescriptorSet.FromString(Path(image.name).read_bytes()).file)


def error_list() -> list[str]:
    """Describe every error."""
    page = header("Errors", "otahsm/errors")
    page += [
        "On the wire, an error is a `google.rpc.Status`: the gRPC code, a message that says what is wrong,",
        "and a `google.rpc.ErrorInfo` with the domain `otahsm`, the reason below and, in its metadata, a",
        "`hint`. `BAD_REQUEST` also has a `google.rpc.BadRequest` that names the field. Programs should",
        "check the code and the reason: they are stable. Messages and hints are for users, and may",
        "change.",
        "",
        "`UNAVAILABLE` means that the same request may succeed later. With any other code, it won't.",
        "",
        "The exit code is that of a command that fails with this error. If one of several devices fails, it",
        "is listed with its reason; the command continues and exits with 1.",
        "",
    ]
    last = (errors.UnknownError, errors.OtahsmError)
    kinds = sorted(errors.KINDS.values(), key=lambda kind: kind in last)
    rows = [
        (
            f"`{kind.reason}`",
            f"`{kind.code.name}`",
            str(int(kind.exit_code)),
            "An internal error." if kind is errors.OtahsmError else summary(kind.__doc__),
            kind.default_hint,
        )
        for kind in kinds
    ]
    return page + table(
        ("reason", "gRPC code", "exit code", "what happened", "what to do (default hint)"), rows
    )


def summary(docstring: str | None) -> str:
    """Return the first paragraph of a docstring, on one line."""
    text = " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())
    return re.sub(r" \(I\d\)", "", text)  # names of invariants belong to the code


PAGES: Final[dict[str, Callable[[], list[str]]]] = {
    "reference/configuration.md": configuration,
    "reference/policy.md": policy,
    "reference/cli.md": command_line,
    "reference/api.md": api,
    "reference/errors.md": error_list,
    "man/otahsm.1": manual,
}


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description="Write docs/reference and docs/man from the code.")
    parser.add_argument("--check", action="store_true", help="only check whether the files are up to date")
    check = parser.parse_args().check
    stale = []
    for name, write in PAGES.items():
        text = "\n".join(write()).rstrip("\n") + "\n"
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.stderr.write(f"docs is stale ({', '.join(stale)}): run {COMMAND}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
