"""Tax codes since 2025-07-01, and citizen numbers of places that our table does not know."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from identity.domain import identifiers
from identity.domain.accounts import Account, Kind, Status
from identity.domain.identifiers import Malformed, citizen_number_of, identifiers_in, tax_code_of

NUMBER = "079090000101"


def taken(read: Any, text: str, **more: Any) -> bool:
    try:
        read(text, **more)
    except Malformed:
        return False
    return True


@pytest.mark.proof("9.17")
def test_the_number_of_a_household_businesss_owner_is_its_tax_code() -> None:
    assert taken(tax_code_of, NUMBER)
    assert tax_code_of(" 079 090.000101 ") == NUMBER
    for wrong in ("079490000101", "0790900001", "07909000010", "079090000101-001", "٠٧٩٠٩٠٠٠٠١٠١"):
        assert not taken(tax_code_of, wrong), wrong


@pytest.mark.proof("9.17")
@pytest.mark.parametrize("place", ["000", "003", "056", "097", "099"])
def test_a_number_of_a_place_that_we_do_not_know_is_taken(place: str) -> None:
    assert taken(citizen_number_of, f"{place}090000101", year=2026)


@pytest.mark.proof("9.17")
def test_twelve_digits_may_name_a_person_and_their_business() -> None:
    assert [meant.type for meant in identifiers_in(NUMBER)] == ["citizen_number", "tax_code"]


@pytest.mark.parametrize(
    ("on", "person"), [(date(2025, 6, 30), False), (date(2025, 7, 1), True), (date(2000, 1, 1), False)]
)
def test_the_day_decides(on: date, person: bool) -> None:
    assert taken(tax_code_of, NUMBER, on=on) is person
    assert taken(tax_code_of, "0100109106-001", on=on)
    an = Account(
        id="an",
        kind=Kind.PERSON,
        name="Nguyễn Thị An",
        status=Status.ACTIVE,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        citizen_number=NUMBER,
        opened_at="H32.15",
    )
    assert an.tax_number(on) == (NUMBER if person else "")
    assert an.for_others().tax_number(on) == ""
    assert NUMBER not in (an.for_office(admin=True).tax_number(on), an.for_office(admin=True).citizen_number)
    an.opened_at = ""
    assert an.tax_number(on) == "", "nobody proved that the number is theirs"


def test_only_a_place_that_we_do_not_know_is_hinted_at() -> None:
    assert identifiers.hints_on("003090000101") == ("CITIZEN_NUMBER_PLACE",)
    for known in (NUMBER, "234090000101", "0100109106", "0100109106-001", ""):
        assert identifiers.hints_on(known) == ()
