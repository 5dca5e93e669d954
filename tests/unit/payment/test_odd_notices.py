"""A notice that the gateway signed and that does not fit pays nothing, and nobody overlooks it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kit.auth import ANONYMOUS, Caller, Role
from kit.errors import DomainError
from payment.domain.lifecycle import ChargeState, Method, PaymentState, Result
from payment.domain.records import Report
from payment.handlers import StatementLine, chores, paying, reconciling
from payment.vnpay import IpnAnswer

DAY = "2026-11-23"
AN = Caller("an", "citizen")
CASHIER = Caller("official", "official", (Role("H32.15", "cashier"),))
ODD = {
    "another currency": {"vnp_CurrCode": "USD"},
    "no pay date": {"vnp_PayDate": ""},
    "broken pay date": {"vnp_PayDate": "yesterday"},
    "a date cut short": {"vnp_PayDate": "2026112312000"},
    "a date long ago": {"vnp_PayDate": "20010101120000"},
    "a date to come": {"vnp_PayDate": "20991231235959"},
    "no transaction": {"vnp_TransactionNo": "0"},
    "no whole amount": {"vnp_Amount": "2000001"},
    "another amount": {"vnp_Amount": "100"},
}


async def told(world: Any, **changed: str) -> tuple[str, Any]:
    """The answer to a notice of success that differs so, and the payment's charge."""
    world.charge("c1")
    _, payment, _ = await paying.begin_payment(world.ports, AN, charge_id="c1", method=Method.VNPAY)
    answer = await paying.handle_vnpay_ipn(world.ports, ANONYMOUS, parameters=world.ipn(payment, **changed))
    return answer.value[0], world.stored("c1")


async def kinds(world: Any) -> list[str]:
    found = await reconciling.reconcile(world.ports, CASHIER, day=DAY)
    return [difference.kind for difference in found.differences]


@pytest.mark.proof("9.9")
@pytest.mark.parametrize("changed", ODD.values(), ids=ODD)
async def test_it_pays_nothing_and_reconciliation_shows_it(world: Any, changed: dict[str, str]) -> None:
    code, charge = await told(world, **changed)
    assert (charge.state, charge.payments[0].state) == (ChargeState.DUE, PaymentState.SUSPECT)
    assert code == ("04" if {"vnp_CurrCode", "vnp_Amount"} & changed.keys() else "00")
    assert await kinds(world) == ["REVIEW"]


async def test_said_again_it_changes_nothing_more(world: Any) -> None:
    _, charge = await told(world, vnp_PayDate="")
    again = world.ipn(charge.payments[0], vnp_PayDate="")
    answer = await paying.handle_vnpay_ipn(world.ports, ANONYMOUS, parameters=again)
    assert answer is IpnAnswer.ALREADY_CONFIRMED
    assert world.stored("c1").revision == charge.revision


async def test_parameters_that_come_twice_are_looked_at(world: Any) -> None:
    world.charge("c1")
    _, payment, _ = await paying.begin_payment(world.ports, AN, charge_id="c1", method=Method.VNPAY)
    await paying.handle_vnpay_ipn(world.ports, ANONYMOUS, parameters=world.ipn(payment), repeated=True)
    (looked_at,) = world.stored("c1").under_review()
    assert looked_at.review.reasons == ["PARAMETERS"]


@pytest.mark.proof("9.9")
async def test_an_inquiry_that_knows_no_date_pays_nothing_either(world: Any) -> None:
    world.charge("c1")
    _, payment, _ = await paying.begin_payment(world.ports, AN, charge_id="c1", method=Method.VNPAY)
    world.gateway.knows[payment.reference] = Report(payment.reference, Result.PAID, 20_000, "00", "T1", "")
    world.now += timedelta(minutes=5)
    await chores.sweep(world.ports)
    assert world.stored("c1").state is ChargeState.DUE
    assert await kinds(world) == ["REVIEW"]


async def test_an_inquiry_that_knows_the_date_settles_it(world: Any) -> None:
    _, charge = await told(world, vnp_PayDate="")
    reference = charge.payments[0].reference
    world.gateway.knows[reference] = Report(reference, Result.PAID, 20_000, "00", "14000001", DAY)
    await chores.sweep(world.ports)
    charge = world.stored("c1")
    assert (charge.state, charge.under_review()) == (ChargeState.PAID, [])


async def test_only_a_person_tells_what_another_currency_means(world: Any) -> None:
    _, charge = await told(world, vnp_CurrCode="USD")
    payment = charge.payments[0]
    for result in (Result.PAID, Result.FAILED):
        world.gateway.knows[payment.reference] = Report(
            payment.reference, result, 20_000, "00", "14000001", DAY
        )
        world.now += timedelta(hours=2)
        await chores.sweep(world.ports)
        assert world.stored("c1").payments[0].state is PaymentState.SUSPECT
    how: dict[str, Any] = {"charge_id": "c1", "payment_id": payment.id, "reason": "Sao kê có 20.000 đ"}
    with pytest.raises(DomainError, match="BAD_AMOUNT"):
        await paying.review_payment(world.ports, CASHIER, accept=True, **how)
    charge = await paying.review_payment(world.ports, CASHIER, accept=True, amount=20_000, **how)
    assert (charge.state, charge.under_review()) == (ChargeState.PAID, [])
    world.gateway.lines = [StatementLine(payment.reference, "14000001", 20_000, 0)]
    assert await kinds(world) == []
    with pytest.raises(DomainError, match="NOTHING_TO_REVIEW"):
        await paying.review_payment(world.ports, CASHIER, accept=False, **how)


async def test_a_cashier_refuses_it_and_the_payer_may_try_again(world: Any) -> None:
    _, charge = await told(world, vnp_CurrCode="USD")
    with pytest.raises(DomainError, match="PAYMENT_UNDER_REVIEW"):
        await paying.begin_payment(world.ports, AN, charge_id="c1", method=Method.VNPAY)
    payment = charge.payments[0].id
    await paying.review_payment(
        world.ports, CASHIER, charge_id="c1", payment_id=payment, accept=False, reason="Không có tiền về"
    )
    await paying.begin_payment(world.ports, AN, charge_id="c1", method=Method.VNPAY)
    assert world.stored("c1").payments[0].state is PaymentState.FAILED
    assert await kinds(world) == []


@pytest.mark.proof("9.9")
async def test_a_statement_that_has_a_transaction_twice_is_told(world: Any) -> None:
    charge = world.paid("c1")
    line = StatementLine(charge.payments[0].reference, "T-c1", 20_000, 0)
    world.gateway.lines = [line, line]
    assert await kinds(world) == ["TWICE"]


async def test_a_refund_annuls_the_receipt_and_leaves_no_gap(world: Any) -> None:
    world.paid("c1")
    await chores.sweep(world.ports)
    await paying.refund_payment(world.ports, CASHIER, charge_id="c1", reason="Thu nhầm")
    await chores.sweep(world.ports)
    world.now += timedelta(minutes=1)
    await chores.sweep(world.ports)
    (receipt,) = world.receipts.items.values()
    assert (receipt.void_reason, receipt.voided_at) == ("OFFICIAL", world.now)
    world.paid("c2")
    await chores.sweep(world.ports)
    assert world.numbers() == [1, 2]
    assert world.stored("c1").chore_at() == ""
