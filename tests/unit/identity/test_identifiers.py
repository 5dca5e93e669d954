"""Citizen numbers, tax codes, phones, e-mail addresses and names."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.domain.identifiers import (
    PROVINCES,
    CitizenNumber,
    Malformed,
    citizen_number_of,
    email_of,
    identifiers_in,
    masked,
    phone_of,
    tax_code_of,
    username_of,
)

YEAR = 2026
WEIGHTS = (31, 29, 23, 19, 17, 13, 7, 5, 3)

digits = st.text("0123456789", min_size=1, max_size=14)
mobile = st.from_regex(r"0[35789][0-9]{8}", fullmatch=True)


def reason(parse: object, text: str, **more: object) -> str:
    with pytest.raises(Malformed) as caught:
        parse(text, **more)  # type: ignore[operator]
    return caught.value.reason


@pytest.mark.parametrize(
    ("number", "place", "female", "year"),
    [
        ("079090000101", "Hồ Chí Minh", False, 1990),
        ("001085000202", "Hà Nội", False, 1985),
        ("056195012345", "Khánh Hòa", True, 1995),
        ("056205012345", "Khánh Hòa", False, 2005),
        ("075310012345", "Đồng Nai", True, 2010),
    ],
)
def test_a_citizen_number_tells_place_sex_and_year(number: str, place: str, female: bool, year: int) -> None:
    parsed = CitizenNumber.parse(number, year=YEAR)
    assert (parsed.place, parsed.female, parsed.birth_year) == (place, female, year)


@given(
    place=st.sampled_from(sorted(PROVINCES)),
    century=st.sampled_from("0123"),
    year=st.integers(0, 99),
    serial=st.integers(0, 999_999),
)
def test_every_number_made_by_the_rule_is_accepted_until_it_lies_in_the_future(
    place: str, century: str, year: int, serial: int
) -> None:
    number = f"{place}{century}{year:02d}{serial:06d}"
    born = 1900 + 100 * (int(century) // 2) + year
    if born > YEAR:
        assert reason(citizen_number_of, number, year=YEAR) == "CITIZEN_NUMBER_YEAR"
    else:
        assert citizen_number_of(f" {number[:3]} {number[3:6]}.{number[6:]}", year=YEAR) == number


@pytest.mark.parametrize(
    ("number", "wrong"),
    [
        ("07909000010", "CITIZEN_NUMBER_SHAPE"),
        ("0790900001011", "CITIZEN_NUMBER_SHAPE"),
        ("07909000010a", "CITIZEN_NUMBER_SHAPE"),
        ("٠٧٩٠٩٠٠٠٠١٠١", "CITIZEN_NUMBER_SHAPE"),
        ("079490000101", "CITIZEN_NUMBER_CENTURY"),
        ("079290000101", "CITIZEN_NUMBER_YEAR"),
    ],
)
def test_a_citizen_number_that_breaks_a_rule_is_refused_for_that(number: str, wrong: str) -> None:
    assert reason(citizen_number_of, number, year=YEAR) == wrong


def test_somebody_born_abroad_has_the_code_of_a_country() -> None:
    assert CitizenNumber.parse("234090000101", year=YEAR).place == ""


@given(digits)
def test_a_citizen_number_is_accepted_unchanged_or_refused(text: str) -> None:
    with contextlib.suppress(Malformed):
        assert citizen_number_of(text, year=YEAR) == text


@given(st.from_regex(r"[0-9]{9}", fullmatch=True))
def test_one_check_digit_at_most_makes_a_tax_code(nine: str) -> None:
    remainder = sum(int(digit) * weight for digit, weight in zip(nine, WEIGHTS, strict=True)) % 11
    good = []
    for last in "0123456789":
        with contextlib.suppress(Malformed):
            good.append(tax_code_of(nine + last))
    assert good == ([] if remainder == 0 else [f"{nine}{10 - remainder}"])


def test_a_branch_has_three_digits_more() -> None:
    assert tax_code_of("0100109106") == "0100109106"
    assert tax_code_of("0100109106-001") == "0100109106-001"
    assert tax_code_of("0100109106 001") == "0100109106-001"
    assert reason(tax_code_of, "0100109106-000") == "TAX_CODE_BRANCH"
    assert reason(tax_code_of, "0100109106-1") == "TAX_CODE_SHAPE"
    assert reason(tax_code_of, "0100109107") == "TAX_CODE_CHECK_DIGIT"


@given(mobile)
def test_a_phone_is_the_same_with_and_without_its_country(phone: str) -> None:
    forms = (
        phone,
        f"+84{phone[1:]}",
        f"84{phone[1:]}",
        f"0084{phone[1:]}",
        f"{phone[:4]} {phone[4:7]}.{phone[7:]}",
    )
    assert {phone_of(form) for form in forms} == {phone}
    assert phone_of(phone_of(phone)) == phone


@pytest.mark.parametrize(
    "phone", ["0123456789", "090100010", "09010001011", "+85901000101", "0901x00101", "+84"]
)
def test_what_is_no_mobile_number_is_refused(phone: str) -> None:
    assert reason(phone_of, phone) == "PHONE_SHAPE"


@pytest.mark.parametrize(
    "address", ["an@example.vn", "An.Nguyen+hoso@Mail.Example.COM", " o'neil@x-y.io ", "a@b.vn"]
)
def test_an_address_is_kept_in_lower_case(address: str) -> None:
    assert email_of(address) == address.strip().lower()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "an",
        "an@",
        "@x.vn",
        "an@x",
        "a b@x.vn",
        ".a@x.vn",
        "a.@x.vn",
        "a..b@x.vn",
        "a@-x.vn",
        "a@x.vn\nBcc: b@x.vn",
        "a" * 65 + "@x.vn",
        "an@" + "x" * 250 + ".vn",
        "ấn@x.vn",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    assert reason(email_of, address) == "EMAIL_SHAPE"


def test_ten_digits_can_be_a_phone_and_a_tax_code() -> None:
    assert [found.type for found in identifiers_in("0316794479")] == ["phone", "tax_code"]
    assert [found.type for found in identifiers_in("0316794478")] == ["phone"]
    assert [found.type for found in identifiers_in("0100109106")] == ["tax_code"]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("079 090 000 101", "citizen_number", "079090000101"),
        ("+84901000101", "phone", "0901000101"),
        ("AN@Example.vn", "email", "an@example.vn"),
        ("NT.TiepNhan", "username", "nt.tiepnhan"),
        ("0100109106-001", "tax_code", "0100109106-001"),
    ],
)
def test_what_is_typed_at_sign_in_is_recognised(text: str, kind: str, value: str) -> None:
    found, *_ = identifiers_in(text)
    assert (found.type, found.value) == (kind, value)


@given(st.text(max_size=40))
def test_any_text_may_be_typed_at_sign_in(text: str) -> None:
    for found in identifiers_in(text):
        assert found.key == type(found)(found.type, found.value).key
        assert found.value not in found.key or len(found.value) < 3


def test_usernames_begin_with_a_letter() -> None:
    assert username_of(" Nt.TiepNhan ") == "nt.tiepnhan"
    for wrong in ("1abc", "ab", "a" * 33, "a b c", "trần"):
        assert reason(username_of, wrong) == "USERNAME_SHAPE"


def test_others_see_three_digits_of_a_citizen_number() -> None:
    assert masked("079090000101") == "•••••••••101"
    assert masked("") == ""
