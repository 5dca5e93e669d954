"""Fees: flat ones, per page with tiers and a cap, shares of the counter fee, dates and channels."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.domain import Channel, FeeLine, FeeRule, quote
from catalog.grpc_api import from_message
from catalog.load import curated
from kit.errors import InvalidInput

TODAY = date(2026, 11, 23)
CURATED = {message.code: from_message(message).content for message in curated()}
COPY_FEE = CURATED["2.000815"].fees


def total(code: str, channel: Channel, on: date = TODAY, **quantities: int) -> int:
    return quote(CURATED[code].fees, channel, quantities, on).total


@pytest.mark.parametrize(
    ("pages", "fee"), [(1, 2_000), (2, 4_000), (3, 5_000), (12, 14_000), (198, 200_000), (500, 200_000)]
)
def test_a_certified_copy_costs_2000_a_page_then_1000_from_page_3_and_at_most_200000(
    pages: int, fee: int
) -> None:
    assert total("2.000815", Channel.COUNTER, page=pages) == fee
    assert total("2.000815", Channel.COUNTER, page=pages, copy=3) == 3 * fee


def test_pages_that_nobody_counted_are_not_guessed() -> None:
    with pytest.raises(InvalidInput) as refused:
        total("2.000815", Channel.COUNTER)
    assert [(v.field, v.reason) for v in refused.value.violations] == [("quantities.page", "REQUIRED")]


@pytest.mark.parametrize(
    ("code", "channel", "fee"),
    [
        ("2.000635", Channel.ONLINE, 8_000),
        ("2.000884", Channel.COUNTER, 10_000),
        ("2.001035", Channel.ONLINE, 50_000),
        ("1.004222", Channel.COUNTER, 20_000),
        ("1.004222", Channel.ONLINE, 10_000),
        ("1.004194", Channel.COUNTER, 10_000),
        ("1.004194", Channel.ONLINE, 7_000),
        ("1.014063", Channel.COUNTER, 50_000),
        ("1.014063", Channel.ONLINE, 50_000),
        ("3.000347", Channel.ONLINE, 135_000),
        ("2.001199", Channel.ONLINE, 100_000),
        ("2.001199", Channel.COUNTER, 125_000),
    ],
)
def test_the_curated_fees_are_the_real_ones(code: str, channel: Channel, fee: int) -> None:
    assert total(code, channel) == fee


def test_fees_change_with_their_dates() -> None:
    assert total("1.014063", Channel.ONLINE, date(2025, 12, 31)) == 25_000  # half the counter fee
    assert total("1.014063", Channel.ONLINE, date(2026, 1, 1)) == 50_000
    assert total("3.000347", Channel.ONLINE, date(2025, 12, 31)) == 115_000
    assert total("2.001199", Channel.COUNTER, date(2027, 1, 1)) == 150_000


@pytest.mark.parametrize("code", ["1.001193", "1.000894", "1.000656", "1.001776", "1.010041"])
def test_the_free_ones_are_known_to_be_free(code: str) -> None:
    free = quote(CURATED[code].fees, Channel.ONLINE, {}, TODAY)
    assert (free.known, free.total, free.lines) == (True, 0, ())


@pytest.mark.parametrize("code", ["1.004873", "1.013225", "1.001612"])
def test_a_fee_that_the_province_sets_is_not_known(code: str) -> None:
    assert not quote(CURATED[code].fees, Channel.ONLINE, {}, TODAY).known


def test_a_channel_without_a_rule_is_not_known_and_borrows_no_other_fee() -> None:
    assert not quote(CURATED["1.004222"].fees, Channel.POST, {}, TODAY).known


def test_a_share_of_a_counter_fee_that_is_not_valid_any_more_is_not_known() -> None:
    rules = (
        FeeRule("Phí", Channel.COUNTER, 100, valid_to=date(2026, 1, 1)),
        FeeRule("Phí", Channel.ONLINE, percent_of_counter=50),
    )
    assert not quote(rules, Channel.ONLINE, {}, TODAY).known


def test_quantities_are_bounded() -> None:
    for pages in (0, -1, 100_001):
        with pytest.raises(InvalidInput, match=r"quantities\.page"):
            total("2.000815", Channel.COUNTER, page=pages)


@given(st.integers(1, 2000), st.integers(1, 5))
def test_more_pages_never_cost_less_and_the_cap_holds_for_each_copy(pages: int, copies: int) -> None:
    def fee(pages: int) -> int:
        return quote(COPY_FEE, Channel.COUNTER, {"page": pages, "copy": copies}, TODAY).total

    assert fee(pages) <= fee(pages + 1) <= 200_000 * copies
    assert fee(pages) == min(200_000, 2_000 * min(pages, 2) + 1_000 * max(0, pages - 2)) * copies


@given(st.integers(0, 10**9), st.integers(1, 100))
def test_a_share_is_a_whole_number_of_dong_and_at_most_the_counter_fee(amount: int, percent: int) -> None:
    rules = (
        FeeRule("Phí", Channel.COUNTER, amount),
        FeeRule("Phí", Channel.ONLINE, percent_of_counter=percent),
    )
    online = quote(rules, Channel.ONLINE, {}, TODAY).total
    assert 0 <= online <= amount
    assert abs(online * 100 - amount * percent) <= 50


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5000)), min_size=1, max_size=5), st.integers(1, 80)
)
def test_tiers_add_up_unit_by_unit(steps: list[tuple[int, int]], count: int) -> None:
    prices = dict(sorted(steps))
    rules = [
        FeeRule("Phí", Channel.ANY, price, unit="page", from_unit=begin) for begin, price in prices.items()
    ]

    def price_of(unit: int) -> int:
        begun = [begin for begin in prices if begin <= unit]
        return prices[max(begun)] if begun else 0

    expected = sum(price_of(unit) for unit in range(1, count + 1))
    line = quote(rules, Channel.POST, {"page": count}, TODAY)
    assert line.lines == ((FeeLine("Phí", expected, count),) if expected else ())
