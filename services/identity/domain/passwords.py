"""The rules that a new password must obey."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from identity.domain.identifiers import FieldCheck, Identifier
from kit.text import fold, nfc

SHORTEST: Final = 10
LONGEST: Final = 128

# Passwords of ten characters and more that guessers try first; shorter ones are refused by length anyway.
_COMMON: Final = """
    1234567890 0123456789 0987654321 9876543210 1234567891 1234512345 12345678910 123456789a a123456789
    123456789abc abc123456789 1111111111 0000000000 1122334455 1231231231 123123123123 1q2w3e4r5t q1w2e3r4t5
    qwertyuiop qwerty1234 qwerty12345 qwerty123456 1qaz2wsx3edc asdfghjkl1 zxcvbnm123 password12 password123
    password1234 passw0rd123 mypassword iloveyou12 iloveyou123 administrator adminadmin admin12345 admin123456
    welcome123 changeme123 letmein123 matkhau123 matkhau1234 matkhau12345 matkhaucuatoi matkhaumoi khongcopass
    anhyeuem123 emyeuanh123 anhyeuem12 yeuemnhieu toiyeuvietnam vietnam123 vietnam1234 vietnamvodich
    khanhhoa123 nhatrang123 congdan123 dichvucong vneid12345 hanoi12345 saigon12345 maiyeuem123 chucmungnammoi
    motcua1234 motcua12345 abcd123456 abcdef1234 aa12345678 a1b2c3d4e5 zaq12wsxcde 1029384756
"""
COMMON_PASSWORDS: Final = frozenset(_COMMON.split())
# Words that guessers of this country and of such a site begin with; English ones are in the library's lists.
_LOCAL: Final = """
    matkhau matkhaumoi dichvucong congdan vneid vietnam vietnamese khanhhoa nhatrang hanoi saigon danang
    anhyeuem emyeuanh yeuem yeuanh toiyeu maiyeu giadinh chucmung nammoi hanhphuc nguyen tran thanhcong
"""
_SHARE: Final = 20  # letters that are looked at, from the beginning and from the end: longer takes too long


def check_password(
    check: FieldCheck,
    password: str,
    *,
    identifiers: Sequence[Identifier],
    name: str,
    path: str = "password",
) -> None:
    """Notes, under the field `path`, what is wrong with a new password of the account known by these.

    It has 10 to 128 characters, is none that everybody tries first, and holds nothing of one's own.
    """
    text = nfc(password)
    plain = text.casefold()
    letters = re.sub(r"[\W_]", "", plain)
    if not SHORTEST <= len(text) <= LONGEST:
        check.wrong(path, "PASSWORD_LENGTH", f"a password has {SHORTEST} to {LONGEST} characters")
    elif plain in COMMON_PASSWORDS or letters in COMMON_PASSWORDS or len(set(plain)) < 4:
        check.wrong(path, "PASSWORD_COMMON", "one of the passwords that are tried first")
    elif any(own in letters for own in _own_words(identifiers, name)):
        check.wrong(path, "PASSWORD_IS_IDENTIFIER", "contains what the account is known by")


def guessed_texts(password: str) -> tuple[str, ...]:
    """What is tried for how easily it is guessed: the two ends of the password, without accents. If both are
    weak then so is the password."""
    text = fold(password)
    return (text,) if len(text) <= _SHARE else (text[:_SHARE], text[-_SHARE:])


def guessed_first(identifiers: Sequence[Identifier], name: str) -> list[str]:
    """The words that somebody who guesses the password of this account begins with."""
    words = [*_LOCAL.split(), *_own_words(identifiers, name)]
    parts = fold(name).split()
    words += [*parts, "".join(parts), "".join(parts[-1:] + parts[:-1])]
    for identifier in identifiers:
        if identifier.type == "citizen_number":
            words += [identifier.value[4:6], identifier.value[-6:]]  # the year of birth, the serial number
        words += re.split(r"[\W_]+", identifier.value)
    return [word for word in dict.fromkeys(words) if len(word) > 1]


def _own_words(identifiers: Sequence[Identifier], name: str) -> list[str]:
    values = [identifier.value.partition("@")[0] for identifier in identifiers]
    words = [re.sub(r"[\W_]", "", value.casefold()) for value in [*values, name]]
    return [word for word in words if len(word) >= 6]
