"""Several charges, a gateway, dossiers and a service that dies at any step: money and numbers add up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kit.auth import ANONYMOUS, Caller, Role
from kit.errors import FailedPrecondition
from payment.domain import lifecycle
from payment.domain.lifecycle import Account, ChargeState, Method, PaymentState, Result
from payment.domain.receipts import ReceiptIssued
from payment.domain.records import Payment, Report
from payment.handlers import chores, dossiers, paying
from payment.vnpay import IpnAnswer

AN = Caller("an", "citizen")
CASHIER = Caller("c", "official", (Role("H32.15", "cashier"),))


class Machine(RuleBasedStateMachine):
    """Every rule may be cut off by a crash; what a rule asked for from outside is then asked for again."""

    def __init__(self, new_world: Callable[[], Any], crash: type[BaseException]) -> None:
        super().__init__()
        self.world = new_world()
        self.crash = crash
        self.loop = asyncio.new_event_loop()
        self.count = 0
        self.open: list[Payment] = []  # begun at the gateway and not ended there
        self.ended: list[tuple[Payment, dict[str, str]]] = []

    def teardown(self) -> None:
        self.settle()
        self.loop.close()

    def run(self, work: Awaitable[Any], die_at: int = 0) -> Any:
        """Runs it, or dies at a step; None when it died."""
        self.world.steps.taken, self.world.steps.die_at = 0, die_at
        try:
            return self.loop.run_until_complete(asyncio.ensure_future(work, loop=self.loop))
        except self.crash:
            return None
        finally:
            self.world.steps.die_at = 0

    @rule()
    def a_fee_is_asked_for(self) -> None:
        self.count += 1
        self.world.charge(f"c{self.count}", refundable_on_rejection=bool(self.count % 2))

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def the_payer_begins(self, data: st.DataObject) -> None:
        charge = f"c{data.draw(st.integers(1, self.count))}"
        try:
            _, payment, _ = self.run(
                paying.begin_payment(self.world.ports, AN, charge_id=charge, method=Method.VNPAY)
            )
        except FailedPrecondition:
            assert self.world.stored(charge).state is not ChargeState.DUE
        else:
            self.open.append(payment)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), succeeds=st.booleans(), told=st.booleans(), die_at=st.integers(0, 8))
    def the_gateway_ends_a_payment(
        self, data: st.DataObject, succeeds: bool, told: bool, die_at: int
    ) -> None:
        payment = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        succeeds = succeeds and self.world.now < payment.expires_at  # it closes its page by itself
        codes = {} if succeeds else {"vnp_ResponseCode": "24", "vnp_TransactionStatus": "02"}
        number = f"T{payment.reference}"
        parameters = self.world.ipn(payment, vnp_TransactionNo=number, **codes)
        result = Result.PAID if succeeds else Result.FAILED
        self.world.gateway.knows[payment.reference] = Report(
            payment.reference, result, payment.amount, "00" if succeeds else "24", number, "2026-11-23"
        )
        self.ended.append((payment, parameters))
        if told:
            self.notice(parameters, die_at)

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), die_at=st.integers(0, 8))
    def a_notice_comes_late_or_again(self, data: st.DataObject, die_at: int) -> None:
        self.notice(data.draw(st.sampled_from(self.ended))[1], die_at)

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), amount=st.integers(1, 10**6))
    def a_forged_notice_comes(self, data: st.DataObject, amount: int) -> None:
        _, parameters = data.draw(st.sampled_from(self.ended))
        before = len(self.world.charges.events)
        forged = {**parameters, "vnp_Amount": str(amount), "vnp_ResponseCode": "00"}
        if forged != parameters:
            assert self.notice(forged) is IpnAnswer.BAD_CHECKSUM
        assert len(self.world.charges.events) == before

    def notice(self, parameters: dict[str, str], die_at: int = 0) -> Any:
        return self.run(paying.handle_vnpay_ipn(self.world.ports, ANONYMOUS, parameters=parameters), die_at)

    @precondition(lambda self: self.count)
    @rule(data=st.data(), refundable=st.booleans(), die_at=st.integers(0, 8))
    def a_dossier_ends(self, data: st.DataObject, refundable: bool, die_at: int) -> None:
        number = data.draw(st.integers(1, self.count))
        for attempt in (die_at, 0):  # the event is delivered again after a crash
            self.run(
                dossiers.dossier_closed(
                    self.world.ports,
                    dossier=f"dossier-c{number}",
                    refundable=refundable,
                    reason="DossierRejected",
                    event=f"e{number}",
                ),
                attempt,
            )

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def a_cashier_refunds(self, data: st.DataObject) -> None:
        charge = f"c{data.draw(st.integers(1, self.count))}"
        try:
            self.run(paying.refund_payment(self.world.ports, CASHIER, charge_id=charge, reason="Thu nhầm"))
        except FailedPrecondition:
            assert self.world.stored(charge).state is not ChargeState.PAID

    @rule(minutes=st.integers(1, 40), die_at=st.integers(0, 30), down=st.booleans())
    def time_passes_and_the_service_sweeps(self, minutes: int, die_at: int, down: bool) -> None:
        self.world.now += timedelta(minutes=minutes)
        self.world.gateway.down = down
        self.run(chores.sweep(self.world.ports, parallel=1), die_at)
        self.world.gateway.down = False

    @invariant()
    def numbers_have_no_gap_and_receipts_no_twin(self) -> None:
        numbers = self.world.numbers()
        assert numbers == list(range(1, len(numbers) + 1))
        announced = [charge for charge, event in self.world.receipts.events if type(event) is ReceiptIssued]
        assert len(announced) == len(set(announced)) == len(numbers)
        for book in self.world.books.items.values():
            assert book.last - len(numbers) in (0, 1), "at most the last number waits for its receipt"

    @invariant()
    def each_charge_is_paid_once_and_its_books_balance(self) -> None:
        for charge in self.world.charges.items.values():
            events = [type(e) for id, e in self.world.charges.events if id == charge.id]
            assert events.count(lifecycle.ChargePaid) == int(charge.paid_at is not None)
            assert sum(charge.balance(account) for account in Account) == 0

    def settle(self) -> None:
        """Left alone for long enough, all that the gateway holds is earned or has gone back."""
        for _ in range(60):
            self.world.now += timedelta(hours=1)
            if not self.run(chores.sweep(self.world.ports)):
                break
        self.numbers_have_no_gap_and_receipts_no_twin()
        taken = {r.reference: r.amount for r in self.world.gateway.knows.values() if r.result is Result.PAID}
        returned = set(self.world.gateway.refunded)
        charges = self.world.charges.items.values()
        kept = {p.reference for c in charges for p in c.payments if p.state is PaymentState.PAID}
        assert kept | returned == taken.keys()
        assert not kept & returned
        assert len(kept) == sum(c.state is ChargeState.PAID for c in charges)
        assert sum(c.balance(Account.AT_VNPAY) for c in charges) == sum(taken[ref] for ref in kept)
        assert sum(c.balance(Account.REFUNDS_DUE) for c in charges) == 0
        assert len(self.world.numbers()) == sum(c.paid_at is not None for c in charges)


def test_whatever_comes_in_any_order_money_and_numbers_add_up(
    new_world: Callable[[], Any], crash: type[BaseException]
) -> None:
    run_state_machine_as_test(
        lambda: Machine(new_world, crash),  # type: ignore[arg-type]  # it takes any factory
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
