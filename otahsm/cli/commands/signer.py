"""`otahsm signer`."""

from __future__ import annotations

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.cli.worker import run_at_socket
from otahsm.config import files_of_signers, load_config
from otahsm.system.file_modes import check_file_modes
from otahsm.token.signer import start_at_socket
from otahsm.workers.child import Handler


def signer(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run one signer for a daemon that runs as another user. Started by systemd, not by you.

    Standard input is the daemon's connection to [token] signer_socket: see deploy/otahsm-signer.socket. This
    command's own configuration says which module to load, where the PIN is and which keys sign; the daemon
    only says which of them to use.
    """

    def start(setup: list[bytes]) -> Handler:
        settings = load_config(config)
        check_file_modes(files_of_signers(settings, config))
        tokens = settings.token.all if settings.token else ()
        return start_at_socket(tokens, settings.token_keys, setup)

    run_at_socket(start, "[token] signer_socket")
