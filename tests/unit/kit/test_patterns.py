"""Patterns mean what ECMA-262 says, in time linear in the text."""

from __future__ import annotations

import time

import pytest

from kit import patterns


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("^[0-9]{12}$", ["079123456789"], ["079123456789\n", "0791234567890", "０79123456789"]),
        (r"^\d+$", ["12"], ["१२", "1२", "12\n", ""]),
        (r"^\w+$", ["a_1"], ["ă", "đ"]),
        (r"\S", ["a", "ế", "\u3164"], ["", " \u00a0\u3000\ufeff\t\v\u2028"]),
        (r"^\s+$", ["\v\u2009\u2029"], ["\u200b", "a"]),
        (r"^[^\s@]+@[^\S\n]$", ["a@\u00a0"], ["a@b", "a @ "]),
        ("^.$", ["a", "😀", "\x85"], ["\n", "\r", "\u2028", ""]),
        ("b", ["abc"], ["ac"]),
        ("^a|b$", ["ax", "xb"], ["xa", "bx", "b\n"]),
        (r"^(0|\+84)[35789][0-9]{8}$", ["0912345678", "+84912345678"], ["84912345678"]),
        (r"^[^@\s]+@[^@\s]+\.[^@\s]+$", ["a@b.vn"], ["a@b", "a@b.", "a@b.vn\n"]),
        (r"^\p{L}+$", ["Đức", "中"], ["a1", ""]),
        (r"^\p{Lu}\P{Lu}+$", ["Đức"], ["đức"]),
        (r"^\p{Uppercase_Letter}$", ["Đ"], ["đ"]),
        (r"^\p{Script=Latin}+$", ["Nguyễn".replace("ễ", "e")], ["中"]),
        (r"^\u0110\u{1F600}\x41\cA\0$", ["Đ😀A\x01\0"], ["ĐA"]),
        (r"^\uD83D\uDE00$", ["😀"], ["a"]),
        (r"^[\u0041-\u0043\d\-\]\[^]+$", ["AC1-][^"], ["D"]),
        (r"^[[:alph]\]$", [":]", "[]"], ["b", "b]"]),
        ("^[^]$", ["a", "\n"], ["", "ab"]),
        ("[]", [], ["", "a"]),
        (r"^(?<year>[0-9]{4})\/(?:a|b)$", ["2026/a"], ["2026/c"]),
        (r"\bab\b", ["x ab y"], ["xaby"]),
        (r"^a{2,3}?b*$", ["aa", "aaabb"], ["a"]),
        (r"^[\b]$", ["\x08"], ["b"]),
        (r"^a.c$", ["abc"], ["a\nc"]),
    ],
)
def test_a_pattern_means_what_the_standard_says(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not patterns.found(pattern, text)] == []
    assert [text for text in no if patterns.found(pattern, text)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a)\1", r"(?<x>a)\k<x>", "a(?=b)", "a(?!b)", "(?<=a)b", "(?<!a)b", "(?i)a", "(?P<x>a)",
        "a{1001}", "a{0,9999}",
        "(a{1000}){1000}", "((((a{9}){9}){9}){9}){9}", "[", "(", ")", "a{", "}", "]",
        "*", "a**", "[b-a]", "\\",
        r"\q", r"\a", r"\Z", r"\Qa\E", r"\C", r"\x4", r"\u004", r"\u{110000}", r"\uD800", r"\01", r"\p{Nope}",
        r"\p{L", r"\pL", "a" * 1001, "(" * 600 + ")" * 300, r"\p{L}{1,900}",
    ],
)  # fmt: skip
def test_what_no_linear_engine_can_match_is_refused(pattern: str) -> None:
    with pytest.raises(patterns.Unsupported):
        patterns.compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^[^@\s]+@[^@\s]+\.[^@\s]+$", "a@" + "." * 60_000 + " "),
        (r"^(a+)+$", "a" * 60_000 + "!"),
        (r"^(a|aa)*$", "a" * 60_000 + "!"),
        (r"(x+x+)+y", "x" * 60_000),
        (r"\s+$", " " * 60_000 + "a"),
        (r"^(.*a){20}$", "a" * 20_000 + "b"),
    ],
)
def test_time_is_linear_in_the_text(pattern: str, text: str) -> None:
    patterns.compiled(pattern)
    began = time.thread_time()
    assert not patterns.found(pattern, text) or pattern.startswith(r"(x")
    assert time.thread_time() - began < 0.5


def test_half_a_letter_matches_nothing() -> None:
    assert not patterns.found(".", "\ud800")
    with pytest.raises(patterns.Unsupported):
        patterns.compiled("\ud800")
