"""The use cases of payment: async functions of (ports, caller, …), and the chores that nobody calls for.

A gateway's word is believed for its signature alone. Whatever has to follow from a state (ask the gateway
about a payment, send money back, issue a receipt) is written down in the charge with the time it is due; the
sweep finds it there, so that a process that dies in between only delays it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol, TypeVar

from kit.auth import ANYONE, CITIZEN, OFFICIAL, Caller, allow, official, service
from kit.clock import VIETNAM, Clock, to_text
from kit.errors import Conflict, DomainError, FieldViolation, Forbidden, InvalidInput, NotFound, Unavailable
from kit.ids import derived, uuid7
from payment import domain, receipts, vnpay
from payment.domain import (
    Charge,
    ChargeState,
    Method,
    Payment,
    PaymentState,
    RefundReason,
    Report,
    Result,
    Said,
)
from payment.receipts import Book, Receipt
from payment.vnpay import IpnAnswer

log = logging.getLogger(__name__)
A = TypeVar("A")
SEES = ("cashier", "reception", "examiner", "leader", "clerk", "admin")
READERS = (CITIZEN, OFFICIAL, service("dossier", "notify", "gateway"))
_REFERENCE = re.compile(r"MC[0-9A-HJKMNP-TV-Z]{12}[0-9]{2}")
_IPN = {
    Said.ACCEPTED: IpnAnswer.OK,
    Said.ALREADY_KNOWN: IpnAnswer.ALREADY_CONFIRMED,
    Said.AMOUNT_DIFFERS: IpnAnswer.AMOUNT_DIFFERS,
    Said.UNKNOWN: IpnAnswer.ORDER_NOT_FOUND,
}


class Store(Protocol[A]):
    """What the use cases need of `kit.mongo.Store`."""

    async def get(self, id: str) -> A: ...
    async def find(self, id: str) -> A | None: ...
    async def batch(self, ids: Sequence[str]) -> list[A]: ...
    async def create(self, make: Callable[[str], A], request: Any = None, id: str | None = None) -> A: ...
    async def change(
        self,
        id: str,
        fn: Callable[[A], None],
        *,
        request: Any = None,
        etag: str | None = None,
        handled: str | None = None,
    ) -> A: ...
    async def page(
        self,
        filter: dict[str, Any],
        *,
        size: int,
        token: str = "",
        order: str = "created",
    ) -> Any: ...


@dataclass(frozen=True)
class Begun:
    """Where a payer goes: to an address, or into a banking app with a code."""

    redirect_url: str = ""
    qr_payload: str = ""


@dataclass(frozen=True)
class StatementLine:
    """One payment in a gateway's statement of a day: what it took, and what of that it has sent back."""

    reference: str
    transaction: str
    amount: int
    refunded: int


class Gateway(Protocol):
    """A way to pay. What awaits raises Unavailable while the gateway cannot answer or be believed."""

    def begin(self, charge: Charge, payment: Payment, *, client_address: str, locale: str) -> Begun: ...
    async def inquire(self, payment: Payment) -> Report: ...
    async def refund(self, payment: Payment) -> tuple[vnpay.RefundAnswer, str]: ...
    async def statement(self, day: date) -> list[StatementLine]: ...


class Bank(Gateway, Protocol):
    """The bank that tells of transfers."""

    def read_notice(self, body: bytes, signature: str) -> Report: ...


class Closed(Protocol):
    """Dossiers that ended, and why: the request of a charge may be overtaken by the end of its dossier."""

    async def close(self, dossier: str, reason: str) -> None: ...
    async def reason(self, dossier: str) -> str: ...


class People(Protocol):
    """Who somebody is, for a receipt: (name, tax code)."""

    async def payer(self, account: str) -> tuple[str, str]: ...


@dataclass(frozen=True)
class Terms:
    """What the house has fixed: how receipts are numbered, how soon and how often gateways are asked."""

    receipt_form: str = "EBL01"
    receipt_letters: str = "TAB"
    ask_after: timedelta = timedelta(minutes=2)
    retry_after: timedelta = timedelta(seconds=5)


@dataclass
class Ports:
    charges: Store[Charge]
    receipts: Store[Receipt]
    books: Store[Book]
    closed: Closed
    merchant: vnpay.Merchant
    vnpay: Gateway
    bank: Bank
    people: People
    clock: Clock
    terms: Terms = Terms()
    wake: Callable[[], None] = lambda: None  # something may be due: sweep now

    def gateway(self, method: Method) -> Gateway:
        """The adapter of a way to pay."""
        return self.vnpay if method is Method.VNPAY else self.bank


# Reading


def _may_see(caller: Caller, charge: Charge) -> bool:
    if caller.kind == "service":
        return True
    if caller.kind == "official":
        return any(role.name in SEES and role.agency in charge.agencies for role in caller.roles)
    return caller.subject == charge.payer


@allow(*READERS)
async def get_charge(ports: Ports, caller: Caller, *, id: str) -> Charge:
    """The charge, for its payer, officials of its agencies and services; NotFound for all others."""
    charge = await ports.charges.find(id)
    if charge is None or not _may_see(caller, charge):
        raise NotFound("CHARGE_NOT_FOUND", "no such charge", charge=id)
    return charge


@allow(*READERS)
async def batch_get_charges(ports: Ports, caller: Caller, *, ids: Sequence[str]) -> list[Charge]:
    """Those of the charges that exist and that the caller may see. At most 100 ids."""
    return [c for c in await ports.charges.batch(_at_most_100(ids)) if _may_see(caller, c)]


@allow(*READERS)
async def list_charges(
    ports: Ports, caller: Caller, *, payer: str, states: Sequence[ChargeState], size: int, token: str
) -> tuple[list[Charge], str]:
    """A payer's charges, newest first, and where the next page begins. Officials: of their agencies."""
    which: dict[str, Any] = _of_payer(caller, payer)
    if states:
        which["state"] = {"$in": sorted({s.value for s in states})}
    page = await ports.charges.page(which, size=_size(size), token=token)
    return page.items, page.next_token


@allow(*READERS)
async def batch_get_receipts(ports: Ports, caller: Caller, *, ids: Sequence[str]) -> list[Receipt]:
    """Those of the receipts that exist and that the caller may see. At most 100 ids."""
    return [
        receipt
        for receipt in await ports.receipts.batch(_at_most_100(ids))
        if caller.kind == "service"
        or (caller.kind == "citizen" and caller.subject == receipt.payer)
        or (caller.kind == "official" and any(caller.has(role, receipt.agency) for role in SEES))
    ]


@allow(*READERS)
async def list_receipts(
    ports: Ports, caller: Caller, *, payer: str, size: int, token: str
) -> tuple[list[Receipt], str]:
    """A payer's receipts, newest first, and where the next page begins. Officials: of their agencies."""
    page = await ports.receipts.page(_of_payer(caller, payer), size=_size(size), token=token)
    return page.items, page.next_token


def _of_payer(caller: Caller, payer: str) -> dict[str, Any]:
    if caller.kind == "citizen":
        if payer not in ("", caller.subject):
            raise Forbidden("NOT_YOUR_CHARGES", "these are somebody else's")
        return {"payer": caller.subject}
    if not payer:
        raise InvalidInput(violations=[FieldViolation("payer_id", "REQUIRED", "say whose")])
    if caller.kind == "official":
        agencies = sorted({role.agency for role in caller.roles if role.name in SEES})
        return {"payer": payer, "agency": {"$in": agencies}}
    return {"payer": payer}


def _at_most_100(ids: Sequence[str]) -> Sequence[str]:
    if len(ids) > 100:
        raise InvalidInput(violations=[FieldViolation("ids", "TOO_MANY", "at most 100")])
    return ids


def _size(size: int) -> int:
    if size < 0:
        raise InvalidInput(violations=[FieldViolation("page_size", "NEGATIVE", "0 to 100")])
    return min(size or 20, 100)


# Paying


@allow(CITIZEN)
async def begin_payment(
    ports: Ports,
    caller: Caller,
    *,
    charge_id: str,
    method: Method,
    client_address: str = "",
    locale: str = "vi",
    request: Any = None,
) -> tuple[Charge, Payment, Begun]:
    """Begins to pay one's own charge; the same request answers the same attempt and address."""
    await _own(ports, caller, charge_id)
    payment = derived("payment", charge_id, request.key) if request else uuid7()

    def begin(charge: Charge) -> None:
        charge.begin(method, payment=payment, now=ports.clock(), ask_after=ports.terms.ask_after)

    charge = await ports.charges.change(charge_id, begin, request=request)
    begun = charge.payment(payment)
    where = ports.gateway(begun.method).begin(charge, begun, client_address=client_address, locale=locale)
    return charge, begun, where


async def _own(ports: Ports, caller: Caller, charge_id: str) -> Charge:
    charge = await ports.charges.find(charge_id)
    if charge is None or charge.payer != caller.subject:
        raise NotFound("CHARGE_NOT_FOUND", "no such charge", charge=charge_id)
    return charge


@allow(ANYONE)
async def handle_vnpay_ipn(ports: Ports, caller: Caller, *, parameters: Mapping[str, str]) -> IpnAnswer:
    """The gateway's notice, which decides by its signature alone; it may come often, late, or forged."""
    try:
        notice = vnpay.read_notice(parameters, ports.merchant)
        report = report_of(notice)
    except vnpay.BadSignature:
        log.warning("a notice with a bad signature was turned away")
        return IpnAnswer.BAD_CHECKSUM
    except vnpay.Malformed as error:
        log.warning("a signed notice could not be read: %s", error)
        return IpnAnswer.OTHER
    try:
        return _IPN[
            await _report(ports, report, lambda c: c.report(report, now=ports.clock(), must_match=True))
        ]
    except DomainError as error:  # the gateway will tell us again
        log.warning("a notice could not be stored now: %s", error)
        return IpnAnswer.OTHER


@allow(ANYONE)
async def handle_transfer_notice(ports: Ports, caller: Caller, *, body: bytes, signature: str) -> IpnAnswer:
    """The bank's notice of a transfer. Another amount has arrived all the same: it goes back (04)."""
    try:
        report = ports.bank.read_notice(body, signature)
    except vnpay.BadSignature:
        log.warning("a transfer notice with a bad signature was turned away")
        return IpnAnswer.BAD_CHECKSUM
    except vnpay.Malformed as error:
        log.warning("a signed transfer notice could not be read: %s", error)
        return IpnAnswer.OTHER
    surplus = derived("transfer", report.transaction)
    try:
        return _IPN[
            await _report(
                ports, report, lambda c: c.transfer_received(report, payment=surplus, now=ports.clock())
            )
        ]
    except DomainError as error:
        log.warning("a transfer notice could not be stored now: %s", error)
        return IpnAnswer.OTHER


async def _report(ports: Ports, report: Report, apply: Callable[[Charge], Said]) -> Said:
    """Finds the charge, tries the report on what was loaded, and writes only when that changes something."""
    charge = await by_reference(ports, report.reference)
    if charge is None:
        return Said.UNKNOWN
    before = [p.state for p in charge.payments]
    said = apply(charge)
    if [p.state for p in charge.payments] == before:
        return said

    def change(fresh: Charge) -> None:
        nonlocal said
        said = apply(fresh)

    await ports.charges.change(charge.id, change)
    ports.wake()
    return said


async def by_reference(ports: Ports, reference: str) -> Charge | None:
    """The charge that a payment's reference belongs to."""
    if not _REFERENCE.fullmatch(reference):
        return None
    page = await ports.charges.page({"reference": reference[: domain.REFERENCE_LENGTH]}, size=1)
    return page.items[0] if page.items else None


def find_reference(text: str) -> str:
    """The reference in a transfer's text, to which banks and payers add words; empty when there is none."""
    found = _REFERENCE.search(text.upper())
    return found.group() if found else ""


def report_of(notice: vnpay.Notice) -> Report:
    """What a gateway's notice means to a charge."""
    return Report(
        reference=notice.txn_ref,
        result=Result(notice.outcome.value),
        amount=notice.amount,
        code=notice.code,
        transaction=notice.transaction_no,
        taken_on=vnpay.from_stamp(notice.paid_on).date().isoformat() if notice.paid_on else "",
    )


@dataclass(frozen=True)
class Shown:
    """What the browser may be shown after coming back."""

    valid: bool
    charge: Charge | None = None
    payment: Payment | None = None
    code: str = ""


@allow(ANYONE)
async def read_vnpay_return(ports: Ports, caller: Caller, *, parameters: Mapping[str, str]) -> Shown:
    """What became of the payment that a browser comes back from: as we know it, and nothing is changed."""
    try:
        notice = vnpay.read_notice(parameters, ports.merchant)
    except (vnpay.BadSignature, vnpay.Malformed):
        return Shown(valid=False)
    charge = await by_reference(ports, notice.txn_ref)
    payment = charge.find_reference(notice.txn_ref) if charge else None
    if payment is None:
        return Shown(valid=False)
    return Shown(valid=True, charge=charge, payment=payment, code=notice.code)


@allow(official("cashier"))
async def refund_payment(
    ports: Ports,
    caller: Caller,
    *,
    charge_id: str,
    payment_id: str = "",
    reason: str,
    etag: str | None = None,
    request: Any = None,
) -> Charge:
    """Sends the money of a charge back, or tries a refused refund again. Cashiers of its agency."""
    charge = await get_charge(ports, caller, id=charge_id)
    if not caller.has("cashier", charge.agency):
        raise Forbidden("NOT_YOUR_AGENCY", "only a cashier of the collecting agency", agency=charge.agency)
    if not reason.strip():
        raise InvalidInput(violations=[FieldViolation("reason", "REQUIRED", "say why")])

    def refund(charge: Charge) -> None:
        charge.request_refund(
            payment=payment_id,
            reason=RefundReason.OFFICIAL,
            by=caller.subject,
            note=reason,
            now=ports.clock(),
        )

    charge = await ports.charges.change(charge_id, refund, request=request, etag=etag or None)
    ports.wake()
    return charge


# What dossiers announce


async def charge_requested(ports: Ports, charge: Charge) -> Charge:
    """A dossier asks for a fee: the charge exists once, and is void when the dossier has ended already."""
    made = await ports.charges.create(lambda _: charge, id=charge.id)
    verdict = await ports.closed.reason(charge.dossier)
    if verdict and made.state is ChargeState.DUE:
        made = await ports.charges.change(
            made.id, lambda c: c.close(refundable=True, reason=verdict, now=ports.clock())
        )
    return made


async def dossier_closed(ports: Ports, *, dossier: str, refundable: bool, reason: str, event: str) -> None:
    """A dossier ended without a result: what is unpaid falls away, what is paid goes back by the rule.

    Remembered first, for a charge whose request is still under way.
    """
    await ports.closed.close(dossier, reason)
    token = ""
    while True:
        page = await ports.charges.page({"dossier": dossier}, size=100, token=token)
        for charge in page.items:
            await ports.charges.change(
                charge.id,
                lambda c: c.close(refundable=refundable, reason=reason, now=ports.clock()),
                handled=event,
            )
        token = page.next_token
        if not token:
            break
    ports.wake()


# What the service does by itself


async def sweep(ports: Ports, *, parallel: int = 16) -> int:
    """Does what is due and answers for how many charges that went well; the others stay due."""
    room = asyncio.Semaphore(parallel)

    async def chores(charge: Charge) -> bool:
        async with room:
            try:
                await do_chores(ports, charge)
            except DomainError as error:
                log.warning("charge %s: a chore is put off: %s", charge.id, error)
                return False
            except Exception:  # one broken charge must not hold up the others
                log.exception("charge %s: a chore failed", charge.id)
                return False
            return True

    done, token, due = 0, "", to_text(ports.clock())
    while True:
        page = await ports.charges.page(
            {"chore_at": {"$gt": "", "$lte": due}}, size=100, token=token, order="+chore_at"
        )
        done += sum(await asyncio.gather(*map(chores, page.items)))
        token = page.next_token
        if not token:
            return done


async def do_chores(ports: Ports, charge: Charge) -> None:
    """Issues its receipt, asks about its open payments, sends back what is to be refunded, as far as due."""
    now = ports.clock()
    if charge.next_receipt and charge.next_receipt <= now:
        try:
            await issue_receipt(ports, charge)
        except DomainError as error:
            log.warning("charge %s: its receipt has to wait: %s", charge.id, error)
            await ports.charges.change(
                charge.id, lambda c: c.receipt_delayed(now=ports.clock(), wait=ports.terms.retry_after)
            )
    for payment in charge.payments:
        if payment.next_ask and payment.next_ask <= now:
            await _ask(ports, charge, payment)
        if payment.refund and payment.refund.next_try and payment.refund.next_try <= now:
            await _send_back(ports, charge, payment)


async def _ask(ports: Ports, charge: Charge, payment: Payment) -> None:
    try:
        report = await ports.gateway(payment.method).inquire(payment)
    except Unavailable as error:
        log.warning("payment %s: the gateway cannot say: %s", payment.id, error)
        report = Report(reference=payment.reference, result=Result.PENDING, amount=0, code="")
        unreachable = True
    else:
        unreachable = False

    def hear(fresh: Charge) -> None:
        if report.result is Result.PAID and payment.method is Method.VIETQR:
            surplus = derived("transfer", report.transaction)
            fresh.transfer_received(report, payment=surplus, now=ports.clock())
        else:
            fresh.report(report, now=ports.clock())
        fresh.asked(
            payment.id,
            Result.SUSPECT if unreachable else report.result,  # nobody said that it is over
            now=ports.clock(),
            ask_after=ports.terms.ask_after,
        )

    await ports.charges.change(charge.id, hear)
    ports.wake()


async def _send_back(ports: Ports, charge: Charge, payment: Payment) -> None:
    try:
        answer, code = await ports.gateway(payment.method).refund(payment)
    except Unavailable as error:
        log.warning("payment %s: its refund could not be asked for: %s", payment.id, error)
        answer, code = vnpay.RefundAnswer.LATER, ""

    def note(fresh: Charge) -> None:
        if answer is vnpay.RefundAnswer.ACCEPTED:
            fresh.refund_done(payment.id, now=ports.clock())
        else:
            fresh.refund_failed(
                payment.id,
                code=code,
                final=answer is vnpay.RefundAnswer.REFUSED,
                now=ports.clock(),
                wait=ports.terms.retry_after,
            )

    await ports.charges.change(charge.id, note)


async def issue_receipt(ports: Ports, charge: Charge) -> Receipt:
    """The one receipt of a paid charge, with the next number of its book; resumes wherever it was cut off."""
    receipt = await ports.receipts.find(receipts.receipt_id(charge.id))
    if receipt is None:
        if not charge.payer_name:
            name, tax_code = await ports.people.payer(charge.payer)

            def named(fresh: Charge) -> None:
                fresh.payer_name, fresh.payer_tax_code = name, tax_code

            charge = await ports.charges.change(charge.id, named)
        receipt = await _number(ports, charge)
    issued = receipt
    await ports.charges.change(charge.id, lambda c: c.receipt_issued(issued.id, issued.label))
    return issued


async def _number(ports: Ports, charge: Charge) -> Receipt:
    blank = receipts.book_for(charge, form=ports.terms.receipt_form, letters=ports.terms.receipt_letters)
    for _ in range(50):
        book = await ports.books.create(lambda _: blank, id=blank.id)
        if book.charge not in ("", charge.id):
            await _complete(ports, book)
        # A book moves past a charge only when its receipt exists: looked at after the book, this is final.
        existing = await ports.receipts.find(receipts.receipt_id(charge.id))
        if existing is not None:
            return existing
        try:
            book = await ports.books.change(
                book.id, lambda b: _allocate(b, charge.id), etag=str(book.revision)
            )
        except Conflict:
            continue  # somebody else took the number that we saw
        return await _write(ports, charge, book)
    raise Unavailable("BOOK_BUSY", "too many receipts are being issued at once")


def _allocate(book: Book, charge: str) -> None:
    book.allocate(charge)


async def _complete(ports: Ports, book: Book) -> None:
    """Makes the receipt of the book's last number if whoever took it did not get that far."""
    if await ports.receipts.find(receipts.receipt_id(book.charge)) is None:
        await _write(ports, await ports.charges.get(book.charge), book)


async def _write(ports: Ports, charge: Charge, book: Book) -> Receipt:
    receipt = receipts.make(charge, book, book.last)
    return await ports.receipts.create(lambda _: receipt, id=receipt.id)


# Reconciliation


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
