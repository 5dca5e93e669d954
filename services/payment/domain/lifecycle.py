"""What may become of a charge and of a payment: two typed graphs, whose every edge names its event.

The methods of the charge move along these edges only, so the tables are the whole truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class ChargeState(StrEnum):
    DUE = "due"
    PAID = "paid"
    CANCELLED = "cancelled"
    REFUND_PENDING = "refund_pending"
    REFUNDED = "refunded"


class PaymentState(StrEnum):
    PENDING = "pending"  # the payer was sent to the gateway
    PAID = "paid"  # settled the charge
    FAILED = "failed"
    EXPIRED = "expired"
    SUSPECT = "suspect"  # the gateway doubts it (07) and looks into it
    REFUND_PENDING = "refund_pending"
    REFUNDED = "refunded"


class Method(StrEnum):
    VNPAY = "vnpay"
    VIETQR = "vietqr"


class RefundReason(StrEnum):
    DOUBLE_PAYMENT = "DOUBLE_PAYMENT"
    WRONG_AMOUNT = "WRONG_AMOUNT"
    CHARGE_CANCELLED = "CHARGE_CANCELLED"  # the money came after the charge had been cancelled
    DOSSIER_CLOSED = "DOSSIER_CLOSED"  # by rule of the procedure
    OFFICIAL = "OFFICIAL"


class ReviewReason(StrEnum):
    """What of a gateway's signed word does not fit: a person decides, or an inquiry of ours."""

    AMOUNT = "AMOUNT"
    CURRENCY = "CURRENCY"
    PAY_DATE = "PAY_DATE"  # absent, not a time, or none at which this payment can have been made
    TRANSACTION = "TRANSACTION"  # without the gateway's number, or with another one than before
    PARAMETERS = "PARAMETERS"  # some came more than once
    GATEWAY = "GATEWAY"  # the gateway doubts it itself (07)


class Said(StrEnum):
    """What became of a report from a gateway; the adapters turn it into the gateway's own codes."""

    ACCEPTED = "accepted"
    ALREADY_KNOWN = "already_known"
    AMOUNT_DIFFERS = "amount_differs"
    UNKNOWN = "unknown"


class Result(StrEnum):
    """What a gateway reports of one payment."""

    PAID = "paid"
    FAILED = "failed"
    SUSPECT = "suspect"
    PENDING = "pending"
    UNKNOWN = "unknown"


class Account(StrEnum):
    """Accounts of the double-entry books; a balance is debits less credits."""

    RECEIVABLE = "receivable"  # the payer owes us
    FEES = "fees"  # earned
    REFUNDS_DUE = "refunds_due"  # we owe the payer
    AT_VNPAY = "at_vnpay"  # ours, at the gateway
    AT_BANK = "at_bank"  # ours, on the account that VietQR transfers reach


HOLDS: Final = {Method.VNPAY: Account.AT_VNPAY, Method.VIETQR: Account.AT_BANK}


@dataclass(frozen=True)
class ChargeCreated:
    pass


@dataclass(frozen=True)
class ChargePaid:
    payment: str
    at: datetime


@dataclass(frozen=True)
class ChargeCancelled:
    reason: str


@dataclass(frozen=True)
class PaymentFailed:
    payment: str
    code: str


@dataclass(frozen=True)
class PaymentFlagged:
    """A person has to look at a payment; no edge, since it may be in any state."""

    payment: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class RefundRequested:
    payment: str
    amount: int
    reason: str


@dataclass(frozen=True)
class PaymentRefunded:
    payment: str
    amount: int
    reason: str


_C, _P = ChargeState, PaymentState

CHARGE_EDGES: Final[dict[tuple[ChargeState | None, ChargeState], type]] = {
    (None, _C.DUE): ChargeCreated,
    (_C.DUE, _C.PAID): ChargePaid,
    (_C.DUE, _C.CANCELLED): ChargeCancelled,
    (_C.PAID, _C.REFUND_PENDING): RefundRequested,
    (_C.REFUND_PENDING, _C.REFUNDED): PaymentRefunded,
}

UNSETTLED: Final = (_P.PENDING, _P.FAILED, _P.EXPIRED, _P.SUSPECT)
PAYMENT_EDGES: Final[dict[tuple[PaymentState, PaymentState], type | None]] = {
    (_P.PENDING, _P.FAILED): PaymentFailed,
    (_P.SUSPECT, _P.FAILED): PaymentFailed,
    # Nothing happened that anyone has to be told: the payer went away, or the gateway is still looking.
    (_P.PENDING, _P.EXPIRED): None,
    (_P.PENDING, _P.SUSPECT): None,
    (_P.EXPIRED, _P.SUSPECT): None,
    (_P.FAILED, _P.SUSPECT): None,
    # A signed success counts whenever it comes: money that was taken is never overlooked.
    **{(source, _P.PAID): ChargePaid for source in UNSETTLED},
    **{(source, _P.REFUND_PENDING): RefundRequested for source in (*UNSETTLED, _P.PAID)},
    (_P.REFUND_PENDING, _P.REFUNDED): PaymentRefunded,
}
