"""Text: one form of Unicode, and a folded form for search."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_MOST_MARKS: Final = 30  # in a row; no language comes near it
_JOINER: Final = "\u034f"  # invisible, and marks are not put in order across it
_UNUSUAL: Final = re.compile(r"[^\x00-\u02ff\u1e00-\u1fff]{10}")  # no such letter is a mark: read quickly


def nfc(text: str) -> str:
    """The text in Unicode's composed form, in which all of it is stored.

    Putting marks in order takes time quadratic in their number, so more than any language uses are parted
    first, as Unicode's stream-safe format does (UAX #15, section 13): else one request stops a process.
    """
    return unicodedata.normalize("NFC", _parted(text) if _UNUSUAL.search(text) else text)


def _parted(text: str) -> str:
    parted: list[str] = []
    marks = 0
    for letter in "".join(unicodedata.normalize("NFD", letter) for letter in text):
        marks = marks + 1 if unicodedata.combining(letter) else 0
        if marks > _MOST_MARKS:
            parted.append(_JOINER)
            marks = 1
        parted.append(letter)
    return "".join(parted)


def fold(text: str) -> str:
    """Lower case, no accents, đ as d, single spaces: `  Đăng  ký ` becomes `dang ky`."""
    letters = unicodedata.normalize("NFD", nfc(text).lower())
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(bare.replace("đ", "d").split())
