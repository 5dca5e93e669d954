"""What a charge is made of. Amounts are whole đồng; instants are aware UTC datetimes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kit.clock import vietnam_day
from kit.money import CURRENCY
from payment.domain.lifecycle import Account, Method, PaymentState, Result


@dataclass(frozen=True)
class Line:
    """One item of a charge: `amount` is the line's total for `quantity` units."""

    name: str
    amount: int
    quantity: int = 1


@dataclass(frozen=True)
class Entry:
    """A posting: `amount` moves to `debit` from `credit`, so the books balance by their form."""

    at: datetime
    debit: Account
    credit: Account
    amount: int
    cause: str
    payment: str = ""


@dataclass
class Refund:
    """Money on its way back. `stuck` is the gateway's refusal, which a person has to resolve."""

    reason: str
    requested_at: datetime
    by: str = ""
    note: str = ""
    tries: int = 0
    next_try: datetime | None = None
    stuck: str = ""
    done_at: datetime | None = None


@dataclass
class Review:
    """What a gateway's notice claims that cannot simply be believed, until somebody has decided.

    `decided_by` is a cashier, or empty where our own inquiry answered the question.
    """

    reasons: list[str]
    at: datetime
    amount: int = 0  # claimed, in đồng if it is in đồng
    currency: str = CURRENCY
    transaction: str = ""
    taken_on: str = ""
    decided_at: datetime | None = None
    decided_by: str = ""
    note: str = ""

    @property
    def open(self) -> bool:
        """Whether nobody has decided yet."""
        return self.decided_at is None

    @property
    def day(self) -> str:
        """The ISO date in Vietnam under which reconciliation shows it."""
        return self.taken_on or vietnam_day(self.at).isoformat()


@dataclass
class Payment:
    """One attempt to pay, or money that came without one. `received` is what the gateway really took."""

    id: str
    method: Method
    reference: str  # unique at the gateway: vnp_TxnRef, or the text of a transfer
    amount: int
    begun_at: datetime
    expires_at: datetime
    state: PaymentState = PaymentState.PENDING
    received: int = 0
    gateway_transaction: str = ""
    code: str = ""
    paid_at: datetime | None = None
    taken_on: str = ""  # ISO date in Vietnam on which the gateway took the money: the day of its statement
    asked: int = 0
    next_ask: datetime | None = None
    refund: Refund | None = None
    review: Review | None = None

    @property
    def day(self) -> str:
        """The ISO date in Vietnam of the statement that has it; empty while no money came.

        Without a date of the gateway it is ours, so that what came is never outside reconciliation.
        """
        if not self.received:
            return ""
        return self.taken_on or (vietnam_day(self.paid_at).isoformat() if self.paid_at else "")


@dataclass(frozen=True)
class Report:
    """A gateway's word about a payment, already checked for its signature."""

    reference: str
    result: Result
    amount: int
    code: str
    transaction: str = ""
    taken_on: str = ""
    currency: str = CURRENCY
    repeated: bool = False  # some of its parameters came more than once
