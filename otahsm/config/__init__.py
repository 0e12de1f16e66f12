"""`otahsm.toml` as frozen models. An unknown key is an error, and so is a value of the wrong type.

Relative paths are relative to the file that names them. A machine needs only the sections of what it
does: a factory line has `[client]` alone, a daemon has no `[client]`.
"""

from otahsm.config.guarded_files import (
    files_of_all,
    files_of_client,
    files_of_daemon,
    files_of_signers,
)
from otahsm.config.loading import load_config, load_policy, parse_config, read_toml, section
from otahsm.config.policy import ClientPolicy, parse_times
from otahsm.config.problems import describe_problems
from otahsm.config.profiles import ProfileConfig
from otahsm.config.registration import BackendKind, HeaderConfig, RegistrationConfig, is_header_value
from otahsm.config.sections import (
    AuthorityConfig,
    ClientConfig,
    Config,
    CrlConfig,
    DaemonConfig,
    IssuanceConfig,
    LedgerConfig,
    TlsConfig,
    ca_section,
)
from otahsm.config.token import (
    CaConfig,
    CheckpointConfig,
    KeyConfig,
    ReplicaConfig,
    TokenConfig,
)
from otahsm.config.verifier_key import load_verifier_key, read_verifier_key

__all__ = [
    "AuthorityConfig",
    "BackendKind",
    "CaConfig",
    "CheckpointConfig",
    "ClientConfig",
    "ClientPolicy",
    "Config",
    "CrlConfig",
    "DaemonConfig",
    "HeaderConfig",
    "IssuanceConfig",
    "KeyConfig",
    "LedgerConfig",
    "ProfileConfig",
    "RegistrationConfig",
    "ReplicaConfig",
    "TlsConfig",
    "TokenConfig",
    "ca_section",
    "describe_problems",
    "files_of_all",
    "files_of_client",
    "files_of_daemon",
    "files_of_signers",
    "is_header_value",
    "load_config",
    "load_policy",
    "load_verifier_key",
    "parse_config",
    "parse_times",
    "read_toml",
    "read_verifier_key",
    "section",
]
