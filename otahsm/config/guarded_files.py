"""Which files of a configuration other users must not change, and which they must not read."""

from __future__ import annotations

from pathlib import Path

from otahsm.config.sections import ClientConfig, Config
from otahsm.system.file_modes import GuardedFile


def files_of_daemon(config: Config, path: Path) -> list[GuardedFile]:
    """Return the files of the process that faces the network and of the signers that it starts.

    Args:
        config: the configuration.
        path: its file.
    """
    files = [GuardedFile("the configuration", path)]
    if config.tls:
        files += [
            GuardedFile("[tls] key", config.tls.key, secret=True),
            GuardedFile("[tls] certificate", config.tls.certificate),
            GuardedFile("[tls] client_ca", config.tls.client_ca),
        ]
    if config.ledger and config.ledger.password_file:
        files.append(GuardedFile("[ledger] password_file", config.ledger.password_file, secret=True))
    if config.ledger and config.ledger.key_file:
        files.append(GuardedFile("[ledger] key_file", config.ledger.key_file, secret=True))
    if config.ledger and config.ledger.path:
        files.append(GuardedFile("[ledger] path", config.ledger.path))
    if config.access:
        files.append(GuardedFile("[access] policy", config.access.policy))
        files += [GuardedFile("the CRL", crl) for crl in config.access.client_crls]
        if config.access.client_crls and config.client_crls_seen:
            files.append(GuardedFile("[access] client_crls_seen", config.client_crls_seen))
    if config.checkpoint:
        files.append(GuardedFile("[checkpoint] verifier_key", config.checkpoint.verifier_key))
    return [*files, *_certificates(config), *_of_signers(config, at_socket=False)]


def files_of_signers(config: Config, path: Path) -> list[GuardedFile]:
    """Return the files of signers that run as another user, at a socket. Arguments as `files_of_daemon`.

    What they sign follows from the configuration, the CAs' certificates and the log's verifier key.
    """
    files = [GuardedFile("the configuration", path), *_certificates(config)]
    if config.checkpoint:
        files.append(GuardedFile("[checkpoint] verifier_key", config.checkpoint.verifier_key))
    return files + _of_signers(config, at_socket=True)


def files_of_all(config: Config, path: Path) -> list[GuardedFile]:
    """Return the files of a daemon and all its signers. Arguments as `files_of_daemon`."""
    return [*files_of_daemon(config, path), *_of_signers(config, at_socket=True)]


def files_of_client(client: ClientConfig) -> list[GuardedFile]:
    """Return the files that say whom a client believes, and what it puts on devices."""
    files = [
        GuardedFile("[client] ca", client.ca),
        GuardedFile("[client] certificate", client.certificate),
        GuardedFile("[client] key", client.key),
    ]
    files += [GuardedFile("[client] fleet_ca", path) for path in client.fleet_ca]
    if client.server_ca:
        files.append(GuardedFile("[client] server_ca", client.server_ca))
    if client.credentials:
        files.append(GuardedFile("[client] credentials", client.credentials))
    return files


def _certificates(config: Config) -> list[GuardedFile]:
    authorities = config.all_authorities.values()
    return [GuardedFile("the CA certificate", authority.certificate) for authority in authorities]


def _of_signers(config: Config, *, at_socket: bool) -> list[GuardedFile]:
    """Return the files of the signers at a socket, or of those that the daemon starts."""
    files = []
    if config.token and config.token.journal_dir and (config.token.signer_socket is not None) == at_socket:
        files.append(GuardedFile("[token] journal_dir", config.token.journal_dir))
    for token in config.token.all if config.token else ():
        if (token.signer_socket is not None) == at_socket:
            files += [
                GuardedFile("the PKCS#11 module", token.uri.module),
                GuardedFile("[token] guard_dir", token.guard_dir),
            ]
            if token.uri.pin.kind == "file":
                files.append(GuardedFile("the PIN file", Path(token.uri.pin.value), secret=True))
            if token.uri.pin.kind == "command":
                files.append(GuardedFile("the PIN command", Path(token.uri.pin.program)))
    return files
