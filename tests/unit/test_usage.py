"""Options that can't be meant as they are given are refused, and never ignored."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from otahsm.cli.main import app
from otahsm.errors import ExitCode

EMPTY = "it must not be empty"
PERIOD = "--after must be earlier than --before"


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["audit", "--after", ""], EMPTY),
        (["audit", "--config="], EMPTY),
        (["ledger", "list", "--device-id", ""], EMPTY),
        (["ledger", "list", "--page-token="], EMPTY),
        (["ledger", "get", ""], EMPTY),
        (["batch", "create", "b", "--count", "1", "--client", "cn:a", "--client", ""], EMPTY),
        (["revoke", "--reason", "superseded", "--device-id", ""], EMPTY),
        (["client", "deny", "cn:a", "--reason", ""], EMPTY),
        (["device", "issue", "--count", "0"], "'--count': must be at least 1, not 0"),
        (["device", "issue", "--count", "1.5"], "'--count': must be a whole number"),
        (["ledger", "list", "--patience", "x"], "'--patience': must be a number"),
        (["device", "issue", "--layout", "x"], "'--layout': 'x' is not one of 'seed',"),
        (["client", "deny", "line-3"], "'line-3' must start with uri:, dns:, cn:, spki: or sha256:"),
        (["client", "deny", "cn: "], "'cn: ' must start with"),
        (["client", "deny", "spki:AB"], "must have a SHA-256 after spki: 64 lower-case hexadecimal digits"),
        (["audit", "--after", "2026-11-24", "--before", "2026-11-23"], PERIOD),
        (["audit", "--after", "2026-11-23", "--before", "2026-11-23"], PERIOD),
        (["ledger", "list", "--after", "2026-11-23T01:00+01:00", "--before", "2026-11-23"], PERIOD),
        (["ledger", "export", "--after", "2026-11-24", "--before", "2026-11-23"], PERIOD),
        (["ledger", "stats", "--after", "2026-11-24", "--before", "2026-11-23"], PERIOD),
        (["audit", "--follow", "--before", "2026-11-23"], "omit --last and --before"),
        (["audit", "--follow", "--last", "1"], "omit --last and --before"),
        (["batch", "create", "b", "--count", "1", "--deadline", "soon"], "--deadline takes 2026-11-23"),
        (["batch", "create", "b", "--count", "1", "--first", "7"], "--template"),
        (["ledger", "get", "--serial", "1a", "--profile", "p"], "not with --serial"),
        (["crl", "show", "fleet.crl", "--url", "http://crl"], "need --from-daemon"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_would_be_ignored_is_refused(command: list[str], complaint: str) -> None:
    done = CliRunner().invoke(app, command)
    assert done.exit_code == ExitCode.USAGE
    assert complaint in " ".join(done.output.split())
