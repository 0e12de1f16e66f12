"""`otahsm signer`."""

from __future__ import annotations

import os
import stat

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.config import files_of_signers, load_config
from otahsm.errors import ConfigError
from otahsm.system.file_modes import check_file_modes
from otahsm.token.signer import start_at_socket
from otahsm.workers.child import Handler, run_worker


def signer(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run one signer for a daemon that runs as another user. Started by systemd, not by you.

    Standard input is the daemon's connection to [token] signer_socket: see deploy/otahsm-signer.socket. This
    command's own configuration says which module to load, where the PIN is and which keys sign; the daemon
    only says which of them to use.
    """
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        raise ConfigError(
            "standard input is not a socket",
            hint="systemd starts this for each connection to [token] signer_socket.",
        )

    def start(setup: list[bytes]) -> Handler:
        settings = load_config(config)
        check_file_modes(files_of_signers(settings, config))
        tokens = settings.token.all if settings.token else ()
        return start_at_socket(tokens, settings.token_keys, setup)

    os.umask(0o077)
    run_worker(start, at_socket=True)
