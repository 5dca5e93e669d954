"""Charges, receipts and books in MongoDB, and the messages that announce what happened to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from kit.mongo import Database, Index, Store, patiently, reserve
from motcua.payment.v1 import events_pb2 as announced
from payment.domain import lifecycle
from payment.domain.charge import Charge
from payment.domain.receipts import Book, Receipt, ReceiptIssued, ReceiptVoided

CONTEXT = "payment"


def charges(database: Database) -> Store[Charge]:
    """The store of charges. `chore_at` is when the sweep has to look at one; empty: never."""
    return Store(
        database,
        "charges",
        Charge,
        announce=_announce_charge,
        scalars=lambda charge: {
            "payer": charge.payer,
            "dossier": charge.dossier,
            "agency": charge.agency,
            "status": charge.state,
            "reference": charge.reference,
            "chore_at": charge.chore_at(),
            "taken_first": min(charge.taken_days(), default=""),
            "taken_last": max(charge.taken_days(), default=""),
            "review": int(bool(charge.under_review())),
        },
        indexes=[
            Index("payer", "created"),
            Index("dossier", "created"),
            Index("reference", unique=True),
            Index("chore_at", "created"),
            Index("taken_first", "taken_last", "created"),
            Index("agency", "review", "created"),
        ],
        context=CONTEXT,
    )


def receipts_store(database: Database) -> Store[Receipt]:
    """The store of receipts; agency, form, series and number are unique together."""
    return Store(
        database,
        "receipts",
        Receipt,
        announce=_announce_receipt,
        scalars=lambda receipt: {
            "payer": receipt.payer,
            "agency": receipt.agency,
            "printed": f"{receipt.agency}:{receipt.form}:{receipt.series}:{receipt.number_text}",
        },
        indexes=[Index("payer", "created"), Index("printed", unique=True)],
        context=CONTEXT,
    )


def books(database: Database) -> Store[Book]:
    """The store of the books that number receipts."""
    return Store(database, "receipt_books", Book)


class ClosedDossiers:
    """Which dossiers have ended; written once each."""

    def __init__(self, database: Database) -> None:
        self._collection = database["closed_dossiers"]

    async def close(self, dossier: str, reason: str) -> None:
        """Remembers that the dossier ended, and why."""
        await reserve(self._collection, dossier, reason)

    async def reason(self, dossier: str) -> str:
        """Why the dossier ended; empty while it has not."""
        found = await patiently(lambda: self._collection.find_one({"_id": dossier}))
        return str(found["value"]) if found else ""


def timestamp(instant: datetime | None) -> Timestamp | None:
    """An instant for a message; None stays unset."""
    if instant is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp


def _ref(charge: Charge) -> announced.ChargeRef:
    return announced.ChargeRef(
        charge_id=charge.id,
        dossier_id=charge.dossier,
        dossier_code=charge.dossier_code,
        procedure_name=charge.procedure_name,
        payer_id=charge.payer,
        agency=charge.agency,
        amount=charge.amount,
        currency=charge.currency,
    )


def _announce_charge(charge: Charge, event: Any) -> Message:
    ref = _ref(charge)
    match event:
        case lifecycle.ChargeCreated():
            return announced.ChargeCreated(charge=ref)
        case lifecycle.ChargePaid():
            return announced.ChargePaid(charge=ref, payment_id=event.payment, pay_time=timestamp(event.at))
        case lifecycle.ChargeCancelled():
            return announced.ChargeCancelled(charge=ref, reason=event.reason)
        case lifecycle.PaymentFailed():
            return announced.PaymentFailed(charge=ref, payment_id=event.payment, response_code=event.code)
        case lifecycle.PaymentFlagged():
            return announced.PaymentFlagged(charge=ref, payment_id=event.payment, reasons=event.reasons)
        case lifecycle.RefundRequested():
            return announced.RefundRequested(
                charge=ref, payment_id=event.payment, amount=event.amount, reason=event.reason
            )
        case lifecycle.PaymentRefunded():
            return announced.PaymentRefunded(
                charge=ref, payment_id=event.payment, amount=event.amount, reason=event.reason
            )
        case _:
            raise TypeError(f"no message announces {type(event).__name__}")


def _announce_receipt(receipt: Receipt, event: Any) -> Message:
    ref = announced.ChargeRef(
        charge_id=receipt.charge,
        dossier_id=receipt.dossier,
        dossier_code=receipt.dossier_code,
        procedure_name=receipt.procedure_name,
        payer_id=receipt.payer,
        agency=receipt.agency,
        amount=receipt.amount,
        currency=receipt.currency,
    )
    match event:
        case ReceiptVoided():
            return announced.ReceiptVoided(charge=ref, receipt_id=receipt.id, reason=event.reason)
        case ReceiptIssued():
            return announced.ReceiptIssued(
                charge=ref,
                receipt_id=receipt.id,
                form=receipt.form,
                series=receipt.series,
                number=receipt.number_text,
            )
        case _:
            raise TypeError(f"no message announces {type(event).__name__}")
