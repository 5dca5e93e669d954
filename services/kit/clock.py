"""Time. An instant is an aware UTC datetime cut to milliseconds, so that it survives storage unchanged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

Clock = Callable[[], datetime]
"""Where code that needs the time gets it: `now`, or a fake in tests."""

VIETNAM = ZoneInfo("Asia/Ho_Chi_Minh")


def now() -> datetime:
    """The present instant in UTC, cut to milliseconds."""
    return to_ms(datetime.now(UTC))


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
