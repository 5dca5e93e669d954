"""Time. An instant is an aware UTC datetime cut to milliseconds, so that it survives storage unchanged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Final
from zoneinfo import ZoneInfo

Clock = Callable[[], datetime]
"""Where code that needs the time gets it: `now`, or a fake in tests."""

VIETNAM = ZoneInfo("Asia/Ho_Chi_Minh")

# What people may give. The oldest papers in force are of the 19th century; nothing is decided for longer than
# this, and years before the first and after the last leave room for zones and for every sum of days.
FIRST_DAY: Final = date(1800, 1, 1)
LAST_DAY: Final = date(2199, 12, 31)
EARLIEST: Final = datetime(1800, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""The first instant that is too late."""


def now() -> datetime:
    """The present instant in UTC, cut to milliseconds."""
    return to_ms(datetime.now(UTC))


def vietnam_day(instant: datetime) -> date:
    """The calendar day in Vietnam."""
    return instant.astimezone(VIETNAM).date()


def to_ms(instant: datetime) -> datetime:
    """The same instant in UTC cut to milliseconds. Raises ValueError for a naive datetime."""
    if instant.tzinfo is None:
        raise ValueError("an instant must say its zone")
    return instant.astimezone(UTC).replace(microsecond=instant.microsecond // 1000 * 1000)


def to_text(instant: datetime) -> str:
    """`2026-11-23T05:00:00.000Z`: fixed width, sorts as text in the order of time."""
    return to_ms(instant).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def from_text(text: str) -> datetime:
    """The instant that `to_text` wrote. Raises ValueError when the text is not one."""
    return to_ms(datetime.fromisoformat(text))
