"""What fuzzing of texts starts from: PKCS#11 URIs, otahsm.toml, lists of devices."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import TypeAlias

Seeds: TypeAlias = Mapping[str, bytes]


def uri() -> Seeds:
    texts = {
        "nothing": "pkcs11:",
        "snake-oil": "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
        "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
        "pinomatic": "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1"
        "&pin-source=|/usr/lib/pinomatic",
        "percent": "pkcs11:token=My%20token%25%20created%20by%20Joe;id=%01%02%03%Ba%dd%Ca%fe%04%05%06",
        "semicolon": "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
        "acute": "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1",
        "prompt": "PKCS11:serial=1?module-path=/a&pin-source=prompt:",
        "credential": "pkcs11:serial=1?pin-source=systemd-credential:pin&module-path=/a",
        "pin": "pkcs11:token=a?module-path=/a&pin-value=hunter2",
        "pin-for-a-name": "pkcs11:token=a?hunter2",
        "slot": "pkcs11:slot-id=0",
    }
    return {name: text.encode() for name, text in texts.items()}


def policy() -> Seeds:
    quickstart = resources.files("otahsm.quickstart").joinpath("policy.toml.in").read_text()
    lines = [
        line.removeprefix("# ")
        for line in quickstart.splitlines()
        if line.startswith(("# t", "# per_", "# u"))
    ]
    client = ("[clients.line]", 'identities = ["uri:spiffe://a/b/*", "dns:a.example"]', 'roles = ["issuer"]')
    return {
        "quickstart.toml": quickstart.encode(),
        "terms.toml": _toml(
            *client, 'profiles = ["ota-connect"]', *(line.partition("  #")[0] for line in lines)
        ),
        "roles.toml": _toml(
            *client[:2], 'roles = ["auditor", "operator", "admin"]', 'times = ["Sun-Mon 00:00-24:00"]'
        ),
        "pin.toml": _toml(client[0], f'identities = ["spki:{"0" * 64}"]', client[2], 'profiles = ["*"]'),
        "twice.toml": _toml(*client, 'profiles = ["*"]', "[clients.b]", *client[1:], 'profiles = ["*"]'),
        "star.toml": _toml(client[0], 'identities = ["cn:*"]', *client[2:]),
        "pattern.toml": _toml(*client, 'profiles = ["*"]', 'device_ids = "(a|b){1,9}"', "batches = '[0-9]+'"),
    }


def config() -> Seeds:
    quickstart = resources.files("otahsm.quickstart").joinpath("otahsm.toml.in").read_text()
    values = {
        "PORT": "7443",
        "TOKEN": "pkcs11:token=otahsm-quickstart?module-path=/usr/lib/libsofthsm2.so&pin-source=file:secrets/pin",
        "SOFTHSM2_CONF": "/fleet/token/softhsm2.conf",
        "ORIGIN": "quickstart.example/1",
    }
    for name, value in values.items():
        quickstart = quickstart.replace(f"@{name}@", value)
    lines = [
        line for line in quickstart.splitlines(keepends=True) if line.strip() and not line.startswith("#")
    ]
    # The lines that quickstart only shows, without the words around them.
    shown = [
        line[2:]
        for line in quickstart.splitlines(keepends=True)
        if line.startswith(("# [", "# kind", "# url"))
    ]
    token = "pkcs11:serial=1?module-path=/m.so&pin-source=env:PIN"
    return {
        "quickstart.toml": "".join(lines).encode(),
        "shown.toml": "".join(shown).encode(),
        "client.toml": _toml(
            "[client]", 'target = ["a:1", "b:2"]', 'ca = "ca"', 'certificate = "c"', 'key = "k"', 'devices = "d"',
            'credentials = "credentials.zip"',
        ),
        "registration.toml": _toml(
            "[registration]", 'kind = "webhook"', 'url = "https://r.example/{device_id}?s={serial}"', 'method = "PUT"',
            'headers = { Authorization = { prefix = "Bearer ", env = "T" }, X = "v" }', "[registration.body]",
            'id = "{device_id}"', "n = [1, 2.5, true]",
        ),
        "foundries.toml": _toml(
            "[registration]", 'kind = "foundries"', 'url = "http://127.0.0.1:1"', 'group = "line-{plant}"',
            'headers = { OSF-TOKEN = { command = "/bin/token" } }',
        ),
        "authorities.toml": _toml(
            "[ca]", 'certificate = "a"', 'key = "pkcs11:object=a;id=%01"', 'accept = ["not-local"]',
            "[crl]", 'url = "http://crl.example.com/a-{shard}.crl"', 'directory = "a"', "shards = 4",
            "[authorities.b]", 'certificate = "b"', 'key = "pkcs11:object=b;id=%02"', "retired = true",
            "[profiles.ota-connect]", 'subject = ["O=Acme", "OU={plant}"]', "rekey_days = 3",
            "device_id = '(?P<a>[0-9]+)-(?P=a)'",
        ),
        "replica.toml": _toml(
            "[token]", f'uri = "{token}"', 'guard_dir = "a"', "[[token.replica]]", f'uri = "{token}"',
            'guard_dir = "~/b"', "weight = 0",
        ),
        "ledger.toml": _toml("[ledger]", 'url = "postgresql://a@b/c"', 'password_file = "p"'),
        "home-of-nobody.toml": _toml("[ledger]", 'path = "~nobody-of-this-name/ledger"'),
        "nul.toml": _toml("[ledger]", 'path = "a\\u0000"'),
        "deep.toml": b"a = " + b"[" * 2000,
        "deep-body.toml": _toml(
            "[registration]", 'kind = "webhook"', 'url = "https://r.example"', f"body.a = {'[' * 80}{']' * 80}",
        ),
        "long-number.toml": b"a = " + b"1" * 5000,
        "many-repetitions.toml": _toml("[profiles.ota-connect]", "device_id = 'a{99999999999999}'"),
        "many-groups.toml": _toml("[profiles.ota-connect]", f"device_id = '{'(' * 1500}{')' * 1500}'"),
        "no-port.toml": _toml("[daemon]", 'listen = "hunter2:\u00b2"'),
        "no-subject.toml": _toml("[profiles.ota-connect]", 'subject = ["O={hunter2 }"]'),
        "a-pin.toml": _toml("[token]", 'uri = "pkcs11:token=a?pin-value=hunter2"', 'pin = "hunter2"', 'guard_dir = "a"'),
        "a-password.toml": _toml("[ledger]", 'url = "mysql://a:hunter2@b/c"', "[daemon]", 'listen = "hunter2"'),
        "a-secret-in-a-body.toml": _toml(
            "[registration]", 'kind = "webhook"', 'url = "https://a:hunter2@r.example/"', 'group = "{hunter2"',
            'headers = { A = "hunter2\\u0000" }', "[registration.body]", 'id = "{hunter2 }"', "d = 1979-05-27",
        ),
    }  # fmt: skip


def device_list() -> Seeds:
    rows = {
        "ids": (0, b"device-1\r\ndevice-2\n\n\xef\xbb\xbfdevice-3"),
        "with-a-bom": (0, b"\xef\xbb\xbfdevice-1\n"),
        "table": (1, b'Device ID,Plant\r\n"device-1","ber""lin"\r\ndevice-2,"a\nb"\r\n'),
        "lines": (2, b'{"device_id": "device-1", "plant": "berlin"}\n{"device_id": 2}\n'),
        "deep": (2, b"[" * 3000),
        "half-a-character": (2, b'{"device_id": "\\ud800"}\n'),
        "serials": (6, b"1001\n1002\n"),
        "table-of-serials": (7, b"serial,plant\n1001,berlin\n"),
        "plants": (10, b"plant,line\nberlin,1\nberlin,2\n"),
        "plants-in-lines": (11, b'{"plant": "berlin"}\n'),
        "told-twice": (4, b"device_id,plant\n1,berlin\n"),
    }
    return {name: bytes((kind,)) + content for name, (kind, content) in rows.items()}


def _toml(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
