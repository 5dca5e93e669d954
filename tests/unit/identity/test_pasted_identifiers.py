"""What people paste into a field for a number, an address or a name: letters that nobody sees are gone."""

from __future__ import annotations

import pytest

from identity.domain import identifiers
from kit import text

UNSEEN = ["\u200b", "\u200d", "\ufeff", "\u202a", "\u2069", "\u3164", "\u115f", "\u2800", "\u00ad"]


def citizen(number: str) -> str:
    return identifiers.citizen_number_of(number, year=2026)


def parsed(parse: object, given: str) -> str:
    try:
        return str(parse(given))  # type: ignore[operator]
    except ValueError as error:
        return f"refused: {error}"


@pytest.mark.proof("9.16")
@pytest.mark.parametrize("unseen", UNSEEN)
def test_letters_that_nobody_sees_spoil_no_identifier(unseen: str) -> None:
    for parse, typed in (
        (citizen, "079091000019"),
        (identifiers.phone_of, "0901000101"),
        (identifiers.email_of, "an@motcua.vn"),
        (identifiers.username_of, "nt.tiepnhan"),
    ):
        right = parsed(parse, typed)
        assert not right.startswith("refused")
        assert parsed(parse, unseen + typed[:4] + unseen + typed[4:] + unseen + "\n") == right
    meant = identifiers.identifiers_in("079091000019")
    assert identifiers.identifiers_in(f"079{unseen}091 000 019{unseen}") == meant


@pytest.mark.proof("9.16")
def test_full_width_digits_and_other_hyphens_are_what_keyboards_make_of_ascii() -> None:
    assert parsed(citizen, "０７９０９１００００１９") == "079091000019"
    assert parsed(identifiers.phone_of, "+84\u2011901\u2013000\u2212101") == "0901000101"
    assert parsed(identifiers.email_of, "an＠motcua.vn") == "an@motcua.vn"
    assert parsed(citizen, "٠٧٩٠٩١٠٠٠٠١٩").startswith("refused")


@pytest.mark.proof("9.16")
def test_eth_and_d_with_stroke_are_found_as_the_same_letter() -> None:
    assert text.fold("\u00d0\u0103ng k\u00fd") == text.fold("Đăng ký") == "dang ky"
    assert text.fold("\u0189ường \u00f0i") == "duong di"
    assert text.fold("ho\u200b so\u3164") == "ho so"
    assert text.fold("１.００１６１２") == "1.001612"


def test_a_code_from_a_counter_is_read_however_it_was_typed() -> None:
    from identity.handlers.proving import typed_code

    assert typed_code(" ab２3d\u200b-fgh45 ") == "AB23DFGH45"
    assert typed_code("ＡＢ２３Ｄ–FGH45") == "AB23DFGH45"
