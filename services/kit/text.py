"""Text that people type: one form of Unicode, nothing that cannot be seen, and a folded form for search.

There are two cleaners, and every edge uses one of them: `typed` (or `line`, where there are no line breaks)
for words, `identifier` for numbers, codes, addresses and names of accounts. What people paste carries letters
that nobody sees, from web pages, spreadsheets and chats; they are taken out rather than refused, since nobody
could find them. Texts that only look alike are then the same text, in a search as at sign-in.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final

_MOST_MARKS: Final = 30  # in a row; no language comes near it
_TOO_MANY: Final = 64  # more than a run of the most can become by composition, so that twice is once
_JOINER: Final = "\u034f"  # invisible, and marks are not put in order across it


def _letters(which: Callable[[str], object], first: int, last: int) -> str:
    """All letters from `first` to `last` for which it holds, as the inside of a character class."""
    ranges: list[list[int]] = []
    for code in range(first, last + 1):
        if which(chr(code)):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


def _mark(letter: str) -> int:
    return unicodedata.combining(unicodedata.normalize("NFD", letter)[0])  # some stand for two marks


def _unseen(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs") and letter != "\n"


# A class of letters below U+10000 is a table for `re`, with one beyond it a list: ten times as slow. So what
# is looked for has two expressions, and few texts need the second. After U+1EFFF only the tags matter.
_FIRST, _BEYOND, _LAST = 0x80, 0x10000, 0x1EFFF
_MARKS: Final = _letters(_mark, _FIRST, _BEYOND - 1)
_ALL_MARKS: Final = _MARKS + _letters(_mark, _BEYOND, _LAST)
_RUN: Final = re.compile(f"[{_MARKS}]{{{_TOO_MANY}}}")
_RUN_OF_ALL: Final = re.compile(f"[{_ALL_MARKS}]{{{_TOO_MANY}}}")
_PIECE: Final = re.compile(f"([{_ALL_MARKS}]{{{_MOST_MARKS}}})(?=[{_ALL_MARKS}])")
_MARK: Final = re.compile(f"[{_MARKS}]+")
_MARK_OF_ALL: Final = re.compile(f"[{_ALL_MARKS}]+")
# Controls, formats (zero width, joiners, direction, tags), halves of surrogate pairs, what Unicode calls
# default-ignorable, and letters that are drawn as nothing: fillers of Hangul and Khmer, and blank Braille.
_UNSEEN: Final = re.compile(
    f"[{_letters(_unseen, 0, _BEYOND - 1)}"
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\ufdd0-\ufdef\ufffe\uffff]+"
)
_UNSEEN_BEYOND: Final = re.compile(f"[{_letters(_unseen, _BEYOND, _LAST)}\U000e0000-\U000e0fff]+")
_NEW_LINE: Final = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SPACE: Final = re.compile("[\t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_WIDE: Final[dict[int, int | str]] = {
    code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)
}  # as Asian keyboards type ASCII
_HYPHENS: Final[dict[int, int | str]] = dict.fromkeys(
    map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63"), "-"
)
_AS_TYPED: Final = {**_WIDE, **_HYPHENS}


def nfc(text: str) -> str:
    """The text in Unicode's composed form, in which all of it is stored.

    Putting marks in order takes time quadratic in their number, so more than any language uses are parted
    first, as Unicode's stream-safe format does (UAX #15, section 13): else one request stops a process.
    """
    if text.isascii():
        return text
    if (_RUN_OF_ALL if _goes_beyond(text) else _RUN).search(text):
        text = _PIECE.sub(rf"\1{_JOINER}", text)
    return unicodedata.normalize("NFC", text)


def _goes_beyond(text: str) -> bool:
    return not text.isascii() and max(text) >= chr(_BEYOND)


def _seen(text: str) -> str:
    bare = _UNSEEN.sub("", text)
    return _UNSEEN_BEYOND.sub("", bare) if _goes_beyond(bare) else bare


def typed(text: str) -> str:
    """Words as they are stored: composed, without what cannot be seen, line breaks as `\\n`, every kind of
    space as a plain one, nothing at either end."""
    lines = _SPACE.sub(" ", _NEW_LINE.sub("\n", text))
    return nfc(_seen(lines)).strip()


def line(text: str) -> str:
    """The same for what stands on one line, such as a name: a space wherever there was any space."""
    return " ".join(typed(text).split())


def identifier(text: str) -> str:
    """A number, a code, an address or the name of an account as it is read: without what cannot be seen or
    surrounds it, full-width letters and digits and every hyphen as ASCII has them. Digits of other scripts
    stay what they are, so that no rule takes them."""
    return line(text.translate(_AS_TYPED))


def visible(text: str) -> int:
    """How many letters of it can be seen: neither spaces nor what `typed` takes out."""
    return sum(map(len, nfc(_seen(text)).split()))


def fold(text: str) -> str:
    """Lower case, no accents, đ as d, single spaces: `  Đăng  ký ` becomes `dang ky`.

    Ð (eth) and Ɖ look like Đ and are found as such.
    """
    letters = unicodedata.normalize("NFD", line(text).translate(_WIDE).lower())
    marks = _MARK_OF_ALL if _goes_beyond(letters) else _MARK
    return marks.sub("", letters).replace("đ", "d").replace("ð", "d").replace("ɖ", "d")
