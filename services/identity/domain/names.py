"""Names of persons, organisations and agencies: what may be in one, so that it can stand in official mail.

A name reaches people who did not ask for it, in messages that they trust. So none can hold a link, an
address, a sum or markup, whatever else a stranger may think of writing there.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from identity.domain.identifiers import Malformed
from kit.text import line

MOST_PERSON: Final = 100
MOST_ORGANISATION: Final = 200
_MOST_MARKS: Final = 4  # on one letter; Vietnamese composes all of its own, Thai and Khmer need up to three
_MOST_WORD: Final = 40  # letters without a space
_MOST_DIGITS: Final = 8  # in the name of an organisation: a phone number and an account have more
_ORGANISATIONS: Final = frozenset(',&()"“”/+–')  # what is in names of organisations only
_PUNCTUATION: Final = frozenset(" .'’ʼ‘-‐‑") | _ORGANISATIONS
# "TP.HCM" and "Q.3": a dot after these is an abbreviation though no space follows.
_ABBREVIATED: Final = re.compile(
    r"(?<!\S)(TP|TX|TT|TS|PGS|GS|ThS|BS|Q|P|H|X|KP)\.(?=[0-9A-ZĐÀ-Ỹ])(?!(?i:vn|com|net|org|info|io|me|co)\b)",
    re.IGNORECASE,
)
# A dot between two letters or digits is part of an address; so is what begins like one, or two slashes.
_ADDRESS: Final = re.compile(r"\.(?![\s)\"”,]|$)|//|(?i:(?<!\w)(?:www|https?|ftp|mailto)(?!\w))")
# H32.15: no domain ends in digits, and no number begins with a letter.
_CODE: Final = re.compile(r"(?<![\w.])[^\W\d_]+[0-9]*(?:\.[0-9]+)+(?![\w.])")
_SPACED: Final = re.compile(r"(?<=[^\W\d_])\.(?=[^\W\d_]\.)")  # J.R.R. Tolkien


def person_name_of(text: str) -> str:
    """The name of a person: letters of any script with their marks, spaces, apostrophe, hyphen and dot.

    Answers it composed, with single spaces, an initial's dot followed by one. Raises Malformed.
    """
    name = _of(text, MOST_PERSON, digits="")
    if not _ORGANISATIONS.isdisjoint(name):
        raise Malformed(
            "NAME_CHARACTERS", "a person's name has letters, spaces, apostrophes, hyphens and dots"
        )
    return name


def organisation_name_of(text: str) -> str:
    """The name of an organisation or an agency: as a person's, and with digits (8 at most), commas, brackets,
    quotes, slashes, ampersands, plus signs and dashes. Raises Malformed."""
    name = _of(text, MOST_ORGANISATION, digits="0123456789")
    if sum(letter.isdigit() for letter in name) > _MOST_DIGITS:
        raise Malformed("NAME_DIGITS", f"at most {_MOST_DIGITS} digits in the name of an organisation")
    return name


def _of(text: str, most: int, *, digits: str) -> str:
    name = line(text)
    name = _ABBREVIATED.sub(r"\1. ", _SPACED.sub(". ", name))
    if not 2 <= len(name) <= most:
        raise Malformed("NAME_LENGTH", f"a name has 2 to {most} characters")
    marks = letters = word = 0
    for letter in name:
        kind = unicodedata.category(letter)
        marks = marks + 1 if kind[0] == "M" else 0
        word = 0 if letter == " " else word + 1
        letters += kind[0] == "L"
        if marks > _MOST_MARKS or word > _MOST_WORD:
            raise Malformed("NAME_CHARACTERS", "a name has words, of letters with few marks")
        if not (kind[0] in "LM" or letter in _PUNCTUATION or letter in digits):
            reason = "NAME_DIGITS" if kind[0] == "N" else "NAME_CHARACTERS"
            raise Malformed(reason, "a name has letters, spaces, apostrophes, hyphens and dots")
    if not letters or unicodedata.category(name[0])[0] == "M":
        raise Malformed("NAME_CHARACTERS", "a name begins with what can be seen and has letters")
    if _ADDRESS.search(_CODE.sub("", name)):
        raise Malformed("NAME_ADDRESS", "a name is no address: a space follows each dot")
    return name
