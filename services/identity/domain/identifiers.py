"""What a person or an organisation is known by: citizen number, tax code, phone, e-mail, username.

Every `..._of` function takes what somebody typed and answers the one form that is stored, or raises
Malformed. None of them tells whether the thing exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Final

from kit.errors import FieldViolation, InvalidInput
from kit.ids import derived
from kit.text import identifier

PROVINCES: Final = {
    "001": "Hà Nội",
    "002": "Hà Giang",
    "004": "Cao Bằng",
    "006": "Bắc Kạn",
    "008": "Tuyên Quang",
    "010": "Lào Cai",
    "011": "Điện Biên",
    "012": "Lai Châu",
    "014": "Sơn La",
    "015": "Yên Bái",
    "017": "Hòa Bình",
    "019": "Thái Nguyên",
    "020": "Lạng Sơn",
    "022": "Quảng Ninh",
    "024": "Bắc Giang",
    "025": "Phú Thọ",
    "026": "Vĩnh Phúc",
    "027": "Bắc Ninh",
    "030": "Hải Dương",
    "031": "Hải Phòng",
    "033": "Hưng Yên",
    "034": "Thái Bình",
    "035": "Hà Nam",
    "036": "Nam Định",
    "037": "Ninh Bình",
    "038": "Thanh Hóa",
    "040": "Nghệ An",
    "042": "Hà Tĩnh",
    "044": "Quảng Bình",
    "045": "Quảng Trị",
    "046": "Thừa Thiên Huế",
    "048": "Đà Nẵng",
    "049": "Quảng Nam",
    "051": "Quảng Ngãi",
    "052": "Bình Định",
    "054": "Phú Yên",
    "056": "Khánh Hòa",
    "058": "Ninh Thuận",
    "060": "Bình Thuận",
    "062": "Kon Tum",
    "064": "Gia Lai",
    "066": "Đắk Lắk",
    "067": "Đắk Nông",
    "068": "Lâm Đồng",
    "070": "Bình Phước",
    "072": "Tây Ninh",
    "074": "Bình Dương",
    "075": "Đồng Nai",
    "077": "Bà Rịa - Vũng Tàu",
    "079": "Hồ Chí Minh",
    "080": "Long An",
    "082": "Tiền Giang",
    "083": "Bến Tre",
    "084": "Trà Vinh",
    "086": "Vĩnh Long",
    "087": "Đồng Tháp",
    "089": "An Giang",
    "091": "Kiên Giang",
    "092": "Cần Thơ",
    "093": "Hậu Giang",
    "094": "Sóc Trăng",
    "095": "Bạc Liêu",
    "096": "Cà Mau",
}
"""Provinces by the code under which births were registered (circular 07/2016/TT-BCA, appendix 1).

Numbers are for life: a province that was merged keeps its code in the numbers given out under it."""

_FOREIGN_BIRTH = range(100, 1000)  # codes of countries; their table is not verified, so any is accepted
_TAX_WEIGHTS = (31, 29, 23, 19, 17, 13, 7, 5, 3)
_LOCALES = ("vi", "en")


@dataclass(frozen=True)
class TaxRule:
    """What serves as a tax code from a day on."""

    valid_from: date
    citizen_number: bool  # of persons and household businesses: the citizen number instead of 10 digits


# Circular 86/2024/TT-BTC changes it on 2025-07-01. A change of the law is a further line, the newest last.
TAX_RULES: Final = (
    TaxRule(date(2012, 1, 1), citizen_number=False),
    TaxRule(date(2025, 7, 1), citizen_number=True),
)


def tax_rule(on: date | None = None) -> TaxRule:
    """The rule in force on a day, before the first line the first; None: the newest."""
    if on is None:
        return TAX_RULES[-1]
    return next((rule for rule in reversed(TAX_RULES) if rule.valid_from <= on), TAX_RULES[0])


class Malformed(ValueError):
    """A value that breaks its rule; `reason` is a stable code."""

    def __init__(self, reason: str, description: str) -> None:
        super().__init__(description)
        self.reason = reason
        self.description = description


class FieldCheck:
    """Collects what is wrong with the fields of one request, so that all of it is answered at once."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def wrong(self, field: str, reason: str, description: str) -> None:
        """Notes that a field is wrong."""
        self.violations.append(FieldViolation(field, reason, description))

    def read(self, field: str, text: str, parse: Callable[[str], str], *, required: bool = False) -> str:
        """The field in its stored form; `""` when it is empty or wrong, which is noted."""
        if not text.strip():
            if required:
                self.wrong(field, "REQUIRED", "must be given")
            return ""
        try:
            return parse(text)
        except Malformed as error:
            self.wrong(field, error.reason, error.description)
            return ""

    def day(self, field: str, text: str) -> date | None:
        """The ISO date in the field; None when it is empty or wrong, which is noted."""
        if not text:
            return None
        try:
            if len(text) != 10:
                raise ValueError(text)
            return date.fromisoformat(text)
        except ValueError:
            self.wrong(field, "DATE_SHAPE", "an ISO date such as 2026-07-01")
            return None

    def done(self) -> None:
        """Raises InvalidInput with everything noted, if anything was."""
        if self.violations:
            raise InvalidInput(violations=self.violations)


@dataclass(frozen=True)
class CitizenNumber:
    """The twelve digits of a citizen: place of birth (3), century and sex (1), year (2), serial (6).

    It has no check digit.
    """

    digits: str

    @property
    def place(self) -> str:
        """The province where the birth was registered; `""` when it was abroad or is not known."""
        return PROVINCES.get(self.digits[:3], "")

    @property
    def place_known(self) -> bool:
        """Whether the first three digits are those of a province or lie where countries have theirs."""
        return self.digits[:3] in PROVINCES or int(self.digits[:3]) in _FOREIGN_BIRTH

    @property
    def female(self) -> bool:
        """The sex that the number states."""
        return int(self.digits[3]) % 2 == 1

    @property
    def birth_year(self) -> int:
        """The full year of birth."""
        return 1900 + int(self.digits[3]) // 2 * 100 + int(self.digits[4:6])

    @classmethod
    def parse(cls, text: str, *, year: int) -> CitizenNumber:
        """The number as typed, with spaces or dots allowed; `year` is the present one. Raises Malformed.

        A place that we do not know is taken: our table may be older than the number. A counter is told.
        """
        digits = re.sub(r"[\s.]", "", identifier(text))
        if not re.fullmatch(r"[0-9]{12}", digits):
            raise Malformed("CITIZEN_NUMBER_SHAPE", "a citizen number has 12 digits")
        number = cls(digits)
        if digits[3] not in "0123":
            raise Malformed("CITIZEN_NUMBER_CENTURY", "the fourth digit is 0 to 3")
        if number.birth_year > year:
            raise Malformed("CITIZEN_NUMBER_YEAR", "the year of birth lies in the future")
        return number


def citizen_number_of(text: str, *, year: int) -> str:
    """The 12 digits of a citizen number that obeys the rules in the present `year`."""
    return CitizenNumber.parse(text, year=year).digits


def hints_on(number: str) -> tuple[str, ...]:
    """What an official at a counter shall look at twice in a citizen number or a tax code, as codes."""
    if re.fullmatch(r"[0-9]{12}", number) and not CitizenNumber(number).place_known:
        return ("CITIZEN_NUMBER_PLACE",)
    return ()


def tax_code_of(text: str, *, on: date | None = None) -> str:
    """A tax code as `0100109106` or, for a branch, `0100109106-001`; the last of the 10 digits is checked.

    By the rule in force on the day `on` (None: the newest) also the 12 digits of a citizen number, which is
    the tax code of a household business.
    """
    compact = re.sub(r"[\s.]", "", identifier(text))
    if tax_rule(on).citizen_number and re.fullmatch(r"[0-9]{12}", compact):
        return citizen_number_of(compact, year=on.year if on else 9999)
    match = re.fullmatch(r"([0-9]{10})(?:-?([0-9]{3}))?", compact)
    if match is None:
        raise Malformed("TAX_CODE_SHAPE", "a tax code has 10 digits, and 3 more for a branch")
    digits, branch = match.groups()
    total = sum(int(digit) * weight for digit, weight in zip(digits, _TAX_WEIGHTS, strict=False))
    if int(digits[9]) != 10 - total % 11:
        raise Malformed("TAX_CODE_CHECK_DIGIT", "the check digit of the tax code is wrong")
    if branch == "000":
        raise Malformed("TAX_CODE_BRANCH", "branches are numbered from 001")
    return f"{digits}-{branch}" if branch else digits


def phone_of(text: str) -> str:
    """A mobile number as `0901000101`, from that or from `+84 901 000 101`."""
    digits = re.sub(r"[\s.()-]", "", identifier(text))
    national = re.sub(r"^(?:\+|00)?84(?=[0-9]{9}$)", "0", digits)
    if not re.fullmatch(r"0[35789][0-9]{8}", national):
        raise Malformed(
            "PHONE_SHAPE", "a mobile number is 0 and nine digits, of which the first is 3, 5, 7, 8 or 9"
        )
    return national


def email_of(text: str) -> str:
    """An e-mail address in lower case, also before the @: no provider in use tells its case apart."""
    address = identifier(text).lower()
    label = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
    shape = rf"[a-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@(?:{label}\.)+[a-z][a-z0-9-]{{0,61}}[a-z0-9]"
    local = address.partition("@")[0]
    if (
        len(address) > 254
        or not re.fullmatch(shape, address)
        or local[:1] == "."
        or local[-1:] == "."
        or ".." in local
    ):
        raise Malformed("EMAIL_SHAPE", "not an e-mail address")
    return address


def username_of(text: str) -> str:
    """An official's name for signing in: 3 to 32 of a-z, 0-9, dot, dash, underscore, with a letter first."""
    name = identifier(text).lower()
    if not re.fullmatch(r"[a-z][a-z0-9._-]{2,31}", name):
        raise Malformed(
            "USERNAME_SHAPE", "3 to 32 letters, digits, dots, dashes or underscores, a letter first"
        )
    return name


def locale_of(text: str) -> str:
    """`vi` or `en`."""
    locale = identifier(text).lower()
    if locale not in _LOCALES:
        raise Malformed("LOCALE_UNKNOWN", "vi or en")
    return locale


@dataclass(frozen=True)
class Identifier:
    """Something that names one account and no other, in its stored form: what people sign in with."""

    type: str
    value: str

    @property
    def key(self) -> str:
        """The id of its reservation. Keeps the value out of indexes, logs and errors; it is no secret."""
        return derived("identifier", self.type, self.value)


def identifiers_in(text: str) -> tuple[Identifier, ...]:
    """What the text can mean to somebody signing in, most likely first; empty when it can mean nothing.

    Ten digits may be a phone and a tax code at once, twelve the number of a person and the tax code of their
    household business. A citizen number is taken by its shape alone here.
    """
    digits = re.sub(r"[\s.]", "", identifier(text))
    if re.fullmatch(r"[0-9]{12}", digits):
        return (Identifier("citizen_number", digits), Identifier("tax_code", digits))
    found = []
    for kind, parse in (
        ("phone", phone_of),
        ("tax_code", tax_code_of),
        ("email", email_of),
        ("username", username_of),
    ):
        try:
            found.append(Identifier(kind, parse(text)))
        except Malformed:
            continue
    return tuple(found)


def masked_for_office(identifier: Identifier) -> str:
    """An identifier for an official without a need to know it: enough to tell two people apart whose papers
    lie on the desk, as `0790******12`, `090*****01` or `n***@example.vn`."""
    value = identifier.value
    if identifier.type == "email":
        local, at, domain = value.partition("@")
        return f"{local[:1]}***{at}{domain}"
    kept = 4 if len(value) == 12 else 3
    return value[:kept] + "*" * max(len(value) - kept - 2, 0) + value[-2:]


def masked(number: str) -> str:
    """A citizen number for other people's eyes: the last three digits only."""
    return "•" * (len(number) - 3) + number[-3:] if number else ""
