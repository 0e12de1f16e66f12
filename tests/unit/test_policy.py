"""The policy: what the file may say, and who is known by it."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest

from otahsm.access import (
    AccessControl,
    Below,
    Call,
    Caller,
    Denied,
    DenyList,
    Grant,
    Open,
    Owner,
    OwnerFilter,
    Policy,
    Principal,
    Role,
)
from otahsm.config import load_policy, parse_times
from otahsm.daemon.edge import METHODS
from otahsm.errors import ClientDeniedError, ConfigError, NotAllowedError

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)  # a Wednesday
PIN = bytes(range(32))
ISSUER = 'roles = ["issuer"]\nprofiles = ["p"]'


def policy_of(text: str, folder: Path) -> Policy:
    path = folder / "policy.toml"
    path.write_text(text)
    return load_policy(path, ["p", "q"])


def client(identity: str, terms: str = ISSUER, name: str = "a") -> str:
    return f'[clients.{name}]\nidentities = ["{identity}"]\n{terms}\n'


def grant_of(terms: str, folder: Path) -> Grant:
    return policy_of(client("cn:a", terms), folder).grants["a"]


def caller(identity: str) -> Caller:
    return Caller(identity, b"")


def test_no_role_issues_but_the_issuer() -> None:
    issuing = [method.callers for path, method in METHODS.items() if "/otahsm.v1.IssuanceService/" in path]
    assert issuing
    assert all(isinstance(call, Call) and call.roles == {"issuer"} and not call.own for call in issuing)


@pytest.mark.parametrize(
    ("identity", "who", "known"),
    [
        ("cn:line-3", "cn:line-3", True),
        ("cn:line-3", "cn:Line-3", False),
        ("cn:line-3", "cn:line-33", False),
        ("cn:line-3", "dns:line-3", False),
        ("dns:build.acme.example", "dns:build.acme.example", True),
        ("dns:build.acme.example", "dns:build.acme.example.evil", False),
        ("uri:spiffe://acme/line/3", "uri:spiffe://acme/line/3", True),
        ("uri:spiffe://acme/line/*", "uri:spiffe://acme/line/3", True),
        ("uri:spiffe://acme/line/*", "uri:spiffe://acme/line/3/b", True),
        ("uri:spiffe://acme/line/*", "uri:spiffe://acme/line/", False),
        ("uri:spiffe://acme/line/*", "uri:spiffe://acme/line", False),
        ("uri:spiffe://acme/line/*", "uri:spiffe://acme/linex/3", False),
        ("uri:spiffe://acme/line/*", "cn:spiffe://acme/line/3", False),
        ("uri:spiffe://acme/line/*", "uri:spiffe://acme.evil/line/3", False),
    ],
)
def test_a_client_is_known_by_its_name_and_by_no_other(
    identity: str,
    who: str,
    known: bool,  # noqa: FBT001 - a row of a table
    tmp_path: Path,
) -> None:
    policy = policy_of(client(identity), tmp_path)
    assert (policy.of(caller(who)) is not None) == known


def test_a_key_goes_before_a_name_and_a_name_before_a_prefix(tmp_path: Path) -> None:
    policy = policy_of(
        client("uri:spiffe://a/*", name="far")
        + client("uri:spiffe://a/b/*", name="near")
        + client("uri:spiffe://a/b/c", name="name")
        + client(f"spki:{PIN.hex()}", name="key"),
        tmp_path,
    )

    def known(uri: str, key: bytes = b"") -> str | None:
        grant = policy.of(Caller(f"uri:{uri}", b"", key))
        return grant and grant.name

    assert known("spiffe://a/b/c", PIN) == known("anything", PIN) == "key"
    assert known("spiffe://a/b/c") == "name"
    assert known("spiffe://a/b/d") == "near"
    assert known("spiffe://a/d") == "far"
    assert known("spiffe://b/d") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clients = 1", "clients"),
        ("[clients.a]\nroles = []", "identities: missing, but required"),
        (client("cn:a", 'roles = ["issuer"]'), "an issuer needs profiles"),
        (client("cn:a", 'roles = ["root"]'), "clients.a.roles"),
        (
            client("cn:a", 'roles = ["auditor"]\nprofiles = ["p"]'),
            "only a client with the role issuer can have",
        ),
        (client("cn:a", 'roles = ["auditor"]\nper_day = 3'), "only a client with the role issuer can have"),
        (client("cn:a", 'roles = ["issuer"]\nprofiles = ["x"]'), "there is no profile 'x'"),
        (client("cn:a", f"{ISSUER}\nquota = 3"), "clients.a.quota: unknown key"),
        (client("cn:a", f'{ISSUER}\ndevice_ids = "["'), "not a valid RE2 regular expression: missing ]"),
        (client("cn:a", f'{ISSUER}\ndevice_ids = "(?=a)b"'), "not a valid RE2 regular expression"),
        (client("cn:a", f'{ISSUER}\nbatches = "(a{{1000}}){{1000}}"'), "not a valid RE2 regular expression"),
        (client("cn:a", f"{ISSUER}\nper_second = 0"), "clients.a.per_second"),
        (client("cn:a", f'{ISSUER}\ntimes = ["Mon 22:00-06:00"]'), "two entries for hours across midnight"),
        (client("cn:a", f'{ISSUER}\ntimes = ["Mo 06:00-22:00"]'), "Mon-Fri 06:00-22:00"),
        (client("cn:a", f'{ISSUER}\ntimes = ["Mon 06:00-25:00"]'), "Mon-Fri 06:00-22:00"),
        (client("cn:a", f"{ISSUER}\nuntil = 2027-01-01T00:00:00"), "clients.a.until"),
        (client("cn:a", f'{ISSUER}\nformerly = ["a"]'), "a was formerly a, but there still is a client a"),
        (
            client("cn:a", f'{ISSUER}\nformerly = ["z"]')
            + client("cn:b", f'{ISSUER}\nformerly = ["z"]', "b"),
            "a and b both were formerly z",
        ),
        (client("cn:a", f'{ISSUER}\nformerly = ["cn:z"]'), "clients.a.formerly"),
        (client("line-3"), "must start with uri:"),
        (client("cn: "), "must start with uri:, dns:, cn: or spki:, as in"),
        (client("cn:*"), "* is only allowed after the last /"),
        (client("uri:*"), "* is only allowed after the last /"),
        (client("uri:spiffe://*"), "* is only allowed after the last /"),
        (client("uri:spiffe://a*/b/*"), "* is only allowed after the last /"),
        (client("spki:ABCD"), "64 lower-case hexadecimal digits"),
        (client("cn:a") + client("cn:a", name="b"), "a and b both have the identity cn:a"),
        ('[clients."a b"]\nidentities = ["cn:a"]\nroles = ["auditor"]', "clients"),
        ("[[clients]]", "clients"),
        ("=", "can't read"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as failure:
        policy_of(text, tmp_path)
    assert said in failure.value.message
    assert "policy.toml" in failure.value.message


def test_a_missing_file_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read") as failure:
        load_policy(tmp_path / "none.toml", [])
    assert "quickstart" in failure.value.hint


def test_an_empty_policy_lets_nobody_in(tmp_path: Path) -> None:
    access = AccessControl(policy_of("", tmp_path))
    for call in (Call(frozenset(get_args(Role)), own=True), Open.KNOWN):
        with pytest.raises(NotAllowedError, match="the policy has no client cn:a"):
            access.check_call(caller("cn:a"), "Call", call, NOW)


def test_a_call_for_no_role_is_refused_to_everybody(tmp_path: Path) -> None:
    roles = 'roles = ["issuer", "auditor", "operator", "admin"]\nprofiles = ["*"]'
    access = AccessControl(policy_of(client("cn:a", roles), tmp_path))
    with pytest.raises(NotAllowedError, match="a may not call Erase"):
        access.check_call(caller("cn:a"), "Erase", Call(frozenset()), NOW)


@pytest.mark.parametrize(
    ("profile", "batch", "device_id", "said"),
    [
        ("p", "b-1", "d-1", None),
        ("q", "b-1", "d-1", "under the profile 'q'"),
        ("p", "", "d-1", "outside of a batch"),
        ("p", "b-x", "d-1", "in the batch 'b-x'"),
        ("p", "b-1\n", "d-1", "in the batch"),
        ("p", "b-1", "d-x", "for the device id 'd-x'"),
        ("p", "b-1", "d-1\n", "for the device id"),
        ("p", "b-1", "xd-1", "for the device id"),
        ("p", "b-1", "d-1x", "for the device id"),
    ],
)
def test_an_issuer_is_held_to_its_profiles_batches_and_devices(
    profile: str, batch: str, device_id: str, said: str | None, tmp_path: Path
) -> None:
    grant = grant_of(f'{ISSUER}\ndevice_ids = "d-[0-9]+"\nbatches = "b-[0-9]+"', tmp_path)
    with pytest.raises(NotAllowedError) if said else contextlib.nullcontext() as failure:
        grant.check_order(profile, batch)
        grant.check_device(device_id)
    assert (said or "") in str(failure and failure.value)


def test_alternatives_in_a_pattern_match_the_whole_id(tmp_path: Path) -> None:
    grant = grant_of(f'{ISSUER}\ndevice_ids = "a|b"', tmp_path)
    grant.check_device("b")
    with pytest.raises(NotAllowedError):
        grant.check_device("bc")
    with pytest.raises(NotAllowedError):
        grant.check_device("ab")


def test_no_name_makes_a_pattern_take_for_ever(tmp_path: Path) -> None:
    """Python's own regular expressions would not come to an end for these."""
    grant = grant_of(f'{ISSUER}\ndevice_ids = "([a-z]+-?)+"\nbatches = "(a|a)+b"', tmp_path)
    with pytest.raises(NotAllowedError):
        grant.check_device("a" * 127 + ".")
    with pytest.raises(NotAllowedError):
        grant.check_order("p", "a" * 10_000)
    grant.check_device("a-b-c")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("Mon-Fri 06:00-22:00", "2026-11-25T06:00Z", "2026-11-25T05:59:59Z"),
        ("Mon-Fri 06:00-22:00", "2026-11-27T21:59:59Z", "2026-11-27T22:00Z"),
        ("Mon-Fri 06:00-22:00", "2026-11-23T12:00Z", "2026-11-28T12:00Z"),
        ("sat-mon 00:00-24:00", "2026-11-23T23:59:59Z", "2026-11-24T00:00Z"),
        ("Sun 08:00-24:00", "2026-11-29T23:59:59.999999Z", "2026-11-30T00:00Z"),
        ("Wed 12:00-13:00", "2026-11-25T14:30+02:00", "2026-11-25T12:30+02:00"),
    ],
)
def test_times_are_utc_and_end_before_their_end(text: str, inside: str, outside: str) -> None:
    times = parse_times(text)
    assert times.hold(datetime.fromisoformat(inside))
    assert not times.hold(datetime.fromisoformat(outside))
    assert parse_times(str(times)[:3] + str(times)[-12:]).start == times.start


def test_outside_of_its_times_a_client_may_do_nothing(tmp_path: Path) -> None:
    access = AccessControl(
        policy_of(
            client("cn:a", f'{ISSUER}\ntimes = ["Thu 00:00-24:00"]')
            + client("cn:b", f"{ISSUER}\nuntil = 2026-11-25T12:00:00Z", name="b"),
            tmp_path,
        )
    )
    with pytest.raises(NotAllowedError, match="not allowed at this time"):
        access.grant_of(caller("cn:a"), NOW)
    access.grant_of(caller("cn:a"), NOW + timedelta(days=1))
    with pytest.raises(NotAllowedError, match="expired on 2026-11-25 12:00:00 UTC"):
        access.grant_of(caller("cn:b"), NOW)
    access.grant_of(caller("cn:b"), NOW - timedelta(seconds=1))


def test_an_admin_whose_key_is_pinned_is_not_denied_by_a_name_that_is_another_s(tmp_path: Path) -> None:
    admin = client(f"spki:{PIN.hex()}", 'roles = ["admin"]', "boss")
    policy = policy_of(admin + client("cn:line-3", name="line"), tmp_path)
    access = AccessControl(policy)
    boss, line = Caller("cn:line-3", b"1", PIN), Caller("cn:line-3", b"2")
    for subject, denied in (
        ("cn:line-3", [line]),
        (f"spki:{PIN.hex()}", [boss]),
        (f"sha256:{boss.certificate_sha256.hex()}", [boss]),
    ):
        access.deny_list = DenyList([Denied(subject, "", "cn:operator", 0)])
        for who in (boss, line):
            with pytest.raises(ClientDeniedError) if who in denied else contextlib.nullcontext():
                access.grant_of(who, NOW)
            with pytest.raises(ClientDeniedError) if who in denied else contextlib.nullcontext():
                access.check_call(who, "Check", Open.TRUSTED, NOW)


def test_a_pinned_key_s_own_name_denies_it(tmp_path: Path) -> None:
    both = client(f'spki:{PIN.hex()}", "cn:boss', 'roles = ["admin"]')
    access = AccessControl(policy_of(both, tmp_path))
    access.deny_list = DenyList([Denied("cn:boss", "", "cn:admin", 0)])
    with pytest.raises(ClientDeniedError):
        access.grant_of(Caller("cn:boss", b"1", PIN), NOW)


def test_who_is_cut_off_may_not_even_ask_how_the_daemon_is(tmp_path: Path) -> None:
    access = AccessControl(policy_of(client("cn:a"), tmp_path))
    someone = Caller("cn:a", bytes(32), PIN, NOW + timedelta(hours=1))
    access.check_call(someone, "Check", Open.TRUSTED, NOW)
    for subject in ("cn:a", f"spki:{PIN.hex()}", f"sha256:{bytes(32).hex()}"):
        access.deny_list = DenyList([Denied(subject, "", "cn:b", 0)])
        with pytest.raises(ClientDeniedError, match="an operator has denied"):
            access.check_call(someone, "Check", Open.TRUSTED, NOW)
    access.deny_list = DenyList((), {bytes(32): "it is on the CRL"})
    with pytest.raises(ClientDeniedError, match="on the CRL"):
        access.check_call(someone, "Check", Open.TRUSTED, NOW)
    access.deny_list = DenyList()
    access.check_call(someone, "Check", Open.TRUSTED, NOW)
    with pytest.raises(ClientDeniedError, match="expired on 2026-11-25 13:00:00 UTC"):
        access.check_call(someone, "Check", Open.TRUSTED, NOW + timedelta(hours=1))


def test_what_was_issued_is_seen_by_its_client_and_by_those_who_look_after_all(tmp_path: Path) -> None:
    access = AccessControl(
        policy_of(
            '[clients.a]\nidentities = ["cn:a", "cn:a-new"]\n'
            f"{ISSUER}\n" + client("cn:b", name="b") + client("cn:c", 'roles = ["auditor"]', name="c"),
            tmp_path,
        )
    )

    def sees(who: str, client: str) -> bool:
        return access.may_see(caller(who), Owner(client, b"x", ""), NOW)

    assert sees("cn:a", "cn:a")
    assert sees("cn:a-new", "cn:a")
    assert not sees("cn:b", "cn:a")
    assert sees("cn:c", "cn:a")
    assert not sees("cn:b", "cn:who was forgotten")


def pinned_and_named(folder: Path) -> AccessControl:
    """A client that is pinned by key, and one that is known by a name, which the former may bear too."""
    pinned = f'identities = ["spki:{PIN.hex()}", "cn:pinned"]\n{ISSUER}\n'
    return AccessControl(policy_of(f"[clients.pinned]\n{pinned}" + client("cn:b", name="b"), folder))


def test_a_client_that_is_pinned_by_key_is_that_client_under_any_name(tmp_path: Path) -> None:
    access = pinned_and_named(tmp_path)
    key = f"spki:{PIN.hex()}"
    for name in ("cn:b", "cn:pinned", "cn:anything"):
        assert access.principal_of(Caller(name, b"", PIN)) == Principal(key, "pinned")
    assert access.principal_of(caller("cn:b")) == Principal("cn:b", "b")
    assert access.principal_of(caller("cn:stranger")) == Principal("cn:stranger", "")
    as_b = Caller("cn:b", bytes(32), PIN)
    assert not access.may_see_batch(as_b, "x", ["cn:b"], NOW)
    assert not access.may_see_batch(as_b, "x", ["b"], NOW)
    for mine in ("pinned", "cn:pinned", key):
        assert access.may_see_batch(as_b, "x", ["cn:other", mine], NOW)
    assert not access.may_see(as_b, Owner("cn:b", b"x", ""), NOW)
    assert access.principal_of(as_b).details({"call": "/x"}) == {"call": "/x", "policy_client": "pinned"}


def test_a_denied_name_denies_whom_the_policy_knows_by_it_and_not_who_bears_it(tmp_path: Path) -> None:
    access = pinned_and_named(tmp_path)
    as_b, as_itself = Caller("cn:b", bytes(32), PIN), Caller("cn:x", bytes(32), PIN)
    access.deny_list = DenyList([Denied("cn:b", "", "cn:o", 0)])
    assert access.grant_of(as_b, NOW).name == "pinned"
    with pytest.raises(ClientDeniedError):
        access.grant_of(caller("cn:b"), NOW)
    for subject in ("cn:pinned", f"spki:{PIN.hex()}", f"sha256:{bytes(32).hex()}"):
        access.deny_list = DenyList([Denied(subject, "", "cn:o", 0)])
        for who in (as_b, as_itself):
            with pytest.raises(ClientDeniedError):
                access.grant_of(who, NOW)
    access.deny_list = DenyList([Denied(f"spki:{'0' * 64}", "", "cn:o", 0)])
    access.grant_of(as_b, NOW)


def test_what_the_ledger_has_of_a_client_goes_by_its_name_in_the_policy_and_by_those_before(
    tmp_path: Path,
) -> None:
    access = AccessControl(
        policy_of(
            client("uri:spiffe://a/*", f'{ISSUER}\nformerly = ["old"]', "new")
            + client("uri:spiffe://a/b/*", name="below")
            + client("uri:spiffe://a/c", name="c"),
            tmp_path,
        )
    )

    def sees(who: str, owner: Owner) -> bool:
        return access.may_see(Caller(who, b"y"), owner, NOW)

    for name, seen in (("new", True), ("old", True), ("c", False), ("gone", False)):
        assert sees("uri:spiffe://a/x", Owner("uri:spiffe://a/c", b"y", name)) == seen
        assert access.policy.is_name_of(access.policy.grants["new"], name) == seen
    assert sees("uri:spiffe://a/x", Owner("uri:spiffe://a/y", b"x", ""))  # as older versions wrote it
    assert not sees("uri:spiffe://a/x", Owner("uri:spiffe://a/b/y", b"x", ""))
    assert sees("uri:spiffe://a/x", Owner("cn:another name in the same certificate", b"y", ""))
    below = Below("uri:spiffe://a/", frozenset({"uri:spiffe://a/c"}), frozenset({"uri:spiffe://a/b/"}))
    wanted = OwnerFilter(frozenset({"new", "old"}), frozenset(), frozenset({below}))
    assert access.policy.owner_filter("new") == access.policy.owner_filter("old") == wanted
    assert access.policy.owner_filter("gone") == OwnerFilter(frozenset({"gone"}))
    own = wanted._replace(certificate_sha256=b"y", identity="uri:spiffe://a/x")
    for asked in ("", "old", "uri:spiffe://a/x", "uri:spiffe://a/z"):
        assert access.seen_of(Caller("uri:spiffe://a/x", b"y"), asked, NOW) == own
    for asked in ("c", "uri:spiffe://a/c", "cn:nobody"):
        with pytest.raises(NotAllowedError, match="new may not see the certificates of other clients"):
            access.seen_of(Caller("uri:spiffe://a/x", b"y"), asked, NOW)
