"""`otahsm preparer`."""

from __future__ import annotations

from otahsm.cli.worker import run_at_socket
from otahsm.preparation.preparer import start


def preparer() -> None:
    """Run one preparer, which parses CSRs, as another user than the daemon. Started by systemd, not by you.

    Standard input is the daemon's connection to [issuance] preparer_socket, as deploy/otahsm-preparer.socket
    makes it. This command reads no configuration: the daemon says what the profiles are.
    """
    run_at_socket(start, "[issuance] preparer_socket", confined=True)
