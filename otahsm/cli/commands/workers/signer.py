"""`otahsm signer`."""

from __future__ import annotations

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.cli.settings import load_config
from otahsm.cli.worker import run_at_socket
from otahsm.config import files_of_signers, section
from otahsm.system.file_modes import check_file_modes
from otahsm.system.trusted_files import own_files
from otahsm.token.configured import mandate_of
from otahsm.token.signer import start_at_socket
from otahsm.workers.child import Handler


def signer(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run one signer for a daemon that runs as another user. Started by systemd, not by you.

    Standard input is the daemon's connection to [token] signer_socket: see deploy/otahsm-signer.socket. This
    command's own configuration says which module to load, where the PIN is, and what the keys sign. The
    daemon only says for which device, and must have the same configuration.
    """

    def start(setup: list[bytes]) -> Handler:
        settings = load_config(config, trusted=True)
        check_file_modes(files_of_signers(settings, config))
        return start_at_socket(section(settings.token, "token").all, mandate_of(settings, own_files()), setup)

    run_at_socket(start, "[token] signer_socket")
