"""Which files CRLs go to, when one is due, and that a file is whole, and never an older CRL than it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from asn1crypto import pem

from otahsm.config import CrlConfig
from otahsm.errors import FolderError
from otahsm.ledger import AUTHORITIES, COMPLETE, CrlRow, StoredCrl
from otahsm.pki.crls.distribution import BACKDATED, CrlLocation
from otahsm.pki.crls.reading import describe_crl
from otahsm.revocation.crl_folder import CrlFolder, name_files
from otahsm.revocation.crl_maker import CrlSchedule, is_due
from otahsm.system.durable import TEMPORARY

from support.authority import crl, issuer_of

HOST = "http://crl.example.com/"
ISSUER = issuer_of("ec-p256")
LIFE = CrlSchedule(validity=7 * 86_400, refresh=86_400)
NOW = 1_800_000_000
MADE = CrlRow(1, NOW - BACKDATED, NOW + LIFE.validity, 3)


@pytest.mark.parametrize(
    ("row", "revoked", "now", "due"),
    [
        (None, 0, NOW, True),
        (MADE, 3, NOW, False),
        (MADE, 4, NOW, True),
        (MADE, 3, NOW + LIFE.refresh - 1, False),
        (MADE, 3, NOW + LIFE.refresh, True),
        (MADE, 3, NOW - BACKDATED, False),
        (MADE, 3, NOW - BACKDATED - 1, True),  # it is not valid yet
        # It was made by other rules.
        (MADE._replace(next_update=NOW + LIFE.validity - LIFE.refresh - 1), 3, NOW, True),
        (MADE._replace(next_update=NOW - 1), 3, NOW, True),
    ],
)
def test_a_crl_is_due_if_it_does_not_tell_of_all_or_it_is_time(
    row: CrlRow | None, *, revoked: int, now: int, due: bool
) -> None:
    assert is_due(row, revoked, now, LIFE) is due


def test_the_life_of_a_crl_is_the_configurations_or_the_default() -> None:
    config = CrlConfig(url=f"{HOST}fleet.crl", directory=Path("crl"), validity_hours=3, refresh_hours=2)
    assert CrlSchedule.of(config) == (3 * 3600, 2 * 3600)
    assert CrlSchedule.of(None) == (168 * 3600, 24 * 3600)


def files(url: str, shards: int, urls: dict[str, bool]) -> tuple[dict[str, str], tuple[str, ...]]:
    return name_files(CrlLocation(url, shards), urls)


def test_one_crl_is_written_under_the_name_in_its_url_and_for_nginx() -> None:
    url = f"{HOST}fleet.crl"
    assert files(url, 1, {url: True}) == (
        {"fleet.crl": COMPLETE, "complete.crl": COMPLETE, "complete.pem": COMPLETE},
        (),
    )


def test_shards_are_written_under_their_names_with_the_complete_crl_and_that_of_the_authorities() -> None:
    urls = {f"{HOST}{number}.crl": False for number in range(2)}
    assert files(f"{HOST}{{shard}}.crl", 2, urls) == (
        {
            "0.crl": f"{HOST}0.crl",
            "1.crl": f"{HOST}1.crl",
            "complete.crl": COMPLETE,
            "complete.pem": COMPLETE,
            "authorities.crl": AUTHORITIES,
            "authorities.pem": AUTHORITIES,
        },
        (),
    )


def test_urls_of_earlier_configurations_keep_their_files_unless_todays_need_the_name() -> None:
    old, clash, today = f"{HOST}old.crl", "http://old.example.com/fleet.crl", f"{HOST}fleet.crl"
    scopes, without = files(today, 1, {old: False, clash: False, today: True})
    assert scopes["old.crl"] == old
    assert scopes["fleet.crl"] == COMPLETE
    assert without == (clash,)
    assert "authorities.crl" in scopes


def test_a_url_whose_name_is_one_of_ours_has_the_file() -> None:
    today, old = f"{HOST}fleet.crl", f"{HOST}complete.crl"
    scopes, without = files(today, 1, {today: True, old: False})
    assert (scopes["complete.crl"], scopes["complete.pem"]) == (old, COMPLETE)
    assert without == ()


@pytest.fixture
def folder(tmp_path: Path) -> CrlFolder:
    return CrlFolder(tmp_path / "www/crl", ISSUER)


def stored(number: int, der: bytes = b"", scope: str = COMPLETE) -> StoredCrl:
    return StoredCrl(scope, MADE._replace(number=number), der or crl(number=number))


def content(folder: CrlFolder, name: str) -> bytes:
    return (folder._folder / name).read_bytes()


def test_a_crl_is_written_in_der_or_in_pem_for_everybody_to_read(folder: CrlFolder) -> None:
    der = crl(number=7)
    folder.write("fleet.crl", stored(7, der))
    folder.write("complete.pem", stored(7, der))
    assert content(folder, "fleet.crl") == der
    assert pem.unarmor(content(folder, "complete.pem")) == ("X509 CRL", {}, der)
    assert {path.name for path in folder._folder.iterdir()} == {"fleet.crl", "complete.pem", ".lock"}
    assert folder.missing(iter(["fleet.crl", "other.crl"])) == {"other.crl"}
    umask = os.umask(0)
    os.umask(umask)
    assert (folder._folder / "fleet.crl").stat().st_mode & 0o777 == 0o644 & ~umask


@pytest.mark.parametrize("name", ["fleet.crl", "fleet.pem"])
def test_an_older_crl_never_takes_the_place_of_a_newer_one(folder: CrlFolder, name: str) -> None:
    for number in (7, 6, 8, 1):
        expected = max(7, number) if number != 1 else 8
        assert folder.write(name, stored(number)) == expected
        assert describe_crl(content(folder, name)).number == expected


def test_a_newer_crl_of_another_scope_is_in_nobodys_way(folder: CrlFolder) -> None:
    folder.write("fleet.crl", stored(9, crl(number=9, url=f"{HOST}fleet.crl"), f"{HOST}fleet.crl"))
    assert folder.write("fleet.crl", stored(7)) == 7
    assert crl_of(7, folder)


def with_another_signature(crl: bytes) -> bytes:
    return crl[:-1] + bytes([crl[-1] ^ 1])


@pytest.mark.parametrize(
    "there", [b"", b"text", crl(number=99, ca="rsa-2048"), with_another_signature(crl(number=99))]
)
def test_what_is_no_crl_of_ours_is_replaced_and_counts_for_nothing(folder: CrlFolder, there: bytes) -> None:
    folder._folder.mkdir(parents=True)
    (folder._folder / "fleet.crl").write_bytes(there)
    (folder._folder / "a folder").mkdir()
    assert folder.numbers() == {}
    folder.write("fleet.crl", stored(1))
    assert content(folder, "fleet.crl") == crl_of(1, folder)


def crl_of(number: int, folder: CrlFolder) -> bytes:
    """Return the CRL in the folder, whose number must be this."""
    der = content(folder, "fleet.crl")
    assert describe_crl(der).number == number
    return der


def test_the_number_of_a_scope_is_the_highest_in_any_file(folder: CrlFolder) -> None:
    assert folder.numbers() == {}
    shard = f"{HOST}0.crl"
    for name, number in (("a.crl", 3), ("b.pem", 12), ("c.crl", 5)):
        folder.write(name, stored(number))
    folder.write("0.crl", stored(4, crl(number=4, url=shard), shard))
    folder.write("authorities.pem", stored(2, crl(number=2, only_authorities=True), AUTHORITIES))
    assert folder.numbers() == {COMPLETE: 12, shard: 4, AUTHORITIES: 2}


def test_what_a_kill_left_half_written_is_in_nobodys_way(folder: CrlFolder) -> None:
    folder.write("fleet.crl", stored(1))
    (folder._folder / ".new-fleet.crl").write_bytes(crl(number=2)[:50])
    assert folder.numbers() == {COMPLETE: 1}
    folder.write("fleet.crl", stored(2))
    assert crl_of(2, folder)
    assert not (folder._folder / ".new-fleet.crl").exists()


def test_a_link_is_not_followed(folder: CrlFolder, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("not to be touched")
    folder.write("other.crl", stored(1))
    (folder._folder / "fleet.crl").symlink_to(target)
    new = crl(number=1)
    folder.write("fleet.crl", stored(1, new))
    assert (folder._folder / "fleet.crl").read_bytes() == new
    assert target.read_text() == "not to be touched"


def test_what_a_killed_daemon_left_is_removed_when_the_next_one_starts(folder: CrlFolder) -> None:
    folder.write("fleet.crl", stored(1))
    (folder._folder / f"{TEMPORARY}1").write_bytes(crl(number=2))
    (folder._folder / f"{TEMPORARY}2").write_bytes(b"half of a")
    assert folder.numbers() == {COMPLETE: 2}  # it may have been seen
    assert {path.name for path in folder._folder.iterdir()} == {"fleet.crl", ".lock"}


def test_a_folder_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderError, match="can't write"):
        CrlFolder(tmp_path / "file/crl", ISSUER).numbers()
