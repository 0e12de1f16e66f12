"""What is installed with what: a client needs no token and no database."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

import otahsm
from otahsm.cli.commands import COMMANDS
from otahsm.cli.lazy import Group, every_command
from otahsm.errors import ExitCode

from support.harness import READY_SECONDS

ROOT = Path(__file__).parents[2]
SERVER_ONLY = ("pkcs11", "sqlalchemy", "alembic", "structlog", "grpc_reflection", "re2")
NEED_SERVER = {
    *("quickstart", "serve", "signer", "doctor", "policy check", "policy explain", "device enroll"),
    *(f"ca {name}" for name in ("init", "show", "csr", "import", "prove-possession", "import-key")),
    *("ca rotate", "ca retire", "ledger reconcile", "ledger backup", "ledger restore", "ledger init-key"),
    *("ledger join", "ledger vouch", "ledger accept", "ledger verify", "bench token", "bench issue"),
}
WITHOUT_SERVER = "import sys; sys.modules.update(dict.fromkeys({names!r})); sys.argv = {argv!r}; "


def run_without_server(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    preamble = WITHOUT_SERVER.format(names=SERVER_ONLY, argv=["otahsm", *argv])
    command = [sys.executable, "-c", preamble + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=READY_SECONDS, check=False)


def test_the_client_is_complete_without_the_server_extra() -> None:
    ran = run_without_server("import otahsm.client; from otahsm.client import Client")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("argv", [["--help"], ["device", "issue", "--help"], ["csr", "sign", "--help"]])
def test_the_clients_commands_run_without_the_server_extra(argv: list[str]) -> None:
    ran = run_without_server("from otahsm.cli import main; main()", *argv)
    assert ran.returncode == 0, ran.stderr


def test_a_client_reads_a_configuration_with_patterns_and_the_daemon_checks_them(tmp_path: Path) -> None:
    toml = tmp_path / "otahsm.toml"
    toml.write_text("[profiles.ota-connect]\ndevice_id = 'cam-[0-9]{6}'\n")
    code = """
import sys
from pathlib import Path
from otahsm.config import load_config
profile = load_config(Path(sys.argv[1])).profiles["ota-connect"]
print(profile.device_id)
profile.build()
"""
    ran = run_without_server(code, str(toml))
    assert ran.stdout == "cam-[0-9]{6}\n", ran.stderr
    assert "ModuleNotFoundError: import of re2" in ran.stderr


@pytest.mark.parametrize("argv", [["serve"], ["ca", "show"], ["quickstart", "unused"]])
def test_a_command_that_needs_the_server_extra_says_so(argv: list[str]) -> None:
    ran = run_without_server("from otahsm.cli import main; main()", *argv)
    assert ran.returncode == ExitCode.USAGE
    assert "otahsm[server]" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_without_extras_every_command_of_a_client_loads_and_no_other() -> None:
    code = """
from otahsm.cli.commands import COMMANDS
from otahsm.cli.lazy import every_command
for words, command in every_command(COMMANDS):
    try:
        command.load()
    except ModuleNotFoundError as error:
        print(words)
"""
    extras = (*SERVER_ONLY, "asyncssh", "matplotlib")
    command = [sys.executable, "-c", WITHOUT_SERVER.format(names=extras, argv=["otahsm"]) + code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=READY_SECONDS, check=True)
    assert set(ran.stdout.splitlines()) == NEED_SERVER


@pytest.mark.parametrize("group", [[], *([entry.name] for entry in COMMANDS if isinstance(entry, Group))])
def test_lists_of_commands_load_none_of_them(group: list[str]) -> None:
    code = """
import atexit, sys
from otahsm.cli import main
heavy = {"asyncio", "cryptography", "grpc", "pkcs11", "sqlalchemy"}
atexit.register(lambda: print("loaded:", *sorted(heavy & set(sys.modules))))
main()
"""
    command = [sys.executable, "-c", f"import sys; sys.argv = {['otahsm', *group, '--help']!r}" + code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=READY_SECONDS, check=True)
    assert ran.stdout.splitlines()[-1] == "loaded:"
    assert "..." not in ran.stdout.replace("[ARGS]...", ""), "a summary is too long for its line"


def test_whatever_is_written_is_named_with_the_same_option() -> None:
    named = {}
    for words, command in every_command(COMMANDS):
        app = typer.Typer()
        app.command()(command.load())
        for parameter in typer.main.get_command(app).params:
            if {"--output", "--out"} & set(parameter.opts) and "--devices" not in parameter.opts:
                named[words] = parameter.opts[:2]
    assert len(named) > 10
    assert all(options == ["--output", "-o"] for options in named.values()), named


def test_the_service_is_not_restarted_where_only_an_operator_helps() -> None:
    unit = (ROOT / "deploy/otahsm.service").read_text()
    (prevented,) = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert set(map(int, prevented.split())) == {ExitCode.USAGE, ExitCode.OPERATOR}


def test_every_package_that_is_needed_is_locked_with_a_hash() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["server"]]
    wanted += project["dependency-groups"]["dev"]
    locked = (ROOT / "requirements.lock").read_text()
    for requirement in wanted:
        name = re.split(r"[<>=\[]", requirement)[0]
        assert re.search(rf"^{re.escape(name)}==\S+.*\\\n    --hash=sha256:", locked, re.MULTILINE), name


def test_what_the_protocols_were_generated_with_is_what_is_asked_for() -> None:
    # Generated code refuses to be loaded by an older grpcio or protobuf.
    generated = ROOT / "otahsm" / "v1" / "access_pb2.py"
    (grpcio,) = re.findall(
        r"GRPC_GENERATED_VERSION = '(.+)'", generated.with_stem("access_pb2_grpc").read_text()
    )
    (protobuf,) = re.findall(r"Protobuf Python Version: (.+)", generated.read_text())
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"grpcio>={grpcio}" in wanted
    assert f"protobuf>={protobuf}" in wanted


def test_the_version_is_in_the_changelog() -> None:
    assert f"[{otahsm.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
