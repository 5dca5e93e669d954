"""Names of persons and organisations: those that people have, and none that is a message."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.domain.identifiers import Malformed
from identity.domain.names import organisation_name_of, person_name_of

BOTH = (person_name_of, organisation_name_of)


def reason(rule: Callable[[str], str], text: str) -> str:
    with pytest.raises(Malformed) as caught:
        rule(text)
    return caught.value.reason


@pytest.mark.parametrize(
    "name",
    [
        "Nguyễn Thị An",
        "H’Hen Niê",
        "Y Bhiă Êban",
        "O'Connor",
        "Jean-Luc Picard",
        "Nguyễn Văn A.",
        "St. John",
        "岸田 文雄",
        "محمد علي",
        "ครูสมชาย ใจดี",
        "नरेन्द्र मोदी",
        "Nguyễn Thị Nhân Tiền",
    ],
)
def test_a_person_may_have_this_name(name: str) -> None:
    assert person_name_of(name) == name == organisation_name_of(name)


@pytest.mark.parametrize(
    "name",
    [
        "Công ty TNHH 36",
        "Công ty CP Đầu tư & Phát triển (Việt Nam)",
        'Trường mầm non "Hoa Sen" 1/6',
        "Công ty TNHH MTV TM – DV ABC+",
        "Cơ quan H32.15",
    ],
)
def test_an_organisation_may_have_this_name(name: str) -> None:
    assert organisation_name_of(name) == name
    assert reason(person_name_of, name) in ("NAME_DIGITS", "NAME_CHARACTERS")


@pytest.mark.parametrize(
    "name",
    [
        "nhận 500.000đ tại http://vay.example",
        "Nhận tiền tại vay-tien.com",
        "evil.com",
        "t.me",
        "www.evil.vn",
        "https evil vn",
        "a@b.vn",
        "<b>An</b>",
        "[An](x)",
        "A" + "\u0301" * 9,
        "evil。com",
        "evil．com",
        "Gọi 0901 000 101",
        "Gọi ０９０１０００１０１",
        "Gọi ٠٩٠١٠٠٠١٠١",
        "A" * 201,
        "A" * 60,
        "a//b",
        "12345",
        ".",
        "An `x`",
        "An *x*",
        "An {name}",
        "An $x",
    ],
)
def test_nobody_has_this_name(name: str) -> None:
    for rule in BOTH:
        assert reason(rule, name).startswith("NAME_")


def test_a_name_typed_in_pieces_is_the_same_name() -> None:
    typed = unicodedata.normalize("NFD", "  Nguyễn   Thị Đẹp ")
    assert person_name_of(typed) == "Nguyễn Thị Đẹp"
    assert person_name_of("J.R.R. Tolkien") == "J. R. R. Tolkien"
    assert organisation_name_of("UBND TP.HCM, Q.3") == "UBND TP. HCM, Q. 3"


@given(st.text(max_size=60) | st.text("aB. ,'-ễ/&3Q", max_size=30))
def test_a_name_comes_out_in_one_form_that_stays_and_holds_no_address(text: str) -> None:
    for rule in BOTH:
        try:
            name = rule(text)
        except Malformed:
            continue
        assert name == rule(name) == unicodedata.normalize("NFC", name)
        assert "  " not in name
        assert name.strip() == name
        assert not any(dot and dot[0].isalpha() for dot in name.split(".")[1:])
        assert not {"@", "<", ">", "\n", "\\"} & set(name)


@pytest.mark.parametrize("pasted", ["An\u200b Bình", "\u202eAn Bình", "An Bình\u3164", "An\ufe0f\u00a0Bình"])
def test_a_name_is_read_without_the_letters_that_nobody_sees(pasted: str) -> None:
    assert person_name_of(pasted) == "An Bình"
