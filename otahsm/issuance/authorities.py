"""The CAs of a daemon: the key that each signs with, and which CA issued a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509

from otahsm.config import AuthorityConfig, Config, ca_section
from otahsm.errors import ConfigError
from otahsm.pki.chain import Chain
from otahsm.system.files import PLAIN, Files
from otahsm.token.files import read_chain


@dataclass(frozen=True, slots=True)
class Authority:
    """One CA.

    Attributes:
        name: as in profiles; "" for [ca].
        config: its section.
        chain: its certificates.
    """

    name: str
    config: AuthorityConfig
    chain: Chain

    @property
    def signs(self) -> bool:
        """Whether it signs; one that is retired has no key here."""
        return not self.config.retired


class Authorities:
    """All CAs of a daemon.

    Args:
        by_name: the CAs; that of [ca] comes first, and has the name "".
        of_profiles: the name of each profile's CA.

    Raises:
        ConfigError: two have the same key.
    """

    def __init__(self, by_name: Mapping[str, Authority], of_profiles: Mapping[str, str]) -> None:
        self.by_name = dict(by_name)
        self._of_profiles = {profile: by_name[name] for profile, name in of_profiles.items()}
        self._by_key = {item.chain.issuer.key_identifier: item for item in by_name.values()}
        if len(self._by_key) < len(by_name):
            raise ConfigError("two CAs have the same key", hint="Each CA needs its own key.")

    @classmethod
    def load(cls, config: Config, files: Files = PLAIN) -> Authorities:
        """Read the certificates of all configured CAs.

        Raises:
            ConfigError: a certificate is missing or invalid, or two CAs have the same key.
        """
        by_name: dict[str, Authority] = {}
        for name, section in config.all_authorities.items():
            chain = read_chain(section, ca_section(name), files)
            by_name[name] = Authority(name, section, chain)
        return cls(by_name, {name: profile.ca for name, profile in config.profiles.items()})

    @property
    def active(self) -> list[Authority]:
        """The CAs that sign."""
        return [item for item in self.by_name.values() if item.signs]

    @property
    def key_identifiers(self) -> list[bytes]:
        """The key identifiers of all CAs."""
        return list(self._by_key)

    def of_profile(self, profile: str) -> Authority:
        """Return the CA that issues under a profile."""
        return self._of_profiles[profile]

    def of_certificate(self, certificate: bytes) -> Authority:
        """Return the CA that issued one of our certificates, by its authority key identifier."""
        if len(self._by_key) == 1:
            return self.by_name[""]
        extensions = x509.load_der_x509_certificate(certificate).extensions
        identifier = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        return self._by_key[identifier or b""]
