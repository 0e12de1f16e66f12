"""What is fuzzed: each target is a function of this name in its module, which takes octets.

It gives them to otahsm as the product would, and asserts what must hold. Only what is documented to be raised
is caught.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, cast

CORPUS: Final = Path(__file__).with_name("corpus")


class Target(NamedTuple):
    """Where a target is, and what libFuzzer has to know of it.

    Attributes:
        module: has the function.
        max_len: of an input, in octets.
        words: what the format's texts are made of, and chance would not find.
        instrumented: packages and modules in which new code counts as new. They are compiled at each start.
    """

    module: str
    max_len: int
    words: tuple[str, ...] = ()
    instrumented: tuple[str, ...] = ("otahsm",)

    def function(self, name: str) -> Callable[[bytes], None]:
        """Import the function."""
        return cast(Callable[[bytes], None], getattr(importlib.import_module(self.module), name))


_URI: Final = (
    "pkcs11:",
    "token=",
    "serial=",
    "manufacturer=",
    "model=",
    "object=",
    "id=%01",
    "type=private",
    "type=cert",
    "?module-path=/",
    "?pin-source=",
    "&pin-source=",
    "file:",
    "env:",
    "prompt:",
    "systemd-credential:",
    "%7C/",
    "pin-value=",
    "slot-id=",
    "module-name=",
    "%2F",
    ";",
)
_POLICY: Final = (
    "[clients.a]",
    "identities = [",
    "roles = [",
    "profiles = [",
    "device_ids = ",
    "batches = ",
    "times = [",
    "until = ",
    "per_second = ",
    "per_day = ",
    "total = ",
    '"issuer"',
    '"auditor"',
    '"*"',
    '"uri:spiffe://a/*"',
    '"dns:a.example"',
    '"cn:a"',
    '"spki:',
    '"Mon-Fri 06:00-22:00"',
    "2027-01-01T00:00:00Z",
)
_TOML: Final = (
    "[daemon]",
    "[tls]",
    "[token]",
    "[[token.replica]]",
    "[token.environment]",
    "[ca]",
    "[authorities.a]",
    "[ledger]",
    "[authorities.a.crl]",
    "[checkpoint]",
    "[issuance]",
    "[profiles.a]",
    "[crl]",
    "[client]",
    "[registration]",
    "listen = ",
    "drain_seconds = ",
    "uri = ",
    "guard_dir = ",
    "signers = ",
    "weight = ",
    "certificate = ",
    "key = ",
    "mechanism = ",
    "accept = ",
    "url = ",
    "path = ",
    "password_file = ",
    "origin = ",
    "verifier_key = ",
    "default_profile = ",
    "validity_days = ",
    "device_id = ",
    "key_types = ",
    "subject = ",
    "csr_extras = ",
    "retired = ",
    "shards = ",
    "{shard}",
    "directory = ",
    "target = ",
    "credentials = ",
    "kind = ",
    "headers = ",
    "body = ",
    "group = ",
    '"webhook"',
    '"foundries"',
    '"~a/b"',
    "{device_id}",
    "1979-05-27",
    "'''",
    '"""',
    "inf",
    "nan",
    "true",
    "hunter2",
)
_JSON: Final = ('{"', '":"', '",', "null", "\\ud800", "\\u0000", "1e9", "-0", "[[[[")
_NOTE: Final = ("\n\n", "\N{EM DASH} ", "ota.example/ledger", "+", "\N{LINE SEPARATOR}", "\N{NO-BREAK SPACE}")

_TOML_READERS: Final = (
    "otahsm.errors",
    "otahsm.pki",
    "otahsm.system",
    "otahsm.config",
    "otahsm.pkcs11_names",
    "otahsm.templates",
    "tomllib",
)
_CALLS: Final = (
    "otahsm.daemon.wire",
    "otahsm.authority",
    "otahsm.issuance",
    "otahsm.pki",
    "otahsm.preparation",
    "otahsm.access",
    "otahsm.revocation",
    "otahsm.errors",
    "otahsm.templates",
    "otahsm.ledger",
    "otahsm.config.sections",
    "otahsm.system.clock",
)

TARGETS: Final[Mapping[str, Target]] = {
    "csr": Target("fuzz.csrs", 17_000),
    "csr_signed": Target("fuzz.csrs", 4096),
    "template": Target("fuzz.csrs", 512),
    "uri": Target("fuzz.texts", 512, _URI, ("otahsm.pkcs11_names",)),
    "config": Target("fuzz.texts", 8192, _TOML, _TOML_READERS),
    "policy": Target("fuzz.texts", 4096, _POLICY, ("otahsm.access", *_TOML_READERS)),
    "device_list": Target(
        "fuzz.texts",
        4096,
        ("device_id", "serial", "plant", '"', "\r\n", *_JSON),
        ("otahsm.line", "otahsm.templates"),
    ),
    "credentials": Target("fuzz.archives", 70_000),
    "credentials_entry": Target("fuzz.archives", 8192, ("https://", "-----BEGIN CERTIFICATE-----", "[::1]:")),
    "order": Target("fuzz.calls", 17_000, instrumented=_CALLS),
    "question": Target("fuzz.calls", 4096, instrumented=_CALLS),
    "page_tokens": Target(
        "fuzz.calls", 512, instrumented=("otahsm.daemon.wire", "otahsm.errors", "otahsm.ledger")
    ),
    "signing": Target(
        "fuzz.signing",
        4096,
        (
            "certificates",
            "crls",
            "checkpoint",
            "last crl number",
            "probe",
            "ota-connect",
            "device-1",
            "[",
            "]",
        ),
        instrumented=("otahsm.token.desk", "otahsm.pki.template", "otahsm.pki.names", "otahsm.pki.subject"),
    ),
    "note": Target("fuzz.evidence", 4096, _NOTE),
    "proof": Target("fuzz.evidence", 4096, ("c2sp.org/tlog-proof@v1", "index ", "old ", "extra ", *_NOTE)),
    "leaf": Target("fuzz.evidence", 2048, _JSON),
}
