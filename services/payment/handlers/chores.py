"""What the service does by itself.

Whatever has to follow from a state (ask the gateway about a payment, send money back, issue a receipt) is
written down in the charge with the time it is due. The sweep finds it there, so that a process that dies in
between only delays it.
"""

from __future__ import annotations

import asyncio
import logging

from kit.clock import to_text
from kit.errors import Conflict, DomainError, Unavailable
from kit.ids import derived
from payment import vnpay
from payment.domain import receipts
from payment.domain.charge import Charge
from payment.domain.lifecycle import Method, Result
from payment.domain.receipts import Book, Receipt
from payment.domain.records import Payment
from payment.handlers import Ports

log = logging.getLogger(__name__)


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
    elif charge.next_void and charge.next_void <= now:
        await _void_receipt(ports, charge)
    for payment in charge.payments:
        if payment.next_ask and payment.next_ask <= now:
            await _ask(ports, charge, payment)
        if payment.refund and payment.refund.next_try and payment.refund.next_try <= now:
            await _send_back(ports, charge, payment)


async def _ask(ports: Ports, charge: Charge, payment: Payment) -> None:
    try:
        reports = await ports.gateway(payment.method).inquire(payment)
        said = reports[0].result
    except Unavailable as error:
        log.warning("payment %s: the gateway cannot say: %s", payment.id, error)
        reports, said = [], None

    def hear(fresh: Charge) -> None:
        for report in reports:
            if report.result is Result.PAID and payment.method is Method.VIETQR:
                surplus = derived("transfer", report.transaction)
                fresh.transfer_received(report, payment=surplus, now=ports.clock())
            else:
                fresh.report(report, now=ports.clock())
        fresh.asked(payment.id, said, now=ports.clock(), ask_after=ports.terms.ask_after)

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


async def _void_receipt(ports: Ports, charge: Charge) -> None:
    """Annuls the receipt of money that went back. It exists: a charge that still waits for its receipt gets
    that first."""
    settling = charge.settling()
    reason = settling.refund.reason if settling and settling.refund else ""
    await ports.receipts.change(
        receipts.receipt_id(charge.id), lambda receipt: receipt.void(reason, now=ports.clock())
    )
    await ports.charges.change(charge.id, lambda c: c.receipt_voided())


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
