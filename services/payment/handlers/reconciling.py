"""Comparing our books with the statements of gateways."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date

from kit.auth import Caller, allow, official, service
from kit.clock import vietnam_day
from kit.errors import FieldViolation, InvalidInput
from payment.domain.lifecycle import Method, PaymentState
from payment.domain.records import Payment, Review
from payment.handlers import Ports, StatementLine

Key = tuple[Method, str]  # a transaction of a gateway


@dataclass(frozen=True)
class Difference:
    """A payment on which we and the gateway disagree: MISSING_HERE, MISSING_THERE, AMOUNT, STATE, or TWICE
    for a transaction that one side has more than once; or REVIEW: a person has yet to look at it here."""

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
    if on > vietnam_day(ports.clock()):
        raise InvalidInput(violations=[FieldViolation("date", "IN_THE_FUTURE", "not there yet")])
    theirs: dict[Key, list[StatementLine]] = defaultdict(list)
    for method in Method:
        for line in await ports.gateway(method).statement(on):
            theirs[(method, line.transaction)].append(line)
    ours, reviewed = await _taken_on(ports, day)
    matched = matched_amount = 0
    differences = []
    for key in sorted(ours.keys() | theirs.keys() | reviewed.keys()):
        here, there = ours.get(key, []), theirs.get(key, [])
        our_amount, their_amount = sum(p.received for p in here), sum(line.amount for line in there)
        for payment, review in reviewed.get(key, []):
            claimed = payment.received or review.amount
            differences.append(Difference(payment.reference, "REVIEW", claimed, their_amount))
        if len(here) > 1 or len(there) > 1:
            reference = (here or there)[0].reference
            differences.append(Difference(reference, "TWICE", our_amount, their_amount))
            continue
        if not here and reviewed.get(key):
            continue  # the money that the review is about
        stated = there[0] if there else None
        ours_here = here[0] if here else None
        kind = _compare(ours_here, stated)
        if kind:
            reference = ours_here.reference if ours_here else stated.reference if stated else ""
            differences.append(Difference(reference, kind, our_amount, their_amount))
        else:
            matched += 1
            matched_amount += our_amount
    return Reconciliation(matched, matched_amount, differences)


async def _taken_on(
    ports: Ports, day: str
) -> tuple[dict[Key, list[Payment]], dict[Key, list[tuple[Payment, Review]]]]:
    """What we have received on a day, and what is under review of that day."""
    taken: dict[Key, list[Payment]] = defaultdict(list)
    reviewed: dict[Key, list[tuple[Payment, Review]]] = defaultdict(list)
    token = ""
    while True:
        page = await ports.charges.page(
            {"taken_first": {"$gt": "", "$lte": day}, "taken_last": {"$gte": day}}, size=200, token=token
        )
        for charge in page.items:
            for payment in charge.payments:
                if payment.day == day:
                    taken[_key(payment)].append(payment)
                if payment.review and payment.review.open and payment.review.day == day:
                    reviewed[_key(payment)].append((payment, payment.review))
        token = page.next_token
        if not token:
            return taken, reviewed


def _key(payment: Payment) -> Key:
    """A transaction of a gateway; our own reference where we have been told none."""
    return payment.method, payment.gateway_transaction or payment.reference


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
