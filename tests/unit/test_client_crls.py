"""CRLs of operator CAs: what they do not say, or said before, is not believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.daemon.edge.client_crls import ClientCrls
from otahsm.daemon.edge.crl_memory import CrlMemory
from otahsm.daemon.edge.trust import Trust
from otahsm.errors import ConfigError
from otahsm.system.trusted_files import own_files

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
POINT = [x509.UniformResourceIdentifier("http://crl.example/1")]

Builder = x509.CertificateRevocationListBuilder


class Ca:
    """An operator CA, below another one if that is given; `signs_crls` is what its keyUsage says."""

    def __init__(self, name: str, parent: Ca | None = None, *, signs_crls: bool = True) -> None:
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False
        )
        usage |= dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False)
        extensions: list[x509.ExtensionType] = [
            x509.BasicConstraints(ca=True, path_length=None),
            x509.KeyUsage(key_cert_sign=True, crl_sign=signs_crls, **usage),
        ]
        self.certificate = (parent or self).sign(self.name, self.key, *extensions)

    def sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        serial = x509.random_serial_number()
        builder = x509.CertificateBuilder(
            self.name, name, key.public_key(), serial, NOW - HOUR, NOW + 99 * HOUR
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(self.key, SHA256())

    def client(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "line")])
        return self.sign(name, ec.generate_private_key(ec.SECP256R1()))

    def crl(
        self,
        *revoked: x509.Certificate,
        number: int | None = None,
        begins: timedelta = -HOUR,
        extensions: Mapping[x509.ExtensionType, bool] | None = None,
        of_entries: Mapping[x509.ExtensionType, bool] | None = None,
    ) -> bytes:
        """Return a list in PEM; of extensions, whether they are critical."""
        builder = Builder(self.name, NOW + begins, NOW + begins + 24 * HOUR)
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        for extension, critical in (extensions or {}).items():
            builder = builder.add_extension(extension, critical)
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder(certificate.serial_number, NOW - HOUR)
            for extension, critical in (of_entries or {}).items():
                entry = entry.add_extension(extension, critical)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM)


def scoped(**what: object) -> x509.IssuingDistributionPoint:
    flags = ("user_certs", "ca_certs", "attribute_certs")
    limits: dict[str, object] = dict.fromkeys(f"only_contains_{flag}" for flag in flags)
    limits = {**dict.fromkeys(limits, False), "indirect_crl": False}
    limits |= dict.fromkeys(("full_name", "relative_name", "only_some_reasons"))
    return x509.IssuingDistributionPoint(**{**limits, **what})  # type: ignore[arg-type]


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


ROOT = Ca("root")
OTHER = Ca("root")  # another key under the same name
OPERATOR = Ca("operator")
LINE = ROOT.client()


class Folder:
    """The files of a daemon."""

    def __init__(self, path: Path) -> None:
        self.files = [path / "one.crl", path / "two.crl"]
        self.seen = path / "seen/client-crls.json"

    def crls(self, count: int = 1) -> ClientCrls:
        return ClientCrls(self.files[:count], CrlMemory(self.seen, own_files()), own_files())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def load(crls: ClientCrls, *authorities: Ca) -> None:
    crls.load([authority.certificate for authority in authorities or (ROOT,)], NOW)
    crls.remember()


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "junk": (lambda: b"junk", "is not a CRL"),
    "cut off": (lambda: ROOT.crl() + ROOT.crl()[:-40], "is not a CRL"),
    "another key": (OTHER.crl, "is not from a CA in"),
    "from the future": (lambda: ROOT.crl(begins=HOUR), "is from the future"),
    "expired": (lambda: ROOT.crl(begins=-25 * HOUR), "has expired"),
    "delta": (lambda: ROOT.crl(extensions={x509.DeltaCRLIndicator(1): True}), "is a delta CRL"),
    "not critical delta": (lambda: ROOT.crl(extensions={x509.DeltaCRLIndicator(1): False}), "is a delta CRL"),
    "of CAs": (lambda: ROOT.crl(extensions={scoped(only_contains_ca_certs=True): True}), "of CAs"),
    "of attributes": (
        lambda: ROOT.crl(extensions={scoped(only_contains_attribute_certs=True): True}),
        "attribute certificates",
    ),
    "of some reasons": (
        lambda: ROOT.crl(
            extensions={scoped(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})): True}
        ),
        "onlySomeReasons",
    ),
    "indirect": (lambda: ROOT.crl(extensions={scoped(indirect_crl=True): True}), "is an indirect CRL"),
    "entries of other CAs": (
        lambda: ROOT.crl(LINE, of_entries={x509.CertificateIssuer([x509.DirectoryName(ROOT.name)]): True}),
        "is an indirect CRL",
    ),
    "unknown": (lambda: ROOT.crl(extensions={UNKNOWN: True}), "critical extension .* 1.2.3.4"),
    "entry unknown": (lambda: ROOT.crl(LINE, of_entries={UNKNOWN: True}), "critical extension .* 1.2.3.4"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_list_that_does_not_say_everything_is_refused_and_the_last_good_one_holds(
    folder: Folder, name: str
) -> None:
    make, why = WRONG[name]
    path = folder.files[0]
    path.write_bytes(make())
    with pytest.raises(ConfigError, match=why):
        load(folder.crls())
    path.write_bytes(ROOT.crl(LINE))
    crls = folder.crls()
    load(crls)
    path.write_bytes(make())
    load(crls)
    assert why.partition(" .*")[0] in crls.refused[path].message
    assert any(crl.revokes(LINE) for crl in crls.all)


def test_what_is_not_critical_or_limits_nothing_is_taken(folder: Folder) -> None:
    reason = x509.CRLReason(x509.ReasonFlags.key_compromise)
    extensions = {UNKNOWN: False, scoped(only_contains_user_certs=True): True}
    folder.files[0].write_bytes(
        ROOT.crl(LINE, number=1, extensions=extensions, of_entries={UNKNOWN: False, reason: True})
        + ROOT.crl(number=1, extensions={scoped(full_name=POINT): True}, begins=timedelta(minutes=4))
    )
    crls = folder.crls()
    load(crls)
    assert not crls.refused
    assert any(crl.revokes(LINE) for crl in crls.all)


def test_a_list_of_a_ca_that_may_sign_none_is_refused(folder: Folder) -> None:
    mute = Ca("mute", signs_crls=False)
    folder.files[0].write_bytes(mute.crl())
    with pytest.raises(ConfigError, match="lacks cRLSign"):
        load(folder.crls(), mute)


@pytest.mark.parametrize(
    ("first", "then", "why"),
    [
        ({"number": 7}, {"number": 6, "begins": timedelta()}, "has the CRL number 6, and 7 was seen"),
        ({"number": 7}, {"begins": timedelta()}, "has no CRL number, and 7 was seen"),
        ({"number": 7}, {"number": 8, "begins": -2 * HOUR}, "was seen: it is an older one"),
        ({}, {"begins": -2 * HOUR}, "was seen: it is an older one"),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_an_older_list_is_refused_also_after_a_restart(
    folder: Folder, first: dict[str, object], then: dict[str, object], why: str, *, restarted: bool
) -> None:
    path = folder.files[0]
    path.write_bytes(ROOT.crl(LINE, **first))  # type: ignore[arg-type]
    crls = folder.crls()
    load(crls)
    path.write_bytes(ROOT.crl(**then))  # type: ignore[arg-type]
    if restarted:
        with pytest.raises(ConfigError, match=why) as caught:
            load(folder.crls())
        assert f"remove {folder.seen}" in caught.value.hint
        folder.seen.unlink()  # as an operator does whose CA began anew
        load(folder.crls())
    else:
        load(crls)
        assert why in crls.refused[path].message
        assert any(crl.revokes(LINE) for crl in crls.all)


def test_each_distribution_point_has_a_last_list_of_its_own(folder: Folder) -> None:
    one, other = folder.files
    one.write_bytes(ROOT.crl(number=9))
    other.write_bytes(ROOT.crl(number=2, extensions={scoped(full_name=POINT): True}))
    for _ in range(2):
        crls = folder.crls(2)
        load(crls)
        assert not crls.refused
    other.write_bytes(ROOT.crl(number=1, extensions={scoped(full_name=POINT): True}))
    load(crls)
    assert crls.refused.keys() == {other}


POINTED: dict[x509.ExtensionType, bool] = {scoped(full_name=POINT): True}
ONLY_CLIENTS: dict[x509.ExtensionType, bool] = {scoped(only_contains_user_certs=True): True}
LOST: dict[str, tuple[Callable[[], bytes], Callable[[], bytes]]] = {
    "another operator CA's": (lambda: ROOT.crl(LINE), OPERATOR.crl),
    "one of two": (lambda: ROOT.crl(LINE) + OPERATOR.crl(), OPERATOR.crl),
    "an older complete one": (
        lambda: ROOT.crl(begins=-2 * HOUR) + ROOT.crl(LINE, extensions=POINTED),
        lambda: ROOT.crl(begins=-2 * HOUR),
    ),
    "another distribution point's": (lambda: ROOT.crl(LINE), lambda: ROOT.crl(extensions=POINTED)),
    "one without CAs": (lambda: ROOT.crl(LINE), lambda: ROOT.crl(extensions=ONLY_CLIENTS)),
}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("name", LOST)
def test_a_list_in_whose_place_there_is_another_holds(folder: Folder, name: str, *, restarted: bool) -> None:
    before, after = LOST[name]
    one, other = folder.files
    one.write_bytes(before())
    other.write_bytes(OPERATOR.crl())
    crls = folder.crls(2)
    load(crls, ROOT, OPERATOR)
    one.write_bytes(after())
    if restarted:
        with pytest.raises(ConfigError, match=r"has the CRL of CN=root.* any more") as caught:
            load(folder.crls(2), ROOT, OPERATOR)
        assert f"remove {folder.seen}" in caught.value.hint
        return
    load(crls, ROOT, OPERATOR)
    assert crls.refused.keys() == {one}
    assert any(crl.revokes(LINE) for crl in crls.all)
    one.write_bytes(before())
    load(crls, ROOT, OPERATOR)
    assert not crls.refused


def test_a_complete_list_takes_the_place_of_limited_ones_and_cas_may_be_taken_out(folder: Folder) -> None:
    folder.files[0].write_bytes(
        ROOT.crl(extensions=POINTED) + ROOT.crl(extensions=ONLY_CLIENTS) + OPERATOR.crl()
    )
    load(folder.crls(), ROOT, OPERATOR)
    folder.files[0].write_bytes(ROOT.crl(LINE))
    crls = folder.crls()
    load(crls, ROOT)
    assert any(crl.revokes(LINE) for crl in crls.all)


@pytest.mark.parametrize("there", [True, False])
def test_what_was_seen_last_is_the_daemons_alone(folder: Folder, *, there: bool) -> None:
    folder.files[0].write_bytes(ROOT.crl())
    load(folder.crls())
    if not there:
        folder.seen.unlink()
    folder.seen.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="other users can change the folder"):
        load(folder.crls())


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"a": 1}', b'{"a": {"number": "7", "this_update": 1}}'])
def test_a_damaged_memory_is_not_an_empty_one(folder: Folder, damage: bytes) -> None:
    folder.files[0].write_bytes(ROOT.crl())
    load(folder.crls())
    folder.seen.write_bytes(damage)
    with pytest.raises(ConfigError, match="it is damaged"):
        load(folder.crls())


def test_a_refused_file_does_not_keep_another_one_out(folder: Folder) -> None:
    below = Ca("below", ROOT)
    client = below.client()
    for path, ca in zip(folder.files, (ROOT, below), strict=True):
        path.write_bytes(ca.crl())
    crls = folder.crls(2)
    load(crls, ROOT, below)
    folder.files[0].write_bytes(b"junk")
    folder.files[1].write_bytes(below.crl(client))
    load(crls, ROOT, below)
    assert crls.refused.keys() == {folder.files[0]}
    assert any(crl.revokes(client) for crl in crls.all)


def test_other_authorities_are_not_taken_with_lists_of_former_ones(folder: Folder) -> None:
    folder.files[0].write_bytes(ROOT.crl())
    crls = folder.crls()
    load(crls)
    with pytest.raises(ConfigError, match="is not from a CA in"):
        load(crls, OTHER)


@pytest.mark.parametrize("sent", ["with the request", "in client_ca", "both, and twice"])
def test_a_revoked_ca_below_the_operator_ca_cuts_its_clients_off(folder: Folder, sent: str) -> None:
    below = Ca("below", ROOT)
    client = below.client()
    renewed = ROOT.sign(below.name, below.key)  # to hide behind: the same CA, and not revoked
    authorities = [ROOT.certificate]
    above = pem(renewed) + pem(below.certificate)
    if sent != "with the request":
        authorities.append(below.certificate)
    if sent == "in client_ca":
        above = b""
    denied: dict[bytes, str] = {}

    def note(judged: Mapping[bytes, str]) -> None:
        denied.clear()
        denied.update(judged)

    trust = Trust(note)
    crls = folder.crls()
    folder.files[0].write_bytes(ROOT.crl())
    crls.load(authorities, NOW)
    trust.use(authorities, crls.all)
    trust.verify_new_client(b"client", pem(client), above)
    assert not denied
    folder.files[0].write_bytes(ROOT.crl(below.certificate))
    crls.load(authorities, NOW)
    trust.use(authorities, crls.all)
    assert "CN=below is on the CRL of its CA" in denied[b"client"]


def test_what_the_lists_can_not_say_is_said(folder: Folder) -> None:
    below, point, leaves = Ca("below", ROOT), Ca("point"), Ca("leaves")
    folder.files[0].write_bytes(
        ROOT.crl()
        + point.crl(extensions={scoped(full_name=POINT): True})
        + leaves.crl(extensions={scoped(only_contains_user_certs=True): True})
    )
    crls = folder.crls()
    load(crls, ROOT, below, point, leaves)
    said = list(crls.gaps)
    assert [text.partition(":")[0] for text in said] == [
        "there is no CRL of CN=below",
        "the CRLs of CN=point are of single distribution points, and others may be missing",
        "the CRLs of CN=leaves list no CAs",
    ]
