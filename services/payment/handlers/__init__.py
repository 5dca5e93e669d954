"""The use cases of payment, and what they need of the world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol, TypeVar

from kit.clock import Clock
from payment import vnpay
from payment.domain.charge import Charge
from payment.domain.lifecycle import Method
from payment.domain.receipts import Book, Receipt
from payment.domain.records import Payment, Report

A = TypeVar("A")


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
    async def inquire(self, payment: Payment) -> list[Report]: ...
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
