"""The rules of charges: what each report of a gateway does to one, and the books that it leaves.

A charge holds all payments that were ever begun or received for it. One of them settles it; whatever else
arrives (paid twice, too late, another amount) is recorded as well and sent back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from kit.clock import to_text, vietnam_day
from kit.errors import FailedPrecondition, InvalidInput, NotFound
from kit.money import CURRENCY, MOST, is_amount, wrong_items
from payment.domain.lifecycle import (
    CHARGE_EDGES,
    HOLDS,
    PAYMENT_EDGES,
    UNSETTLED,
    Account,
    ChargeCancelled,
    ChargeCreated,
    ChargePaid,
    ChargeState,
    Method,
    PaymentFailed,
    PaymentFlagged,
    PaymentRefunded,
    PaymentState,
    RefundReason,
    RefundRequested,
    Result,
    ReviewReason,
    Said,
)
from payment.domain.records import Entry, Line, Payment, Refund, Report, Review

MOST_BEGUN: Final = 50
# A gateway closes its page itself; a code, once saved as a picture, may be paid any time that day.
PAY_WITHIN: Final = {Method.VNPAY: timedelta(minutes=15), Method.VIETQR: timedelta(hours=24)}
SETTLES_WITHIN: Final = timedelta(minutes=15)
LONGEST_WAIT: Final = timedelta(hours=1)
REFERENCE_LENGTH: Final = 14
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U to misread


@dataclass
class Charge:
    """What a dossier's applicant has to pay, and everything that was paid for it."""

    id: str
    payer: str
    dossier: str
    agency: str  # collects the fee: the agency that received the dossier
    lines: list[Line]
    amount: int
    created_at: datetime
    dossier_code: str = ""
    procedure_code: str = ""
    procedure_name: str = ""
    agencies: list[str] = field(default_factory=list)  # whose officials may see it
    currency: str = CURRENCY
    refundable_on_rejection: bool = False
    reference: str = ""
    state: ChargeState = ChargeState.DUE
    payments: list[Payment] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    paid_at: datetime | None = None
    cancel_reason: str = ""
    payer_name: str = ""  # as on the receipt; fetched when that is issued
    payer_tax_code: str = ""
    receipt: str = ""
    receipt_number: str = ""
    receipt_tries: int = 0
    next_void: datetime | None = None  # when its receipt is to be annulled, because the money went back
    next_receipt: datetime | None = None
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def begin(self, method: Method, *, payment: str, now: datetime, ask_after: timedelta) -> Payment:
        """Begins an attempt and returns it (the same one for the same id); several may be open, since
        browsers get closed.

        Raises FailedPrecondition: CHARGE_NOT_DUE, AMOUNT_NOT_CHARGEABLE, PAYMENT_UNDER_REVIEW while
        the gateway or a cashier looks into one that is doubted, TOO_MANY_PAYMENTS.
        """
        for known in self.payments:
            if known.id == payment:
                return known
        if self.state is not ChargeState.DUE:
            raise FailedPrecondition("CHARGE_NOT_DUE", f"the charge is {self.state}", state=self.state.value)
        if not is_amount(self.amount) or self.currency != CURRENCY:  # from before there were limits
            raise FailedPrecondition("AMOUNT_NOT_CHARGEABLE", "no gateway takes this amount")
        if any(p.state is PaymentState.SUSPECT for p in self.payments):
            raise FailedPrecondition("PAYMENT_UNDER_REVIEW", "the gateway is looking into a payment of it")
        if len(self.payments) >= MOST_BEGUN:
            raise FailedPrecondition("TOO_MANY_PAYMENTS", "too many attempts; ask the agency's cashier")
        begun = self._append(method, payment=payment, now=now)
        begun.next_ask = now + ask_after
        return begun

    def report(self, report: Report, *, now: datetime, must_match: bool = False) -> Said:
        """Applies a gateway's word. Repeats and late failures change nothing.

        `must_match` refuses another amount than was asked for without taking note of it, as gateways expect
        of the answer to a notice; our own inquiry then finds what was really taken. Without it the money
        counts as received and is sent back.

        A success that does not fit (`ReviewReason`) pays nothing: the payment is flagged and waits for a
        person, or for an inquiry of ours that answers the question. Only a person can tell what another
        currency means.
        """
        payment = self.find_reference(report.reference)
        if payment is None:
            return Said.UNKNOWN
        if report.result in (Result.PENDING, Result.UNKNOWN):
            return Said.ALREADY_KNOWN
        differs = must_match and report.amount != payment.amount
        if report.result is Result.FAILED:
            if differs:
                return Said.AMOUNT_DIFFERS
            return self._fail(payment, report, now=now)
        doubts = self._doubts(payment, report, now=now, differs=differs)
        if doubts:
            known = not self._flag(payment, report, doubts, now=now)
            if differs or ReviewReason.CURRENCY in doubts:
                return Said.AMOUNT_DIFFERS
            return Said.ALREADY_KNOWN if known else Said.ACCEPTED
        if payment.state not in UNSETTLED:
            return Said.ALREADY_KNOWN
        if report.amount <= 0:
            return Said.AMOUNT_DIFFERS
        if payment.review and payment.review.open:
            if ReviewReason.CURRENCY in payment.review.reasons:
                return Said.ALREADY_KNOWN
            payment.review.decided_at = now
        self._receive(payment, report, now=now)
        return Said.ACCEPTED

    def _fail(self, payment: Payment, report: Report, *, now: datetime) -> Said:
        """A failure ends an attempt, unless a success that the gateway signed before is under review."""
        review = payment.review if payment.review and payment.review.open else None
        contradicts = review is not None and review.reasons != [ReviewReason.GATEWAY]
        if contradicts or (payment.state, PaymentState.FAILED) not in PAYMENT_EDGES:
            return Said.ALREADY_KNOWN
        if review is not None:
            review.decided_at = now
        payment.code, payment.gateway_transaction = report.code, report.transaction
        payment.next_ask = None
        self._move_payment(payment, PaymentState.FAILED, PaymentFailed(payment.id, report.code))
        return Said.ACCEPTED

    def _flag(self, payment: Payment, report: Report, doubts: list[ReviewReason], *, now: datetime) -> bool:
        """Puts a payment under review; False when nothing of it is new."""
        reasons = [reason.value for reason in doubts]
        old = payment.review
        decided = old is not None and old.decided_by != "" and old.transaction == report.transaction
        if old is None or (not old.open and not decided and payment.state in UNSETTLED):
            payment.review = Review(
                reasons=reasons,
                at=now,
                amount=min(max(report.amount, 0), MOST),
                currency=report.currency,
                transaction=report.transaction,
                taken_on=report.taken_on if ReviewReason.PAY_DATE not in doubts else "",
            )
        elif new := [reason for reason in reasons if reason not in old.reasons]:
            old.reasons += new
            old.decided_at, old.decided_by = None, ""
        else:
            return False
        if payment.state in UNSETTLED:
            payment.code, payment.gateway_transaction = report.code, report.transaction
            payment.next_ask = now
            if payment.state is not PaymentState.SUSPECT:
                self._move_payment(payment, PaymentState.SUSPECT, None)
        self.events.append(PaymentFlagged(payment.id, tuple(reasons)))
        return True

    def decide(
        self, payment: str, *, accept: bool, amount: int = 0, by: str, note: str, now: datetime
    ) -> None:
        """A person's word on a payment under review: the money came (`amount` đồng; 0: as claimed), or not.

        Where the payment was settled all the same, this only takes note. Raises FailedPrecondition
        NOTHING_TO_REVIEW, InvalidInput for an amount that cannot be, NotFound for an unknown payment.
        """
        chosen = self.payment(payment)
        review = chosen.review
        if review is None or not review.open:
            raise FailedPrecondition("NOTHING_TO_REVIEW", "nobody has to look at this payment")
        claimed = review.amount if review.currency == CURRENCY else 0
        if accept and chosen.state in UNSETTLED and not is_amount(amount or claimed):
            raise InvalidInput("BAD_AMOUNT", "say how many đồng came")
        review.decided_at, review.decided_by, review.note = now, by, note
        if chosen.state not in UNSETTLED:
            return
        if accept:
            report = Report(
                chosen.reference,
                Result.PAID,
                amount or claimed,
                chosen.code,
                review.transaction,
                review.taken_on or vietnam_day(now).isoformat(),
            )
            self._receive(chosen, report, now=now)
        elif chosen.state is PaymentState.SUSPECT:
            chosen.next_ask = None
            self._move_payment(chosen, PaymentState.FAILED, PaymentFailed(chosen.id, chosen.code))

    def transfer_received(self, report: Report, *, payment: str, now: datetime) -> Said:
        """Money that reached the account with a reference of ours; `payment` is the id if it needs a new one.

        The same bank transaction counts once. A second transfer with the same text is a payment of its own.
        """
        if any(
            p.method is Method.VIETQR and p.gateway_transaction == report.transaction for p in self.payments
        ):
            return Said.ALREADY_KNOWN
        found = self.find_reference(report.reference)
        if found is None or found.method is not Method.VIETQR or report.amount <= 0:
            return Said.UNKNOWN
        if found.received or found.gateway_transaction:
            found = self._append(Method.VIETQR, payment=payment, now=now)
        if doubts := self._doubts(found, report, now=now):
            self._flag(found, report, doubts, now=now)
            return Said.AMOUNT_DIFFERS if ReviewReason.CURRENCY in doubts else Said.ACCEPTED
        self._receive(found, report, now=now)
        return Said.ACCEPTED if report.amount == found.amount else Said.AMOUNT_DIFFERS

    def asked(self, payment: str, result: Result | None, *, now: datetime, ask_after: timedelta) -> None:
        """Notes that the gateway was asked (None: it did not answer): if still open, ask later or give up.

        An attempt that the gateway does not know or has not finished is over some time after the payer's
        time has run out; one under review is asked about for as long as it takes.
        """
        asked = self.payment(payment)
        asked.asked += 1
        over = asked.state is PaymentState.PENDING and now >= asked.expires_at + SETTLES_WITHIN
        if over and result in (Result.UNKNOWN, Result.PENDING):
            asked.next_ask = None
            self._move_payment(asked, PaymentState.EXPIRED, None)
            return
        if asked.state in (PaymentState.PENDING, PaymentState.SUSPECT):
            asked.next_ask = now + backoff(asked.asked, ask_after)
        else:
            asked.next_ask = None

    def taken_days(self) -> list[str]:
        """The ISO dates on which gateways took money for it, or claim to have, in order."""
        days = {p.day for p in self.payments} | {p.review.day for p in self.under_review() if p.review}
        return sorted(days - {""})

    def under_review(self) -> list[Payment]:
        """Its payments that a person has to look at."""
        return [p for p in self.payments if p.review and p.review.open]

    def cancel(self, reason: str, *, now: datetime) -> None:
        """Nobody has to pay it any more. Raises FailedPrecondition CHARGE_NOT_DUE."""
        if self.state is not ChargeState.DUE:
            raise FailedPrecondition("CHARGE_NOT_DUE", f"the charge is {self.state}", state=self.state.value)
        self.cancel_reason = reason
        self._post(now, Account.FEES, Account.RECEIVABLE, self.amount, "cancelled")
        self._move(ChargeState.CANCELLED, ChargeCancelled(reason))

    def request_refund(
        self, *, payment: str = "", reason: RefundReason, by: str, note: str = "", now: datetime
    ) -> None:
        """Sends the money of the payment that settled the charge back, or tries a refused refund again.

        Raises FailedPrecondition NOTHING_TO_REFUND, NotFound for an unknown payment.
        """
        chosen = self.payment(payment) if payment else self.settling()
        if chosen is not None and chosen.state is PaymentState.REFUND_PENDING and chosen.refund:
            if chosen.refund.stuck:
                chosen.refund.stuck, chosen.refund.next_try, chosen.refund.by = "", now, by
                return
            raise FailedPrecondition("REFUND_UNDER_WAY", "the refund of this payment is under way")
        if chosen is None or chosen.state is not PaymentState.PAID:
            raise FailedPrecondition("NOTHING_TO_REFUND", "no money of this payment is with us")
        self._post(now, Account.FEES, Account.REFUNDS_DUE, chosen.received, "refund", chosen.id)
        event = RefundRequested(chosen.id, chosen.received, reason.value)
        chosen.refund = Refund(reason=reason.value, requested_at=now, by=by, note=note, next_try=now)
        self._move_payment(chosen, PaymentState.REFUND_PENDING, None)
        self._move(ChargeState.REFUND_PENDING, event)

    def refund_done(self, payment: str, *, now: datetime) -> None:
        """The gateway took the refund on; saying so again changes nothing."""
        chosen, refund = self._refunding(payment)
        if chosen.state is PaymentState.REFUNDED:
            return
        refund.done_at, refund.next_try = now, None
        refund.tries += 1
        self._post(now, Account.REFUNDS_DUE, HOLDS[chosen.method], chosen.received, "refunded", chosen.id)
        event = PaymentRefunded(chosen.id, chosen.received, refund.reason)
        self._move_payment(chosen, PaymentState.REFUNDED, None)
        if self.state is ChargeState.REFUND_PENDING and chosen is self.settling():
            self._move(ChargeState.REFUNDED, event)
            self.next_void = now
        else:
            self.events.append(event)

    def refund_failed(self, payment: str, *, code: str, final: bool, now: datetime, wait: timedelta) -> None:
        """The gateway did not take the refund: try again later, or (`final`) wait for a person."""
        chosen, refund = self._refunding(payment)
        if chosen.state is not PaymentState.REFUND_PENDING:
            return
        refund.tries += 1
        refund.stuck = code if final else ""
        refund.next_try = None if final else now + backoff(refund.tries, wait)

    def close(self, *, refundable: bool, reason: str, now: datetime) -> None:
        """It ended without a result: what is unpaid falls away, what is paid goes back by the rule."""
        if self.state is ChargeState.DUE:
            self.cancel(reason, now=now)
        elif self.state is ChargeState.PAID and refundable and self.refundable_on_rejection:
            self.request_refund(reason=RefundReason.DOSSIER_CLOSED, by="", note=reason, now=now)

    def receipt_issued(self, receipt: str, number: str) -> None:
        """Remembers the one receipt of this charge; the same again changes nothing."""
        if self.receipt not in ("", receipt):
            raise FailedPrecondition("RECEIPT_EXISTS", "the charge has another receipt already")
        self.receipt, self.receipt_number, self.next_receipt = receipt, number, None

    def receipt_voided(self) -> None:
        """Its receipt is annulled."""
        self.next_void = None

    def receipt_delayed(self, *, now: datetime, wait: timedelta) -> None:
        """The receipt could not be issued now; it will be tried again."""
        self.receipt_tries += 1
        self.next_receipt = now + backoff(self.receipt_tries, wait)

    def payment(self, payment: str) -> Payment:
        """One of its payments by id. Raises NotFound."""
        for one in self.payments:
            if one.id == payment:
                return one
        raise NotFound("PAYMENT_NOT_FOUND", "the charge has no such payment", payment=payment)

    def find_reference(self, reference: str) -> Payment | None:
        """One of its payments by its reference at the gateway."""
        return next((p for p in self.payments if p.reference == reference), None)

    def settling(self) -> Payment | None:
        """The payment that settled the charge, also when its money is on its way back."""
        return next((p for p in self.payments if p.paid_at is not None and not _surplus(p)), None)

    def balance(self, account: Account) -> int:
        """Debits less credits of one account in this charge's books."""
        return sum(
            (e.amount if e.debit is account else 0) - (e.amount if e.credit is account else 0)
            for e in self.entries
        )

    def chore_at(self) -> str:
        """When the service has to do something about it by itself (ISO text); empty: nothing to do."""
        due = [p.next_ask for p in self.payments if p.next_ask]
        due += [p.refund.next_try for p in self.payments if p.refund and p.refund.next_try]
        if self.next_receipt:
            due.append(self.next_receipt)
        elif self.next_void:
            due.append(self.next_void)
        return to_text(min(due)) if due else ""

    def _append(self, method: Method, *, payment: str, now: datetime) -> Payment:
        if len(self.payments) >= 99:
            raise FailedPrecondition("TOO_MANY_PAYMENTS", "no reference is left for this charge")
        appended = Payment(
            id=payment,
            method=method,
            reference=f"{self.reference}{len(self.payments) + 1:02d}",
            amount=self.amount,
            begun_at=now,
            expires_at=now + PAY_WITHIN[method],
        )
        self.payments.append(appended)
        return appended

    def _receive(self, payment: Payment, report: Report, *, now: datetime) -> None:
        """Money is in: it settles the charge, or it is not for us and goes back."""
        payment.received, payment.code = report.amount, report.code
        payment.gateway_transaction, payment.taken_on = report.transaction, report.taken_on
        payment.paid_at, payment.next_ask = now, None
        if self.state is ChargeState.DUE and report.amount == self.amount:
            self.paid_at = self.next_receipt = now
            self._post(now, HOLDS[payment.method], Account.RECEIVABLE, report.amount, "paid", payment.id)
            self._move_payment(payment, PaymentState.PAID, None)
            self._move(ChargeState.PAID, ChargePaid(payment.id, now))
            return
        if report.amount != payment.amount:
            reason = RefundReason.WRONG_AMOUNT
        elif self.state is ChargeState.CANCELLED:
            reason = RefundReason.CHARGE_CANCELLED
        else:
            reason = RefundReason.DOUBLE_PAYMENT
        self._post(now, HOLDS[payment.method], Account.REFUNDS_DUE, report.amount, reason.value, payment.id)
        payment.refund = Refund(reason=reason.value, requested_at=now, next_try=now)
        event = RefundRequested(payment.id, report.amount, reason.value)
        self._move_payment(payment, PaymentState.REFUND_PENDING, event)

    def _doubts(
        self, payment: Payment, report: Report, *, now: datetime, differs: bool = False
    ) -> list[ReviewReason]:
        """What of a signed success does not fit; empty when it can be believed.

        Of a payment that is settled already, only what contradicts it matters.
        """
        settled = payment.state not in UNSETTLED
        paid = report.result is Result.PAID and not settled
        number = report.transaction.strip("0")
        earliest = vietnam_day(self.created_at - timedelta(days=1)).isoformat()
        latest = vietnam_day(now + timedelta(days=1)).isoformat()
        another = settled and number != "" and report.transaction != payment.gateway_transaction
        found = {
            ReviewReason.AMOUNT: differs,
            ReviewReason.CURRENCY: report.currency != CURRENCY,
            ReviewReason.PAY_DATE: paid and not earliest <= report.taken_on <= latest,
            ReviewReason.TRANSACTION: another or (paid and not number),
            ReviewReason.PARAMETERS: paid and report.repeated,
            ReviewReason.GATEWAY: not settled and report.result is Result.SUSPECT,
        }
        return [reason for reason, doubted in found.items() if doubted]

    def _refunding(self, payment: str) -> tuple[Payment, Refund]:
        chosen = self.payment(payment)
        if chosen.refund is None:
            raise FailedPrecondition("NO_REFUND", "no refund of this payment was asked for")
        return chosen, chosen.refund

    def _move(self, target: ChargeState, event: object) -> None:
        if CHARGE_EDGES.get((self.state, target)) is not type(event):
            raise FailedPrecondition("WRONG_STATE", f"no edge from {self.state} to {target} for this")
        self.state = target
        self.events.append(event)

    def _move_payment(self, payment: Payment, target: PaymentState, event: object | None) -> None:
        """Takes an edge of the payments' graph; `event` is None where the charge's own edge announces it."""
        edge = (payment.state, target)
        if edge not in PAYMENT_EDGES or (event is not None and PAYMENT_EDGES[edge] is not type(event)):
            raise FailedPrecondition("WRONG_STATE", f"no edge from {payment.state} to {target} for this")
        payment.state = target
        if event is not None:
            self.events.append(event)

    def _post(
        self, at: datetime, debit: Account, credit: Account, amount: int, cause: str, payment: str = ""
    ) -> None:
        self.entries.append(Entry(at, debit, credit, amount, cause, payment))


def create(
    *,
    id: str,
    payer: str,
    dossier: str,
    agency: str,
    lines: list[Line],
    now: datetime,
    currency: str = CURRENCY,
    dossier_code: str = "",
    procedure_code: str = "",
    procedure_name: str = "",
    agencies: list[str] | None = None,
    refundable_on_rejection: bool = False,
) -> Charge:
    """A new charge that is due. Raises InvalidInput for another currency than đồng, and for lines that no
    gateway could take (`kit.money`)."""
    if currency != CURRENCY:
        raise InvalidInput("CURRENCY_UNKNOWN", "only đồng can be charged", currency=currency)
    if wrong := wrong_items(lines):
        raise InvalidInput("AMOUNT_NOT_CHARGEABLE", violations=wrong)
    amount = sum(line.amount for line in lines)
    charge = Charge(
        id=id,
        payer=payer,
        dossier=dossier,
        agency=agency,
        lines=list(lines),
        amount=amount,
        created_at=now,
        dossier_code=dossier_code,
        procedure_code=procedure_code,
        procedure_name=procedure_name,
        agencies=sorted({agency, *(agencies or ())} - {""}),
        refundable_on_rejection=refundable_on_rejection,
        reference=reference_of(id),
    )
    charge._post(now, Account.RECEIVABLE, Account.FEES, amount, "charged")
    charge.events.append(ChargeCreated())
    return charge


def reference_of(charge: str) -> str:
    """A charge's reference at gateways and banks: `MC` and 12 letters and digits (60 bits) made from its id.

    Two more digits number its payments. 16 plain characters fit into every bank's transfer text.
    """
    value = int.from_bytes(hashlib.sha256(charge.encode()).digest()[:8], "big") >> 4
    return "MC" + "".join(_LETTERS[value >> 5 * place & 31] for place in range(12))


def backoff(tries: int, first: timedelta) -> timedelta:
    """How long to wait after so many tries: doubling from `first`, at most an hour (or `first`)."""
    doublings = min(max(tries - 1, 0), 16)
    return min(first * (1 << doublings), max(LONGEST_WAIT, first))


def _surplus(payment: Payment) -> bool:
    """Whether its money never settled the charge."""
    return payment.refund is not None and payment.refund.reason in (
        RefundReason.DOUBLE_PAYMENT,
        RefundReason.WRONG_AMOUNT,
        RefundReason.CHARGE_CANCELLED,
    )
