"""The working calendar: days, hours, the cut-off, and limits over holidays."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.bootstrap import shipped_calendar
from catalog.calendar import TimeLimit, TimeUnit, parse
from kit.clock import VIETNAM
from kit.errors import FailedPrecondition, InvalidInput

CALENDAR = shipped_calendar()
WORKING_DAYS = TimeUnit.WORKING_DAY


def at(text: str) -> datetime:
    """An instant of Vietnam's wall clock."""
    return datetime.fromisoformat(text).replace(tzinfo=VIETNAM)


def due(start: str, amount: int, unit: TimeUnit = WORKING_DAYS) -> str:
    return CALENDAR.due(at(start), TimeLimit(amount, unit)).at.astimezone(VIETNAM).strftime("%Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("day", "works"),
    [
        ("2026-01-01", False),
        ("2026-01-02", False),  # swapped for Saturday 10 January
        ("2026-01-10", True),
        ("2026-02-13", True),
        *((f"2026-02-{day}", False) for day in range(14, 23)),  # the nine days of Tết
        ("2026-02-23", True),
        ("2026-04-26", False),  # giỗ tổ, a Sunday …
        ("2026-04-27", False),  # … is made up on Monday
        ("2026-04-28", True),
        ("2026-04-30", False),
        ("2026-05-01", False),
        ("2026-08-22", True),
        ("2026-08-31", False),
        ("2026-09-01", False),
        ("2026-09-02", False),
        ("2026-09-03", True),
        ("2026-11-24", False),  # Vietnamese Culture Day, since 2026
        ("2027-02-06", False),
        ("2027-02-12", True),
        ("2027-04-16", False),
        ("2027-05-03", False),  # 1 May is a Saturday
        ("2027-11-24", False),
    ],
)
def test_the_holidays_of_2026_and_2027_are_as_decided(day: str, works: bool) -> None:
    assert CALENDAR.is_working(date.fromisoformat(day)) is works


def test_a_limit_counts_from_the_working_day_after_receipt() -> None:
    assert due("2026-11-16T09:00", 1) == "2026-11-17 17:00"
    assert due("2026-11-16T09:00", 3) == "2026-11-19 17:00"
    assert CALENDAR.due(at("2026-11-13T09:00"), TimeLimit(1, WORKING_DAYS)).counted_from == date(2026, 11, 16)


def test_a_dossier_received_after_15_00_counts_from_the_next_working_day() -> None:
    assert due("2026-11-16T15:00", 3) == "2026-11-19 17:00"
    assert due("2026-11-16T15:00:01", 3) == "2026-11-20 17:00"
    assert due("2026-11-20T15:30", 1) == "2026-11-25 17:00"  # Friday → Monday; Tuesday 24 is a holiday


def test_what_comes_on_a_day_off_counts_as_received_on_the_next_working_day() -> None:
    assert due("2026-11-14T10:00", 2) == due("2026-11-16T07:30", 2) == "2026-11-18 17:00"


def test_same_day_work_ends_that_day_or_the_next_working_day_after_the_cut_off() -> None:
    assert due("2026-11-16T14:59", 0) == "2026-11-16 17:00"
    assert due("2026-11-16T15:01", 0) == "2026-11-17 17:00"


def test_tet_stretches_a_limit_by_nine_days() -> None:
    assert due("2026-02-12T09:00", 2) == "2026-02-23 17:00"


def test_days_count_all_days_and_an_end_on_a_day_off_moves_to_the_next_working_day() -> None:
    assert due("2026-11-16T09:00", 10, TimeUnit.DAY) == "2026-11-26 17:00"
    assert due("2026-11-16T09:00", 5, TimeUnit.DAY) == "2026-11-23 17:00"


def test_hours_are_working_hours_and_skip_noon_and_night() -> None:
    assert due("2026-11-16T10:30", 2, TimeUnit.HOUR) == "2026-11-16 14:00"
    assert due("2026-11-16T10:30", 1, TimeUnit.HOUR) == "2026-11-16 11:30"
    assert due("2026-11-16T11:45", 1, TimeUnit.HOUR) == "2026-11-16 14:00"
    assert due("2026-11-16T14:00", 8, TimeUnit.HOUR) == "2026-11-17 14:00"
    assert due("2026-11-16T05:00", 8, TimeUnit.HOUR) == "2026-11-16 17:00"


@pytest.mark.parametrize("start", ["2025-12-30T09:00", "2028-01-03T09:00", "2027-12-28T09:00"])
def test_a_year_without_a_table_is_an_error_and_never_a_guess(start: str) -> None:
    with pytest.raises(FailedPrecondition, match="CALENDAR_YEAR_UNKNOWN"):
        CALENDAR.due(at(start), TimeLimit(10, WORKING_DAYS))


def test_a_limit_out_of_range_is_refused() -> None:
    for amount in (-1, 100_000):
        with pytest.raises(InvalidInput, match="LIMIT_OUT_OF_RANGE"):
            CALENDAR.due(at("2026-11-16T09:00"), TimeLimit(amount, TimeUnit.DAY))


def test_working_days_between_two_instants_match_the_limit() -> None:
    assert CALENDAR.working_days(at("2026-11-16T09:00"), at("2026-11-19T17:00")) == 3
    assert CALENDAR.working_days(at("2026-11-16T16:00"), at("2026-11-19T17:00")) == 2
    assert CALENDAR.working_days(at("2026-11-16T09:00"), at("2026-11-16T17:00")) == 0
    assert CALENDAR.working_days(at("2026-11-19T09:00"), at("2026-11-16T17:00")) == 0
    with pytest.raises(InvalidInput, match="SPAN_TOO_LONG"):
        CALENDAR.working_days(at("2026-11-19T09:00"), at("2126-11-16T17:00"))


def test_every_entry_of_the_table_names_its_source() -> None:
    for year in CALENDAR.years.values():
        assert all(holiday.source and holiday.name and holiday.name_en for holiday in year.holidays)
    assert all(holiday.verified for holiday in CALENDAR.year(2026).holidays)


def test_rules_hold_from_their_date_on() -> None:
    old = {"valid_from": "2026-01-01", "rest_days": [5, 6], "hours": [["07:30", "17:00"]], "cut_off": "15:00"}
    new = {**old, "valid_from": "2026-11-17", "cut_off": "16:00"}
    table: dict[str, list[str]] = {"holidays": [], "working_rest_days": []}
    calendar = parse({"rules": [{**new, "source": "n"}, {**old, "source": "o"}], "years": {"2026": table}})
    limit = TimeLimit(1, WORKING_DAYS)
    assert calendar.due(at("2026-11-16T15:30"), limit).counted_from == date(2026, 11, 18)
    assert calendar.due(at("2026-11-17T15:30"), limit).counted_from == date(2026, 11, 18)


@pytest.mark.parametrize(
    "hours", [[], [["08:00", "07:00"]], [["07:30", "12:00"], ["11:00", "17:00"]], [["07:30", "07:30"]]]
)
def test_malformed_hours_are_refused(hours: list[list[str]]) -> None:
    rule = {
        "valid_from": "2026-01-01",
        "rest_days": [5, 6],
        "hours": hours,
        "cut_off": "15:00",
        "source": "x",
    }
    with pytest.raises(ValueError, match="rising spans"):
        parse({"rules": [rule], "years": {"2026": {"holidays": [], "working_rest_days": []}}})


STARTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 3, 31)).map(lambda d: d.replace(tzinfo=UTC))
LIMITS = st.builds(TimeLimit, st.integers(0, 60), st.sampled_from(TimeUnit))


@given(STARTS, LIMITS)
def test_a_due_time_is_always_a_working_instant_and_never_before_the_receipt(
    start: datetime, limit: TimeLimit
) -> None:
    end = CALENDAR.due(start, limit).at
    assert CALENDAR.is_working_instant(end)
    assert end >= CALENDAR.received(start) or limit.amount == 0
    assert end.microsecond % 1000 == 0


@given(STARTS, STARTS, LIMITS)
def test_a_later_start_is_never_due_earlier(one: datetime, other: datetime, limit: TimeLimit) -> None:
    earlier, later = sorted((one, other))
    assert CALENDAR.due(earlier, limit).at <= CALENDAR.due(later, limit).at


@given(STARTS, LIMITS, st.integers(0, 20))
def test_more_time_is_never_due_earlier(start: datetime, limit: TimeLimit, more: int) -> None:
    longer = TimeLimit(limit.amount + more, limit.unit)
    assert CALENDAR.due(start, limit).at <= CALENDAR.due(start, longer).at


@given(STARTS, st.integers(1, 60))
def test_counting_the_days_of_a_limit_gives_the_limit_back(start: datetime, amount: int) -> None:
    end = CALENDAR.due(start, TimeLimit(amount, WORKING_DAYS)).at
    assert CALENDAR.working_days(start, end) == amount
    assert CALENDAR.working_days(start, end + timedelta(seconds=1)) == amount


@given(STARTS, LIMITS)
def test_a_restarted_limit_is_the_same_as_a_fresh_one(start: datetime, limit: TimeLimit) -> None:
    received = CALENDAR.received(start)
    assert CALENDAR.due(received, limit) == CALENDAR.due(start, limit)
    assert CALENDAR.received(received) == received
