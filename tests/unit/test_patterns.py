"""Regular expressions for names that clients choose."""

from __future__ import annotations

import pytest

from otahsm.patterns import Pattern, compile_pattern


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("cam-[0-9]{6}", "cam-000017", True),
        ("cam-[0-9]{6}", "cam-000017\n", False),
        ("cam-[0-9]{6}", "xcam-000017", False),
        ("cam-[0-9]{6}$", "cam-000017\n", False),
        ("a|b", "ab", False),
        ("(a)(b)", "ab", True),
        ("", "", True),
        ("", "a", False),
        ("Werk.1", "Werkß1", True),
        ("Werk.1", "Werkßß1", False),
        ("[ä-ü]+", "äöü", True),
        ("[ä-ü]+", "ÄÖÜ", False),
        ("(?i)[ä-ü]+", "ÄÖÜ", True),
        ("a.c", "a\udc80c", True),
        ("a[?]c", "a\udc80c", False),
        (r"\{,6}", "{,6}", True),
    ],
)
def test_a_pattern_matches_a_whole_text_by_its_characters(
    pattern: str,
    text: str,
    matches: bool,  # noqa: FBT001 - a row of a table
) -> None:
    assert compile_pattern(pattern).fullmatch(text) is matches


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)+b", "([a-z]+-?)+", "(.*)*=", "(a?){64}a{64}"])
def test_no_text_makes_a_pattern_take_for_ever(pattern: str) -> None:
    """Python's own regular expressions would take years for most of these."""
    assert not compile_pattern(pattern).fullmatch("a" * 127 + "!")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("[", "missing ]: ["),
        ("[\n", "missing ]: [\\n"),
        ("(?=a)b", "no look-around"),
        ("(?<!a)b", "no look-around"),
        (r"(a)\1", "no backreferences"),
        ("(?P<one>a)(?P=one)", "no backreferences"),
        ("a++", "no possessive repetition"),
        ("a\\Z", "no \\Z"),
        ("a{,6}", "write {0,6} for {,6}"),
        ("(a{1000}){1000}", "invalid repetition size"),
        ("[\udc80", "missing ]"),
    ],
)
def test_what_re2_does_not_support_is_refused_in_one_line(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match="not a valid RE2 regular expression") as refused:
        compile_pattern(pattern)
    assert why in str(refused.value)
    assert str(refused.value).isprintable()


def test_patterns_are_equal_if_their_texts_are() -> None:
    assert compile_pattern("a") == Pattern("a") != Pattern("b")
