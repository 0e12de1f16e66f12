"""The configuration of aktualizr, the device's update client, for the files that otahsm installs.

aktualizr reads its files as INI without escapes, and strips quotes from values (src/libaktualizr/config and
src/libaktualizr/utilities/config_utils.h of uptane/aktualizr). So a value with a quote, a backslash or a line
end can't be written. `server_url_path` is an absolute path; those of `[import]` are relative to `base_path`.
Without `--config` it reads /usr/lib/sota/conf.d, then /var/sota/sota.toml, then /etc/sota/conf.d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from otahsm.errors import ConfigError

SOTA: Final = "/var/sota"
IMPORT: Final = f"{SOTA}/import"
_UNSAFE: Final = frozenset('"\\')


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The location of a device's key and certificate in its own PKCS#11 token.

    Attributes:
        module: the path of the PKCS#11 library on the device.
        pin: the user PIN, which aktualizr reads from its configuration; empty to omit it.
        key_id: the CKA_ID of the TLS key, two hexadecimal digits.
        certificate_id: the CKA_ID of its certificate.
        uptane_key_id: the CKA_ID of the key that aktualizr makes for Uptane.
    """

    module: str
    pin: str = ""
    key_id: str = "02"
    certificate_id: str = "01"
    uptane_key_id: str = "03"


def sota_toml(hardware_id: str = "", token: TokenKeys | None = None) -> str:
    """Return the content of a sota.toml.

    Args:
        hardware_id: the hardware id of the primary ECU; empty for aktualizr's default, the host name.
        token: the location of key and certificate; None if they are files.

    Raises:
        ConfigError: a value contains characters that aktualizr can't read.
    """
    source = "pkcs11" if token else "file"
    sections: dict[str, dict[str, str]] = {
        "tls": {
            "server_url_path": f"{IMPORT}/gateway.url",
            "ca_source": "file",
            "cert_source": source,
            "pkey_source": source,
        },
        "import": {"base_path": IMPORT, "tls_cacert_path": "root.crt"},
        "storage": {"type": "sqlite", "path": f"{SOTA}/"},
    }
    if token is None:
        sections["import"] |= {"tls_clientcert_path": "client.pem", "tls_pkey_path": "pkey.pem"}
    else:
        sections["p11"] = {
            "module": token.module,
            "pass": token.pin,
            "uptane_key_id": token.uptane_key_id,
            "tls_clientcert_id": token.certificate_id,
            "tls_pkey_id": token.key_id,
        }
        sections["uptane"] = {"key_source": "pkcs11"}
    if hardware_id:
        sections["provision"] = {"primary_ecu_hardware_id": hardware_id}
    return "\n".join(_section(name, fields) for name, fields in sections.items())


def holds_pin(sota_toml: str) -> bool:
    """Return whether a file of `sota_toml` contains a token's PIN, so that only its owner may read it."""
    return any(line.startswith("pass = ") for line in sota_toml.splitlines())


def _section(name: str, fields: dict[str, str]) -> str:
    lines = [f'{key} = "{_checked(key, value)}"\n' for key, value in fields.items() if value]
    return f"[{name}]\n{''.join(lines)}"


def _checked(key: str, value: str) -> str:
    if not value.isprintable() or _UNSAFE & set(value):
        raise ConfigError(
            f"can't write {key} to aktualizr's configuration",
            hint="It must not contain quotes, backslashes or control characters: aktualizr can't read them.",
        )
    return value
