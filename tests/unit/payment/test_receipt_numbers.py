"""Receipts: one for each paid charge, and no number missing, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kit.errors import FailedPrecondition
from payment.domain import receipts
from payment.domain.receipts import Book, ReceiptIssued
from payment.handlers import chores


def one_each(world: Any, count: int) -> None:
    """Numbers 1 to count, a receipt for each charge, announced once and known to its charge."""
    assert world.numbers() == list(range(1, count + 1))
    assert len({r.charge for r in world.receipts.items.values()}) == count
    assert len(world.receipts.announced(ReceiptIssued)) == count
    for receipt in world.receipts.items.values():
        assert world.stored(receipt.charge).receipt_number == receipt.label


async def test_a_paid_charge_gets_the_next_number(world: Any) -> None:
    for name in ("a", "b"):
        await chores.issue_receipt(world.ports, world.paid(name))
    one_each(world, 2)
    receipt = world.receipts.items[receipts.receipt_id("b")]
    assert (receipt.form, receipt.label, receipt.payer_name) == ("EBL01", "26TAB/00000002", "Nguyễn Thị An")


async def test_a_crash_at_any_step_loses_no_number_and_repeats_none(
    new_world: Callable[[], Any], crash: type[BaseException]
) -> None:
    at = 0
    while True:
        at += 1
        world = new_world()
        await chores.issue_receipt(world.ports, world.paid("before"))
        charges = {name: world.paid(name) for name in ("struck", "other")}
        world.steps.taken, world.steps.die_at = 0, at
        try:
            await chores.issue_receipt(world.ports, charges["struck"])
            died = False
        except crash:
            died = True
        world.steps.die_at = 0
        # Whoever comes next, the struck one or another, finds what is missing.
        for name in ("other", "struck") if at % 2 else ("struck", "other"):
            await chores.issue_receipt(world.ports, world.stored(name))
        one_each(world, 3)
        if not died:
            break
    assert at > 15  # it did die at many places


async def test_two_crashes_in_a_row_leave_no_gap(
    new_world: Callable[[], Any], crash: type[BaseException]
) -> None:
    for first in range(1, 25):
        for second in range(1, 25, 3):
            world = new_world()
            for name, at in (("a", first), ("b", second)):
                charge = world.paid(name)
                world.steps.taken, world.steps.die_at = 0, at
                with contextlib.suppress(crash):
                    await chores.issue_receipt(world.ports, charge)
                world.steps.die_at = 0
            for name in ("b", "a"):
                await chores.issue_receipt(world.ports, world.stored(name))
            one_each(world, 2)


@pytest.mark.parametrize("seed", range(60))
async def test_many_at_once_share_no_number(world: Any, seed: int) -> None:
    names = [f"c{n}" for n in range(6)]
    charges = [world.paid(name) for name in names]
    world.steps.shuffle = random.Random(seed)  # noqa: S311
    # Each charge twice: two replicas may sweep the same one.
    await asyncio.gather(*(chores.issue_receipt(world.ports, charge) for charge in charges * 2))
    one_each(world, len(names))


async def test_numbers_start_again_each_january_in_vietnam(world: Any) -> None:
    last_second = datetime(2026, 12, 31, 16, 59, 59, tzinfo=UTC)  # 23:59:59 in Vietnam
    for name, at in (("old", last_second), ("new", last_second + timedelta(seconds=1))):
        world.now = at
        world.paid(name)
    world.now = last_second + timedelta(days=2)  # issued late, both
    for name in ("new", "old"):
        await chores.issue_receipt(world.ports, world.stored(name))
    labels = {r.charge: r.label for r in world.receipts.items.values()}
    assert labels == {"old": "26TAB/00000001", "new": "27TAB/00000001"}


async def test_each_agency_has_a_book_of_its_own(world: Any) -> None:
    for name, agency in (("a", "H32.15"), ("b", "H32.16")):
        await chores.issue_receipt(world.ports, world.paid(name, agency=agency))
    assert world.numbers() == [1, 1]


async def test_a_receipt_waits_while_nobody_can_say_who_paid(world: Any) -> None:
    world.paid("a")
    world.people.down = True
    await chores.sweep(world.ports)
    assert world.numbers() == []
    assert world.stored("a").next_receipt > world.now
    world.people.down = False
    world.now += timedelta(minutes=1)
    await chores.sweep(world.ports)
    one_each(world, 1)


async def test_an_unpaid_charge_gets_no_receipt(world: Any) -> None:
    with pytest.raises(FailedPrecondition, match="NOT_PAID"):
        await chores.issue_receipt(world.ports, world.charge("a"))
    assert world.books.items == {}


def test_a_series_ends_at_eight_digits() -> None:
    book = Book("b", "H32.15", "EBL01", "26TAB", last=receipts.LAST_NUMBER - 1)
    assert book.allocate("a") == 99_999_999
    assert book.allocate("a") == 99_999_999
    with pytest.raises(FailedPrecondition, match="SERIES_EXHAUSTED"):
        book.allocate("b")


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("079090000101", "0790******01"),
        ("0100109106-001", "0100109106-001"),
        ("0100109106", "0100109106"),
        ("", ""),
    ],
)
def test_officials_see_no_persons_number_on_a_receipt(code: str, shown: str) -> None:
    receipt = receipts.Receipt(
        *("r", "c", "d", "H32.15-261123-0001", "Khai sinh", "EBL01", "26TAB"),
        number=1,
        payer="an",
        payer_name="Nguyễn Thị An",
        payer_tax_code=code,
        agency="H32.15",
        lines=[],
        amount=8000,
        currency="VND",
        issued_at=datetime(2026, 11, 23, tzinfo=UTC),
    )
    assert receipt.masked_tax_code == shown
