"""A charge under everything that gateways, payers and officials do to it, in any order."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kit.errors import FailedPrecondition, InvalidInput, NotFound
from kit.mongo import from_plain, to_plain
from payment.domain import lifecycle
from payment.domain.charge import MOST_BEGUN, REFERENCE_LENGTH, Charge, create, reference_of
from payment.domain.lifecycle import (
    CHARGE_EDGES,
    PAYMENT_EDGES,
    Account,
    ChargeState,
    Method,
    PaymentState,
    RefundReason,
    Result,
    Said,
)
from payment.domain.records import Line, Payment, Report

NOON = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
SOON = timedelta(minutes=2)


def new(amount: int = 20_000) -> Charge:
    return create(
        id="c1",
        payer="an",
        dossier="d1",
        agency="H32.15",
        lines=[Line("Lệ phí", amount)],
        now=NOON,
        refundable_on_rejection=True,
    )


def begun(charge: Charge, name: str = "p1", method: Method = Method.VNPAY) -> Payment:
    return charge.begin(method, payment=name, now=NOON, ask_after=SOON)


def paid(payment: Payment, *, amount: int | None = None, transaction: str = "T1") -> Report:
    taken = payment.amount if amount is None else amount
    return Report(payment.reference, Result.PAID, taken, "00", transaction, "2026-11-23")


class Lifecycle(RuleBasedStateMachine):
    """Gateways take money and send it back as they like; what we say of a charge must add up to that."""

    @initialize(amount=st.integers(1, 10**9))
    def start(self, amount: int) -> None:
        self.charge = new(amount)
        self.now = NOON
        self.count = 0
        self.taken: dict[str, int] = {}  # what gateways really hold of ours, by transaction
        self.returned: Counter[str] = Counter()
        self.seen: list[Report] = []

    @rule(minutes=st.integers(1, 120))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(method=st.sampled_from(Method))
    def the_payer_begins(self, method: Method) -> None:
        self.count += 1
        before = len(self.charge.payments)
        try:
            self.charge.begin(method, payment=f"p{self.count}", now=self.now, ask_after=SOON)
        except FailedPrecondition:
            assert len(self.charge.payments) == before
            suspect = any(p.state is PaymentState.SUSPECT for p in self.charge.payments)
            assert self.charge.state is not ChargeState.DUE or suspect or before >= MOST_BEGUN

    def some(self, data: st.DataObject, method: Method | None = None) -> Payment | None:
        fitting = [p for p in self.charge.payments if method in (None, p.method)]
        return data.draw(st.sampled_from(fitting)) if fitting else None

    @rule(data=st.data(), result=st.sampled_from([Result.FAILED, Result.SUSPECT]))
    def the_gateway_reports_no_success(self, data: st.DataObject, result: Result) -> None:
        payment = self.some(data, Method.VNPAY)
        if payment:
            report = Report(payment.reference, result, payment.amount, "24")
            self.seen.append(report)
            self.charge.report(report, now=self.now, must_match=True)

    @rule(data=st.data())
    def the_gateway_reports_success(self, data: st.DataObject) -> None:
        payment = self.some(data, Method.VNPAY)
        if payment:
            transaction = f"V{payment.reference}"  # a gateway takes the money of a reference once
            report = paid(payment, transaction=transaction)
            self.seen.append(report)
            new_money = payment.received == 0
            said = self.charge.report(report, now=self.now, must_match=True)
            assert said is (Said.ACCEPTED if new_money else Said.ALREADY_KNOWN)
            self.taken.setdefault(transaction, report.amount)

    @rule(data=st.data(), more=st.integers(1, 1000))
    def a_notice_with_another_amount_pays_nothing_and_is_flagged(
        self, data: st.DataObject, more: int
    ) -> None:
        payment = self.some(data, Method.VNPAY)
        if payment:
            before = (self.charge.state, payment.received, list(self.charge.entries))
            report = paid(payment, amount=payment.amount + more)
            assert self.charge.report(report, now=self.now, must_match=True) is Said.AMOUNT_DIFFERS
            assert (self.charge.state, payment.received, self.charge.entries) == before
            assert payment.review
            assert "AMOUNT" in payment.review.reasons

    @rule(data=st.data(), more=st.integers(1, 1000))
    def an_inquiry_finds_another_amount(self, data: st.DataObject, more: int) -> None:
        payment = self.some(data, Method.VNPAY)
        if payment and not payment.received:
            transaction = f"V{payment.reference}"
            self.charge.report(
                paid(payment, amount=payment.amount + more, transaction=transaction), now=self.now
            )
            self.taken[transaction] = payment.amount + more

    @rule(data=st.data(), amount=st.none() | st.integers(1, 10**9))
    def a_transfer_arrives(self, data: st.DataObject, amount: int | None) -> None:
        payment = self.some(data, Method.VIETQR)
        if payment and len(self.charge.payments) < 90:
            self.count += 1
            transaction = f"F{self.count}"
            report = paid(payment, amount=amount, transaction=transaction)
            self.seen.append(report)
            said = self.charge.transfer_received(report, payment=f"p{self.count}", now=self.now)
            assert said is (Said.ACCEPTED if report.amount == payment.amount else Said.AMOUNT_DIFFERS)
            self.taken[transaction] = report.amount

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def a_report_is_repeated(self, data: st.DataObject) -> None:
        report = data.draw(st.sampled_from(self.seen))
        payment = self.charge.find_reference(report.reference)
        assert payment
        if report.result is Result.PAID:
            before = to_plain(self.charge)
            if payment.method is Method.VIETQR:
                assert self.charge.transfer_received(report, payment="x", now=self.now) is Said.ALREADY_KNOWN
            else:
                assert self.charge.report(report, now=self.now) is Said.ALREADY_KNOWN
            assert to_plain(self.charge) == before

    @rule(data=st.data(), result=st.sampled_from([Result.UNKNOWN, Result.PENDING, Result.SUSPECT, None]))
    def we_ask_and_learn_nothing(self, data: st.DataObject, result: Result | None) -> None:
        payment = self.some(data)
        if payment:
            self.charge.asked(payment.id, result, now=self.now, ask_after=SOON)

    @rule()
    def the_charge_is_cancelled(self) -> None:
        was_due = self.charge.state is ChargeState.DUE
        try:
            self.charge.cancel("by mistake", now=self.now)
        except FailedPrecondition:
            assert not was_due

    @rule(refundable=st.booleans())
    def the_dossier_ends(self, refundable: bool) -> None:
        self.charge.close(refundable=refundable, reason="DossierRejected", now=self.now)

    @rule()
    def a_cashier_refunds(self) -> None:
        state = self.charge.state
        try:
            self.charge.request_refund(reason=RefundReason.OFFICIAL, by="cashier", now=self.now)
        except FailedPrecondition:
            assert state is not ChargeState.PAID

    @rule(data=st.data(), outcome=st.sampled_from(["done", "later", "refused"]))
    def a_refund_is_sent(self, data: st.DataObject, outcome: str) -> None:
        waiting = [p for p in self.charge.payments if p.refund and p.refund.next_try]
        if not waiting:
            return
        payment = data.draw(st.sampled_from(waiting))
        if outcome == "done":
            self.charge.refund_done(payment.id, now=self.now)
            self.charge.refund_done(payment.id, now=self.now)  # heard twice
            self.returned[payment.gateway_transaction] += payment.received
        else:
            self.charge.refund_failed(
                payment.id, code="99", final=outcome == "refused", now=self.now, wait=SOON
            )

    @invariant()
    def all_money_is_accounted_for(self) -> None:
        charge = self.charge
        assert {p.gateway_transaction: p.received for p in charge.payments if p.received} == self.taken
        held = sum(self.taken.values()) - sum(self.returned.values())
        assert charge.balance(Account.AT_VNPAY) + charge.balance(Account.AT_BANK) == held
        owed = sum(p.received for p in charge.payments if p.state is PaymentState.REFUND_PENDING)
        assert charge.balance(Account.REFUNDS_DUE) == -owed
        due = charge.state is ChargeState.DUE
        earned = charge.state in (ChargeState.DUE, ChargeState.PAID)
        assert charge.balance(Account.RECEIVABLE) == (charge.amount if due else 0)
        assert charge.balance(Account.FEES) == -(charge.amount if earned else 0)

    @invariant()
    def the_books_balance(self) -> None:
        assert sum(self.charge.balance(account) for account in Account) == 0
        assert all(entry.amount > 0 for entry in self.charge.entries)

    @invariant()
    def one_payment_settles_at_most(self) -> None:
        settled = self.charge.state in (ChargeState.PAID, ChargeState.REFUND_PENDING, ChargeState.REFUNDED)
        assert (self.charge.settling() is not None) == settled
        announced = Counter(type(event) for event in self.charge.events)
        assert announced[lifecycle.ChargePaid] == int(settled)
        assert announced[lifecycle.ChargeCreated] == 1
        assert announced[lifecycle.ChargeCancelled] == int(self.charge.state is ChargeState.CANCELLED)
        assert announced[lifecycle.PaymentRefunded] == len(self.returned)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        for payment in self.charge.payments:
            if payment.state in (PaymentState.PENDING, PaymentState.SUSPECT):
                assert payment.next_ask
            if payment.state is PaymentState.REFUND_PENDING:
                assert payment.refund
                assert payment.refund.next_try or payment.refund.stuck
        settled = self.charge.paid_at is not None
        assert (self.charge.next_receipt is not None) == settled

    @invariant()
    def it_survives_storage(self) -> None:
        stored = to_plain(self.charge) | {"events": []}
        assert to_plain(from_plain(Charge, stored)) == stored


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_every_edge_names_its_event_but_for_those_that_concern_nobody() -> None:
    quiet = {edge for edge, event in PAYMENT_EDGES.items() if event is None}
    assert quiet == {
        (PaymentState.PENDING, PaymentState.EXPIRED),
        (PaymentState.PENDING, PaymentState.SUSPECT),
        (PaymentState.EXPIRED, PaymentState.SUSPECT),
        (PaymentState.FAILED, PaymentState.SUSPECT),
    }


def test_every_state_can_be_reached() -> None:
    assert {target for _, target in CHARGE_EDGES} == set(ChargeState)
    assert {PaymentState.PENDING} | {target for _, target in PAYMENT_EDGES} == set(PaymentState)


def test_a_second_success_is_sent_back_as_a_double_payment() -> None:
    charge = new()
    first, second = begun(charge), begun(charge, "p2")
    charge.report(paid(first), now=NOON)
    assert charge.report(paid(second, transaction="T2"), now=NOON) is Said.ACCEPTED
    assert (first.state, second.state) == (PaymentState.PAID, PaymentState.REFUND_PENDING)
    assert charge.events[-1] == lifecycle.RefundRequested("p2", 20_000, "DOUBLE_PAYMENT")
    charge.refund_done("p2", now=NOON)
    assert charge.state is ChargeState.PAID


def test_money_for_a_cancelled_charge_is_sent_back() -> None:
    charge = new()
    payment = begun(charge)
    charge.cancel("DossierStopped", now=NOON)
    charge.report(paid(payment), now=NOON)
    assert charge.events[-1] == lifecycle.RefundRequested("p1", 20_000, "CHARGE_CANCELLED")


def test_a_success_after_a_failure_or_after_time_still_counts() -> None:
    for spoil in (Result.FAILED, None):
        charge = new()
        payment = begun(charge)
        if spoil:
            charge.report(Report(payment.reference, spoil, payment.amount, "24"), now=NOON)
        else:
            charge.asked("p1", Result.UNKNOWN, now=NOON + timedelta(hours=2), ask_after=SOON)
            assert payment.state is PaymentState.EXPIRED
        charge.report(paid(payment), now=NOON)
        assert charge.state is ChargeState.PAID


def test_a_late_failure_does_not_undo_a_payment() -> None:
    charge = new()
    payment = begun(charge)
    charge.report(paid(payment), now=NOON)
    late = Report(payment.reference, Result.FAILED, payment.amount, "24")
    assert charge.report(late, now=NOON) is Said.ALREADY_KNOWN
    assert charge.state is ChargeState.PAID


def test_while_a_payment_is_under_review_no_other_is_begun() -> None:
    charge = new()
    payment = begun(charge)
    charge.report(Report(payment.reference, Result.SUSPECT, payment.amount, "07"), now=NOON)
    with pytest.raises(FailedPrecondition, match="PAYMENT_UNDER_REVIEW"):
        begun(charge, "p2")


def test_an_open_payment_is_asked_about_ever_less_often_and_then_given_up() -> None:
    charge = new()
    payment = begun(charge)
    waits = []
    now = NOON
    while payment.next_ask:
        waits.append(payment.next_ask - now)
        now = payment.next_ask
        charge.asked("p1", Result.UNKNOWN, now=now, ask_after=SOON)
    assert waits == [timedelta(minutes=m) for m in (2, 2, 4, 8, 16)]
    assert payment.state is PaymentState.EXPIRED


def test_a_refused_refund_waits_for_a_person_who_can_try_again() -> None:
    charge = new()
    payment = begun(charge)
    charge.report(paid(payment), now=NOON)
    charge.request_refund(reason=RefundReason.OFFICIAL, by="cashier", now=NOON)
    charge.refund_failed("p1", code="95", final=True, now=NOON, wait=SOON)
    assert payment.refund
    assert payment.refund.next_try is None
    charge.request_refund(reason=RefundReason.OFFICIAL, by="cashier", now=NOON)
    assert payment.refund.next_try == NOON
    with pytest.raises(FailedPrecondition, match="REFUND_UNDER_WAY"):
        charge.request_refund(reason=RefundReason.OFFICIAL, by="cashier", now=NOON)


def test_only_the_rule_of_the_procedure_sends_a_paid_fee_back() -> None:
    for refundable, ours, state in (
        (True, True, ChargeState.REFUND_PENDING),
        (False, True, ChargeState.PAID),
        (True, False, ChargeState.PAID),
    ):
        charge = new()
        charge.refundable_on_rejection = ours
        payment = begun(charge)
        charge.report(paid(payment), now=NOON)
        charge.close(refundable=refundable, reason="DossierRejected", now=NOON)
        assert charge.state is state


def test_a_transfer_to_a_reference_of_another_way_to_pay_is_unknown() -> None:
    charge = new()
    payment = begun(charge)
    assert charge.transfer_received(paid(payment), payment="x", now=NOON) is Said.UNKNOWN


def test_references_fit_into_a_transfers_text_and_differ() -> None:
    references = {reference_of(str(n)) for n in range(2000)}
    assert len(references) == 2000
    assert all(len(r) == REFERENCE_LENGTH and r.isalnum() for r in references)


def test_a_charge_needs_a_positive_amount_in_dong() -> None:
    more: dict[str, Any] = {"id": "c", "payer": "an", "dossier": "d", "agency": "H32.15", "now": NOON}
    for lines in ([], [Line("Miễn phí", 0)], [Line("a", 5), Line("b", -1)], [Line("a", 5, 0)]):
        with pytest.raises(InvalidInput, match="AMOUNT_NOT_CHARGEABLE"):
            create(lines=lines, **more)
    with pytest.raises(InvalidInput, match="CURRENCY_UNKNOWN"):
        create(lines=[Line("a", 5)], currency="USD", **more)


def test_an_unknown_payment_is_not_found() -> None:
    with pytest.raises(NotFound):
        new().payment("nobody")
