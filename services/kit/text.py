"""Text: one form of Unicode, and a folded form for search."""

from __future__ import annotations

import unicodedata


def nfc(text: str) -> str:
    """The text in Unicode's composed form, in which all of it is stored."""
    return unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """Lower case, no accents, đ as d, single spaces: `  Đăng  ký ` becomes `dang ky`."""
    letters = unicodedata.normalize("NFD", nfc(text).lower())
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(bare.replace("đ", "d").split())
