"""Patterns of JSON Schemas (ECMA-262 with the `u` flag), matched in time linear in the text.

RE2 is the engine; a pattern is rewritten so that it means there what the standard says: `$` is the end of
the text and nothing before it, `\\d` and `\\w` are ASCII, `\\s` is Unicode's spaces, `.` is no line break,
and a pattern may match anywhere. What no linear engine can do (back references, looking ahead or behind) is
refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import re2

LONGEST: Final = 1000  # letters of a pattern
_LARGEST: Final = 20_000  # instructions that it may become
_LONGEST_PART: Final = 60  # letters of a name of letters, such as Script=Latin

_SPACES: Final = (
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
    (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
_BREAKS: Final = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_DIGITS: Final = ((0x30, 0x39),)
_WORDS: Final = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SYNTAX: Final = "^$\\.*+?()[]{}|/"
_CONTROLS: Final = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
# ECMA-262's long names of Unicode's general categories; RE2 knows the short ones only.
_CATEGORIES: Final = {
    "Letter": "L", "Uppercase_Letter": "Lu", "Lowercase_Letter": "Ll", "Titlecase_Letter": "Lt",
    "Modifier_Letter": "Lm", "Other_Letter": "Lo", "Mark": "M", "Nonspacing_Mark": "Mn",
    "Spacing_Mark": "Mc", "Enclosing_Mark": "Me",
    "Number": "N", "Decimal_Number": "Nd", "Letter_Number": "Nl", "Other_Number": "No",
    "Punctuation": "P", "Symbol": "S", "Separator": "Z", "Space_Separator": "Zs",
    "Other": "C", "Control": "Cc",
}  # fmt: skip
_QUANTITY: Final = re.compile(r"\{([0-9]{1,4})(,([0-9]{0,4}))?\}")
_NAME: Final = re.compile(r"\?<[A-Za-z_$][A-Za-z0-9_$]{0,60}>")

Ranges = tuple[tuple[int, int], ...]


class Unsupported(ValueError):
    """A pattern that is none, or that no linear engine can match; the message says what is wrong with it."""


@lru_cache(maxsize=512)
def compiled(pattern: str) -> Any:
    """The pattern, ready for `search`. Raises Unsupported."""
    if len(pattern) > LONGEST:
        raise Unsupported(f"a pattern has at most {LONGEST} letters")
    if any("\ud800" <= letter < "\ue000" for letter in pattern):
        raise Unsupported("half of a surrogate pair is no letter")
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = 1 << 22
    try:
        made = re2.compile(_Reader(pattern).rewritten(), options)
    except re2.error as error:
        told = error.args[0] if error.args else b""
        raise Unsupported(told.decode() if isinstance(told, bytes) else str(told)) from None
    if made.programsize > _LARGEST:
        raise Unsupported("the pattern becomes too large; say lengths with minLength and maxLength")
    return made


def found(pattern: str, text: str) -> bool:
    """Whether the pattern matches anywhere in the text. Raises Unsupported for the pattern."""
    expression = compiled(pattern)
    try:
        return expression.search(text) is not None
    except UnicodeEncodeError:  # half of a surrogate pair is no letter
        return False


class _Reader:
    """Reads a pattern once from left to right."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0

    def rewritten(self) -> str:
        out: list[str] = []
        while letter := self._next():
            if letter == "\\":
                out.append(self._escape())
            elif letter == "[":
                out.append(self._class())
            elif letter == ".":
                out.append(_class_of(_BREAKS, negated=True))
            elif letter == "(":
                out.append(self._group())
            elif letter == "{":
                out.append(self._quantity())
            elif letter in "}]":
                raise Unsupported(f"{letter} stands alone; write \\{letter}")
            elif letter in "^$|)*+?":
                out.append({"^": r"\A", "$": r"\z"}.get(letter, letter))
            else:
                out.append(_letter(ord(letter)))
        return "".join(out)

    def _next(self) -> str:
        letter = self._text[self._at : self._at + 1]
        self._at += 1
        return letter

    def _match(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        match = expression.match(self._text, self._at)
        if match:
            self._at = match.end()
        return match

    def _group(self) -> str:
        rest = self._text[self._at : self._at + 3]
        if not rest.startswith("?"):
            return "(?:"
        if rest.startswith("?:"):
            self._at += 2
            return "(?:"
        if rest.startswith(("?=", "?!", "?<=", "?<!")):
            raise Unsupported("looking ahead or behind is not supported")
        if self._match(_NAME):
            return "(?:"
        raise Unsupported("a group begins with (, (?: or (?<name>")

    def _quantity(self) -> str:
        self._at -= 1
        match = self._match(_QUANTITY)
        if match is None:
            raise Unsupported("{ stands alone; write \\{")
        if max(int(match[1]), int(match[3] or 0)) > 1000:
            raise Unsupported("at most 1000 times; say lengths with minLength and maxLength")
        return match[0]

    def _escape(self) -> str:
        letter = self._text[self._at : self._at + 1]
        if letter in ("b", "B"):
            self._at += 1
            return f"\\{letter}"
        if letter == "k" or letter in tuple("123456789"):
            raise Unsupported("back references are not supported")
        what = self._one_of()
        if isinstance(what, int):
            return _letter(what)
        return what if isinstance(what, str) else _class_of(what)

    def _class(self) -> str:
        """`[…]`. Never empty in RE2, and `[` means nothing in it here."""
        negated = self._text[self._at : self._at + 1] == "^"
        self._at += negated
        parts: list[str] = []
        while (letter := self._next()) != "]":
            if not letter:
                raise Unsupported("a class has no end")
            first = self._one_of() if letter == "\\" else ord(letter)
            if not isinstance(first, int):
                parts.append(first if isinstance(first, str) else _inside(first))
                continue
            last = first
            if self._text[self._at : self._at + 1] == "-" and self._text[self._at + 1 : self._at + 2] not in (
                "]",
                "",
            ):
                self._at += 1
                letter = self._next()
                end = self._one_of() if letter == "\\" else ord(letter)
                if not isinstance(end, int) or end < first:
                    raise Unsupported("a range goes from one letter to a later one")
                last = end
            parts.append(_inside(((first, last),)))
        if not parts:
            return _class_of(((0, 0x10FFFF),), negated=not negated)
        return f"[{'^' if negated else ''}{''.join(parts)}]"

    def _one_of(self) -> int | str | Ranges:
        """What follows a backslash: a letter, a class of RE2's, or ranges."""
        letter = self._next()
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter in tuple("dDwWsS"):
            ranges = {"d": _DIGITS, "w": _WORDS, "s": _SPACES}[letter.lower()]
            return ranges if letter.islower() else _others(ranges)
        if letter in ("p", "P"):
            return self._property(letter)
        if letter == "0" and not self._text[self._at : self._at + 1].isdigit():
            return 0
        if letter == "b":
            return 8
        if letter == "c" and (control := self._text[self._at : self._at + 1]).isascii() and control.isalpha():
            self._at += 1
            return ord(control) % 32
        if letter in ("x", "u"):
            return self._number(letter)
        if letter and (letter in _SYNTAX or letter == "-"):
            return ord(letter)
        raise Unsupported(f"\\{letter} means nothing")

    def _number(self, kind: str) -> int:
        shape = r"[0-9A-Fa-f]{2}" if kind == "x" else r"[0-9A-Fa-f]{4}|\{[0-9A-Fa-f]{1,6}\}"
        match = self._match(re.compile(shape))
        if match is None:
            raise Unsupported(f"\\{kind} is followed by digits")
        code = int(match[0].strip("{}"), 16)
        if 0xD800 <= code < 0xDC00 and (low := self._match(re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})"))):
            return 0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise Unsupported("no such letter")
        return code

    def _property(self, letter: str) -> str:
        match = self._match(
            re.compile(rf"\{{([A-Za-z_]{{1,{_LONGEST_PART}}}=)?([A-Za-z_]{{1,{_LONGEST_PART}}})\}}")
        )
        kind, name = (match[1] or "", match[2]) if match else ("", "")
        name = _CATEGORIES.get(name, name)
        script = kind in ("Script=", "sc=")
        category = kind in ("", "General_Category=", "gc=") and name in _SHORT
        if not name or not (category or (script and name not in _SHORT)):
            raise Unsupported(f"\\{letter} knows general categories and Script=…")
        return f"\\{letter}{{{name}}}"


_SHORT: Final = frozenset(_CATEGORIES.values()) | frozenset(
    ("Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Cf", "Co")
)


def _letter(code: int) -> str:
    return rf"\x{{{code:X}}}"


def _inside(ranges: Ranges) -> str:
    return "".join(_letter(a) if a == b else f"{_letter(a)}-{_letter(b)}" for a, b in ranges)


def _class_of(ranges: Ranges, *, negated: bool = False) -> str:
    return f"[{'^' if negated else ''}{_inside(ranges)}]"


def _others(ranges: Ranges) -> Ranges:
    others, start = [], 0
    for first, last in ranges:
        if first > start:
            others.append((start, first - 1))
        start = last + 1
    return (*others, (start, 0x10FFFF))
