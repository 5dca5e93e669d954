"""Beginning to pay, and what gateways then report. Their word is believed for its signature alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kit.auth import ANYONE, CITIZEN, Caller, allow, official
from kit.errors import DomainError, FieldViolation, Forbidden, InvalidInput, NotFound
from kit.ids import derived, uuid7
from payment import vnpay
from payment.domain.charge import REFERENCE_LENGTH, Charge
from payment.domain.lifecycle import Method, RefundReason, Result, Said
from payment.domain.records import Payment, Report
from payment.handlers import Begun, Ports
from payment.handlers.reading import get_charge
from payment.vnpay import IpnAnswer

log = logging.getLogger(__name__)
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
