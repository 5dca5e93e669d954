"""The working calendar: which days are worked, and when a limit that starts at an instant is over.

Everything that the law or the Prime Minister fixes is data (`data/calendar.json`): the holidays of each year
with their source, days off in place of a holiday, rest days that are worked, the hours of work and the hour
after which a filing counts as received on the next working day. A year without a table is an error, never a
guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Any

from kit.clock import VIETNAM, to_ms
from kit.errors import FailedPrecondition, InvalidInput

MAX_AMOUNT = 3660
_DAY = timedelta(days=1)


class TimeUnit(StrEnum):
    """What a limit counts."""

    WORKING_DAY = "working_day"
    DAY = "day"
    HOUR = "hour"


@dataclass(frozen=True)
class TimeLimit:
    """How long a procedure may take. 0 working days: on the day of receipt."""

    amount: int
    unit: TimeUnit


@dataclass(frozen=True)
class Holiday:
    """A day off that is not a weekly rest day; `compensation`: in place of a holiday on a rest day, or
    swapped for a rest day that is worked. `verified` is false while the decision for the year is not
    known."""

    date: date
    name: str
    name_en: str
    compensation: bool
    source: str
    verified: bool = True


@dataclass(frozen=True)
class Year:
    """The table of one year."""

    holidays: tuple[Holiday, ...]
    working_rest_days: tuple[date, ...]


@dataclass(frozen=True)
class Rules:
    """Weekly rest and hours from a date on. `rest_days` are those of `date.weekday()`; `cut_off`: a filing
    received later counts as received on the next working day."""

    valid_from: date
    rest_days: frozenset[int]
    hours: tuple[tuple[time, time], ...]
    cut_off: time
    source: str


@dataclass(frozen=True)
class Due:
    """When a limit is over, and the date of its first counted day."""

    at: datetime
    counted_from: date


class Calendar:
    """Answers questions about working time; all wall-clock times are Vietnam's."""

    def __init__(self, years: Mapping[int, Year], rules: tuple[Rules, ...]) -> None:
        if not years or not rules:
            raise ValueError("a calendar needs at least one year and one set of rules")
        self.years = dict(years)
        self._rules = tuple(sorted(rules, key=lambda r: r.valid_from, reverse=True))
        self._off = {holiday.date for year in years.values() for holiday in year.holidays}
        self._worked = {day for year in years.values() for day in year.working_rest_days}
        if both := self._off & self._worked:
            raise ValueError(f"both off and worked: {sorted(both)}")

    def year(self, year: int) -> Year:
        """The table of a year. Raises FailedPrecondition CALENDAR_YEAR_UNKNOWN when there is none."""
        if year not in self.years:
            known = f"{min(self.years)}-{max(self.years)}"
            raise FailedPrecondition(
                "CALENDAR_YEAR_UNKNOWN", f"no holiday table for {year}", year=year, known=known
            )
        return self.years[year]

    def is_working(self, day: date) -> bool:
        """Whether offices work on that day. Raises FailedPrecondition for a year without a table."""
        self.year(day.year)
        if day in self._off:
            return False
        return day in self._worked or day.weekday() not in self.rules(day).rest_days

    def rules(self, day: date) -> Rules:
        """The rules in force on that day. Raises FailedPrecondition CALENDAR_RULES_UNKNOWN before the
        first."""
        for rules in self._rules:
            if rules.valid_from <= day:
                return rules
        raise FailedPrecondition("CALENDAR_RULES_UNKNOWN", f"no working hours known for {day}", date=day)

    def is_working_instant(self, at: datetime) -> bool:
        """Whether offices are open at that instant; opening and closing times belong to it."""
        local = at.astimezone(VIETNAM)
        if not self.is_working(local.date()):
            return False
        clock = local.time()
        return any(opens <= clock <= closes for opens, closes in self.rules(local.date()).hours)

    def received(self, at: datetime) -> datetime:
        """The instant at which something handed in at `at` counts as received: the next opening when it came
        on a day off, after the cut-off, or outside the hours."""
        local = at.astimezone(VIETNAM)
        day = local.date()
        rules = self.rules(day)
        if not self.is_working(day) or local.time() > rules.cut_off:
            return self._opening(self._working_after(day))
        for opens, closes in rules.hours:
            if local.time() <= closes:
                return max(local, datetime.combine(day, opens, VIETNAM))
        return self._opening(self._working_after(day))

    def due(self, start: datetime, limit: TimeLimit) -> Due:
        """When a limit that starts with a receipt at `start` is over.

        Working days count from the working day after receipt and end with the last one's closing time. Days
        count from the day after receipt; an end on a day off moves to the next working day. Hours are working
        hours. Raises InvalidInput for a limit out of range, FailedPrecondition for an unknown year.
        """
        if not 0 <= limit.amount <= MAX_AMOUNT:
            raise InvalidInput("LIMIT_OUT_OF_RANGE", f"0 to {MAX_AMOUNT}", amount=limit.amount)
        received = self.received(start)
        day = received.date()
        if limit.unit is TimeUnit.HOUR:
            return Due(to_ms(self._after_hours(received, limit.amount)), day)
        if limit.amount == 0:
            return Due(self._closing(day), day)
        if limit.unit is TimeUnit.DAY:
            last = day + limit.amount * _DAY
            return Due(self._closing(self._working_from(last)), day + _DAY)
        first = last = self._working_after(day)
        for _ in range(limit.amount - 1):
            last = self._working_after(last)
        return Due(self._closing(last), first)

    def working_days(self, start: datetime, end: datetime) -> int:
        """The working days counted for something received at `start` until `end`: the day of `end` counts
        when it is worked, the day of receipt does not. 0 when `end` is not after it."""
        day, last = self.received(start).date(), end.astimezone(VIETNAM).date()
        if last > day + MAX_AMOUNT * _DAY:
            raise InvalidInput("SPAN_TOO_LONG", f"at most {MAX_AMOUNT} days")
        return sum(self.is_working(day + n * _DAY) for n in range(1, (last - day).days + 1))

    def _working_from(self, day: date) -> date:
        while not self.is_working(day):
            day += _DAY
        return day

    def _working_after(self, day: date) -> date:
        return self._working_from(day + _DAY)

    def _opening(self, day: date) -> datetime:
        return datetime.combine(day, self.rules(day).hours[0][0], VIETNAM)

    def _closing(self, day: date) -> datetime:
        return to_ms(datetime.combine(day, self.rules(day).hours[-1][1], VIETNAM))

    def _after_hours(self, received: datetime, hours: int) -> datetime:
        left = timedelta(hours=hours)
        for opens, closes in self._spans(received.date()):
            begin = max(opens, received)
            if begin > closes:
                continue
            if left <= closes - begin:
                return begin + left
            left -= closes - begin
        raise AssertionError("working days do not end")

    def _spans(self, day: date) -> Iterator[tuple[datetime, datetime]]:
        while True:
            for opens, closes in self.rules(day).hours:
                yield datetime.combine(day, opens, VIETNAM), datetime.combine(day, closes, VIETNAM)
            day = self._working_after(day)


def parse(data: Mapping[str, Any]) -> Calendar:
    """The calendar that `data/calendar.json` describes. Raises ValueError or KeyError when it is
    malformed."""
    years = {
        int(year): Year(
            holidays=tuple(
                Holiday(
                    date=_within(date.fromisoformat(entry["date"]), int(year)),
                    name=entry["name"],
                    name_en=entry["name_en"],
                    compensation=entry.get("compensation", False),
                    source=entry["source"],
                    verified=entry.get("verified", True),
                )
                for entry in table["holidays"]
            ),
            working_rest_days=tuple(
                _within(date.fromisoformat(entry["date"]), int(year)) for entry in table["working_rest_days"]
            ),
        )
        for year, table in data["years"].items()
    }
    rules = tuple(
        Rules(
            valid_from=date.fromisoformat(entry["valid_from"]),
            rest_days=frozenset(entry["rest_days"]),
            hours=tuple(
                (time.fromisoformat(opens), time.fromisoformat(closes)) for opens, closes in entry["hours"]
            ),
            cut_off=time.fromisoformat(entry["cut_off"]),
            source=entry["source"],
        )
        for entry in data["rules"]
    )
    for rule in rules:
        edges = [edge for span in rule.hours for edge in span]
        if not edges or edges != sorted(set(edges)) or not rule.rest_days < set(range(7)):
            raise ValueError(f"working hours of {rule.valid_from} must be rising spans")
    return Calendar(years, rules)


def _within(day: date, year: int) -> date:
    if day.year != year:
        raise ValueError(f"{day} stands in the table of {year}")
    return day
