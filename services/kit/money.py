"""Money: whole đồng, and how much of it one sum can be, so that whoever takes it on can bear it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from kit.errors import FieldViolation

CURRENCY: Final = "VND"  # the only one; đồng have no decimals
# VNPay writes an amount in hundredths of a đồng with at most 12 digits; VietQR has 13 digits for whole đồng.
MOST: Final = 9_999_999_999
MOST_LINES: Final = 50
MOST_UNITS: Final = 1_000_000
LONGEST_NAME: Final = 200


class Item(Protocol):
    """A line of a bill: `amount` is its total in đồng for `quantity` units."""

    @property
    def name(self) -> str: ...
    @property
    def amount(self) -> int: ...
    @property
    def quantity(self) -> int: ...


def is_amount(value: object, *, least: int = 1) -> bool:
    """Whether it is a whole number of đồng from `least` to `MOST`; True and 1.0 are not."""
    return type(value) is int and least <= value <= MOST


def wrong_items(items: Iterable[Item], field: str = "lines") -> list[FieldViolation]:
    """What is wrong with the lines of a bill, and with their sum; nothing when all of it can be charged.

    A line may be free, all of them together may not.
    """
    listed = list(items)
    if len(listed) > MOST_LINES:
        return [FieldViolation(field, "TOO_MANY", f"at most {MOST_LINES}")]
    found = []
    for index, item in enumerate(listed):
        at = f"{field}[{index}]"
        if not item.name.strip():
            found.append(FieldViolation(f"{at}.name", "REQUIRED", "say what for"))
        if len(item.name) > LONGEST_NAME:
            found.append(FieldViolation(f"{at}.name", "TOO_LONG", f"at most {LONGEST_NAME} letters"))
        if not 1 <= item.quantity <= MOST_UNITS:
            found.append(FieldViolation(f"{at}.quantity", "OUT_OF_RANGE", f"1 to {MOST_UNITS}"))
        if type(item.amount) is not int or item.amount < 0:
            found.append(FieldViolation(f"{at}.amount", "BAD_AMOUNT", "a whole number of đồng"))
        elif item.amount > MOST:
            found.append(FieldViolation(f"{at}.amount", "AMOUNT_TOO_LARGE", f"at most {MOST} đồng"))
    if not found:
        total = sum(item.amount for item in listed)
        if total <= 0:
            found.append(FieldViolation(field, "BAD_AMOUNT", "lines that add up to a positive amount"))
        elif total > MOST:
            found.append(FieldViolation(field, "AMOUNT_TOO_LARGE", f"at most {MOST} đồng together"))
    return found
