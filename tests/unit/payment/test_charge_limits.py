"""What cannot be paid is not charged: amounts, lines and names have bounds before anything is stored."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from catalog.domain import Channel, FeeRule, quote
from kit.errors import DomainError
from payment import vietqr
from payment.domain.charge import create
from payment.domain.lifecycle import Method
from payment.domain.records import Line

NOON = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
LARGEST = 9_999_999_999


def charged(*lines: Line) -> Any:
    return create(id="c", payer="an", dossier="d", agency="H32.15", lines=list(lines), now=NOON)


@pytest.mark.proof("9.9")
@pytest.mark.parametrize(
    "lines",
    [
        [Line("Lệ phí", 10**13)],
        [Line("Lệ phí", LARGEST + 1)],
        [Line("a", LARGEST), Line("b", 1)],
        [Line("a", 2**63 - 1), Line("b", 2**63 - 1)],
        [Line("a", 1)] * 51,
        [Line("a" * 201, 1)],
        [Line(" ", 1)],
        [Line("a", 1, 2**31)],
    ],
    ids=["tera", "over", "sum", "overflow", "lines", "long name", "no name", "quantity"],
)
def test_lines_that_no_gateway_takes_are_refused(lines: list[Line]) -> None:
    refused = ""
    try:
        charged(*lines)
    except DomainError as error:
        refused = error.reason
    assert refused == "AMOUNT_NOT_CHARGEABLE"


def test_the_largest_amount_can_be_paid_both_ways() -> None:
    charge = charged(Line("Tiền sử dụng đất", LARGEST))
    assert len(str(charge.amount * 100)) == 12, "VNPay's field"
    code = vietqr.build(vietqr.Transfer("970436", "1032026001", charge.amount, charge.reference + "01"))
    assert vietqr.parse(code).amount == LARGEST


@pytest.mark.proof("9.9")
def test_a_quote_that_multiplies_past_the_largest_amount_is_refused() -> None:
    fees = [FeeRule("Chứng thực", Channel.ANY, amount=2_000, unit="page/copy")]
    asked = {"page": 100_000, "copy": 100_000}
    refused = ""
    try:
        quote(fees, Channel.ONLINE, asked, date(2026, 11, 23))
    except DomainError as error:
        refused = error.reason
    assert refused == "AMOUNT_NOT_CHARGEABLE"


@pytest.mark.proof("9.9")
def test_a_charge_from_before_there_were_limits_begins_no_attempt() -> None:
    charge = charged(Line("Lệ phí", 1))
    charge.amount = 10**13
    refused = ""
    try:
        charge.begin(Method.VIETQR, payment="p", now=NOON, ask_after=NOON - NOON)
    except DomainError as error:
        refused = error.reason
    assert refused == "AMOUNT_NOT_CHARGEABLE"
    assert not charge.payments
