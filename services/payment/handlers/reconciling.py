"""Comparing our books with the statements of gateways."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from kit.auth import Caller, allow, official, service
from kit.clock import VIETNAM
from kit.errors import FieldViolation, InvalidInput
from payment.domain.lifecycle import Method, PaymentState
from payment.domain.records import Payment
from payment.handlers import Ports, StatementLine


@dataclass(frozen=True)
class Difference:
    """A payment on which we and the gateway disagree: MISSING_HERE, MISSING_THERE, AMOUNT or STATE."""

    reference: str
    kind: str
    our_amount: int
    their_amount: int


@dataclass(frozen=True)
class Reconciliation:
    matched: int
    matched_amount: int
    differences: list[Difference]


@allow(official("cashier", "admin"), service("payment"))
async def reconcile(ports: Ports, caller: Caller, *, day: str) -> Reconciliation:
    """Compares all payments that gateways took on a day (ISO date in Vietnam) with their statements."""
    try:
        on = date.fromisoformat(day)
    except ValueError:
        raise InvalidInput(violations=[FieldViolation("date", "NOT_A_DATE", "YYYY-MM-DD")]) from None
    if on > ports.clock().astimezone(VIETNAM).date():
        raise InvalidInput(violations=[FieldViolation("date", "IN_THE_FUTURE", "not there yet")])
    theirs: dict[tuple[Method, str], StatementLine] = {}
    for method in Method:
        for line in await ports.gateway(method).statement(on):
            theirs[(method, line.transaction)] = line
    ours = await _taken_on(ports, day)
    matched = 0
    matched_amount = 0
    differences = []
    for key in sorted(ours.keys() | theirs.keys()):
        payment, stated = ours.get(key), theirs.get(key)
        kind = _compare(payment, stated)
        if kind:
            reference = payment.reference if payment else stated.reference if stated else ""
            our_amount, their_amount = payment.received if payment else 0, stated.amount if stated else 0
            differences.append(Difference(reference, kind, our_amount, their_amount))
        elif payment:
            matched += 1
            matched_amount += payment.received
    return Reconciliation(matched, matched_amount, differences)


async def _taken_on(ports: Ports, day: str) -> dict[tuple[Method, str], Payment]:
    taken: dict[tuple[Method, str], Payment] = {}
    token = ""
    while True:
        page = await ports.charges.page(
            {"taken_first": {"$gt": "", "$lte": day}, "taken_last": {"$gte": day}}, size=200, token=token
        )
        for charge in page.items:
            for payment in charge.payments:
                if payment.received and payment.taken_on == day:
                    taken[(payment.method, payment.gateway_transaction)] = payment
        token = page.next_token
        if not token:
            return taken


def _compare(ours: Payment | None, theirs: StatementLine | None) -> str:
    """On what the two disagree; empty when they agree. A refund under way may be on either side of done."""
    if ours is None:
        return "MISSING_HERE"
    if theirs is None:
        return "MISSING_THERE"
    if ours.received != theirs.amount:
        return "AMOUNT"
    if ours.state is PaymentState.REFUND_PENDING:
        return ""
    returned = ours.received if ours.state is PaymentState.REFUNDED else 0
    return "" if returned == theirs.refunded else "STATE"
