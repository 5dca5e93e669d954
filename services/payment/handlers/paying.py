"""Beginning to pay, and what gateways then report. Their word is believed for its signature alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kit.auth import ANYONE, CITIZEN, Caller, allow, official
from kit.errors import DomainError, FieldViolation, Forbidden, InvalidInput, NotFound
from kit.ids import derived, uuid7
from kit.money import is_amount
from kit.text import typed
from payment import vnpay
from payment.domain.charge import REFERENCE_LENGTH, Charge
from payment.domain.lifecycle import Method, PaymentState, RefundReason, Result, Said
from payment.domain.records import Payment, Report
from payment.handlers import Begun, Ports
from payment.handlers.reading import get_charge
from payment.vnpay import IpnAnswer

log = logging.getLogger(__name__)
LONGEST_REASON = 2000
_REFERENCE = re.compile(r"MC[0-9A-HJKMNP-TV-Z]{12}[0-9]{2}")
_IPN = {
    Said.ACCEPTED: IpnAnswer.OK,
    Said.ALREADY_KNOWN: IpnAnswer.ALREADY_CONFIRMED,
    Said.AMOUNT_DIFFERS: IpnAnswer.AMOUNT_DIFFERS,
    Said.UNKNOWN: IpnAnswer.ORDER_NOT_FOUND,
}


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

    def place(charge: Charge) -> Begun:
        begun = charge.payment(payment)
        return ports.gateway(begun.method).begin(charge, begun, client_address=client_address, locale=locale)

    def begin(charge: Charge) -> None:
        charge.begin(method, payment=payment, now=ports.clock(), ask_after=ports.terms.ask_after)
        place(charge)  # before anything is stored: an attempt that leads nowhere must not exist

    charge = await ports.charges.change(charge_id, begin, request=request)
    return charge, charge.payment(payment), place(charge)


async def _own(ports: Ports, caller: Caller, charge_id: str) -> Charge:
    charge = await ports.charges.find(charge_id)
    if charge is None or charge.payer != caller.subject:
        raise NotFound("CHARGE_NOT_FOUND", "no such charge", charge=charge_id)
    return charge


@allow(ANYONE)
async def handle_vnpay_ipn(
    ports: Ports, caller: Caller, *, parameters: Mapping[str, str], repeated: bool = False
) -> IpnAnswer:
    """The gateway's notice, which decides by its signature alone; it may come often, late, or forged.

    `repeated`: some of its parameters came more than once, so that nobody knows which ones were meant.
    """
    try:
        notice = vnpay.read_notice(parameters, ports.merchant)
        report = replace(report_of(notice), repeated=repeated)
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
    before = _seen(charge)
    said = apply(charge)
    if _seen(charge) == before:
        return said

    def change(fresh: Charge) -> None:
        nonlocal said
        said = apply(fresh)

    await ports.charges.change(charge.id, change)
    ports.wake()
    return said


def _seen(charge: Charge) -> list[tuple[PaymentState, int]]:
    """What a report can change of a charge's payments."""
    return [(p.state, len(p.review.reasons) if p.review and p.review.open else 0) for p in charge.payments]


async def by_reference(ports: Ports, reference: str) -> Charge | None:
    """The charge that a payment's reference belongs to."""
    if not _REFERENCE.fullmatch(reference):
        return None
    page = await ports.charges.page({"reference": reference[:REFERENCE_LENGTH]}, size=1)
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
        currency=notice.currency,
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
    await _as_cashier(ports, caller, charge_id)
    reason = _said(reason)

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


@allow(official("cashier"))
async def review_payment(
    ports: Ports,
    caller: Caller,
    *,
    charge_id: str,
    payment_id: str,
    accept: bool,
    amount: int = 0,
    reason: str,
    etag: str | None = None,
    request: Any = None,
) -> Charge:
    """Decides about a payment under review: its money came (`amount` đồng; 0: as claimed), or it did not.
    Cashiers of its agency."""
    await _as_cashier(ports, caller, charge_id)
    reason = _said(reason)
    if amount and not is_amount(amount):
        raise InvalidInput(
            violations=[FieldViolation("amount", "BAD_AMOUNT", "whole đồng, at most 10 digits")]
        )

    def decide(charge: Charge) -> None:
        charge.decide(
            payment_id, accept=accept, amount=amount, by=caller.subject, note=reason, now=ports.clock()
        )

    charge = await ports.charges.change(charge_id, decide, request=request, etag=etag or None)
    ports.wake()
    return charge


async def _as_cashier(ports: Ports, caller: Caller, charge_id: str) -> None:
    charge = await get_charge(ports, caller, id=charge_id)
    if not caller.has("cashier", charge.agency):
        raise Forbidden("NOT_YOUR_AGENCY", "only a cashier of the collecting agency", agency=charge.agency)


def _said(reason: str) -> str:
    reason = typed(reason)
    if not reason:
        raise InvalidInput(violations=[FieldViolation("reason", "REQUIRED", "say why")])
    if len(reason) > LONGEST_REASON:
        raise InvalidInput(violations=[FieldViolation("reason", "TOO_LONG", f"at most {LONGEST_REASON}")])
    return reason
