"""Fakes of payment's ports: stores in memory that behave like kit's, a gateway and a bank that obey."""

from __future__ import annotations

import asyncio
import copy
import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kit.clock import vietnam_day
from kit.errors import Conflict, NotFound, Unavailable
from payment import vnpay
from payment.domain.charge import Charge, create
from payment.domain.lifecycle import Method, Result
from payment.domain.receipts import Book, Receipt
from payment.domain.records import Line, Payment, Report
from payment.handlers import Begun, Ports, StatementLine
from payment.vnpay import RefundAnswer


class Crash(BaseException):
    """The process dies here."""


class Steps:
    """Counts the steps that the stores take; dies at one of them, or lets others go first."""

    def __init__(self) -> None:
        self.taken = 0
        self.die_at = 0
        self.shuffle: random.Random | None = None

    async def step(self) -> None:
        self.taken += 1
        if self.taken == self.die_at:
            raise Crash
        if self.shuffle:
            for _ in range(self.shuffle.randint(0, 3)):
                await asyncio.sleep(0)


class FakeStore:
    """Aggregates by id; every write is one step that is atomic, with a step before and after it."""

    def __init__(self, scalars: Callable[[Any], dict[str, Any]], steps: Steps) -> None:
        self.items: dict[str, Any] = {}
        self.events: list[tuple[str, Any]] = []
        self.handled: dict[str, set[str]] = {}
        self.requests: dict[str, set[str]] = {}
        self._scalars = scalars
        self._steps = steps

    async def find(self, id: str) -> Any:
        await self._steps.step()
        return copy.deepcopy(self.items.get(id))

    async def get(self, id: str) -> Any:
        found = await self.find(id)
        if found is None:
            raise NotFound("NOT_FOUND", id)
        return found

    async def batch(self, ids: Sequence[str]) -> list[Any]:
        return [copy.deepcopy(self.items[id]) for id in ids if id in self.items]

    async def create(self, make: Callable[[str], Any], request: Any = None, id: str | None = None) -> Any:
        assert id
        await self._steps.step()
        if id not in self.items:
            made = make(id)
            await self._steps.step()
            if id not in self.items:
                self._keep(made)
        await self._steps.step()
        return copy.deepcopy(self.items[id])

    async def change(
        self, id: str, fn: Any, *, request: Any = None, etag: str | None = None, handled: str | None = None
    ) -> Any:
        while True:
            loaded = await self.get(id)
            if handled and handled in self.handled.setdefault(id, set()):
                return loaded
            if request and request.key in self.requests.setdefault(id, set()):
                return loaded
            if etag and etag != str(loaded.revision):
                raise Conflict("STALE", id)
            fn(loaded)
            await self._steps.step()
            if self.items[id].revision == loaded.revision:
                break
        loaded.revision += 1
        self._keep(loaded)
        self.handled.setdefault(id, set()).add(handled or "")
        if request:
            self.requests.setdefault(id, set()).add(request.key)
        await self._steps.step()
        return loaded

    async def page(
        self, filter: dict[str, Any], *, size: int, token: str = "", order: str = "created"
    ) -> Any:
        found = [copy.deepcopy(i) for i in self.items.values() if _matches(self._scalars(i), filter)]
        return SimpleNamespace(items=found[:size], next_token="")

    def _keep(self, aggregate: Any) -> None:
        self.events += [(aggregate.id, event) for event in aggregate.events]
        aggregate.events.clear()
        self.items[aggregate.id] = copy.deepcopy(aggregate)

    def announced(self, kind: type) -> list[Any]:
        return [event for _, event in self.events if type(event) is kind]


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$in": lambda value, operand: value in operand,
    "$gt": operator.gt,
    "$lte": operator.le,
    "$gte": operator.ge,
}


def _matches(scalars: dict[str, Any], filter: dict[str, Any]) -> bool:
    for name, wanted in filter.items():
        value = scalars[name]
        tests = wanted if isinstance(wanted, dict) else {"$in": [wanted]}
        for name_, operand in tests.items():
            if not _OPERATORS[name_](value, operand):
                return False
    return True


@dataclass
class FakeGateway:
    """Answers what the test put in; Unavailable when `down`."""

    down: bool = False
    knows: dict[str, Report] = field(default_factory=dict)
    refunded: list[str] = field(default_factory=list)
    answer: tuple[RefundAnswer, str] = (RefundAnswer.ACCEPTED, "00")
    lines: list[StatementLine] = field(default_factory=list)
    inquiries: int = 0

    def begin(self, charge: Charge, payment: Payment, *, client_address: str, locale: str) -> Begun:
        return Begun(redirect_url=f"https://gateway/{payment.reference}")

    async def inquire(self, payment: Payment) -> list[Report]:
        self.inquiries += 1
        self._up()
        unknown = Report(reference=payment.reference, result=Result.UNKNOWN, amount=0, code="91")
        return [self.knows.get(payment.reference, unknown)]

    async def refund(self, payment: Payment) -> tuple[RefundAnswer, str]:
        self._up()
        if self.answer[0] is RefundAnswer.ACCEPTED:
            self.refunded.append(payment.reference)
        return self.answer

    async def statement(self, day: date) -> list[StatementLine]:
        self._up()
        return self.lines

    def _up(self) -> None:
        if self.down:
            raise Unavailable("GATEWAY_UNAVAILABLE", "down")


class FakeBank(FakeGateway):
    """Believes a notice whose signature is `good`; the body is the report itself."""

    notice: Report | None = None

    def read_notice(self, body: bytes, signature: str) -> Report:
        if signature != "good":
            raise vnpay.BadSignature
        assert self.notice
        return self.notice


class FakePeople:
    down = False

    async def payer(self, account: str) -> tuple[str, str]:
        if self.down:
            raise Unavailable("IDENTITY_UNAVAILABLE", "down")
        return "Nguyễn Thị An", ""


class FakeClosed:
    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    async def close(self, dossier: str, reason: str) -> None:
        self.reasons.setdefault(dossier, reason)

    async def reason(self, dossier: str) -> str:
        return self.reasons.get(dossier, "")


class World:
    """Ports with fakes behind them, and shorthands for what tests do over and over."""

    merchant = vnpay.Merchant("MOTCUA01", "a-secret")

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
        self.steps = Steps()
        self.charges = FakeStore(
            lambda c: {
                "payer": c.payer,
                "dossier": c.dossier,
                "agency": c.agency,
                "status": c.state.value,
                "reference": c.reference,
                "chore_at": c.chore_at(),
                "taken_first": min(c.taken_days(), default=""),
                "taken_last": max(c.taken_days(), default=""),
                "review": int(bool(c.under_review())),
            },
            self.steps,
        )
        self.receipts = FakeStore(lambda r: {"payer": r.payer, "agency": r.agency}, self.steps)
        self.books = FakeStore(lambda b: {}, self.steps)
        self.gateway, self.bank, self.people = FakeGateway(), FakeBank(), FakePeople()
        self.closed = FakeClosed()
        self.ports = Ports(
            charges=self.charges,
            receipts=self.receipts,
            books=self.books,
            closed=self.closed,
            merchant=self.merchant,
            vnpay=self.gateway,
            bank=self.bank,
            people=self.people,
            clock=lambda: self.now,
        )

    def charge(self, id: str, *, amount: int = 20_000, **more: Any) -> Charge:
        """A stored charge that is due."""
        charge = create(
            id=id,
            payer=more.pop("payer", "an"),
            dossier=more.pop("dossier", f"dossier-{id}"),
            agency=more.pop("agency", "H32.15"),
            lines=[Line("Lệ phí", amount)],
            now=self.now,
            **more,
        )
        self.charges._keep(charge)
        return self.stored(id)

    def stored(self, id: str) -> Charge:
        found: Charge = copy.deepcopy(self.charges.items[id])
        return found

    def paid(self, id: str, **more: Any) -> Charge:
        """A stored charge that was paid just now."""
        charge = self.charge(id, **more)
        payment = charge.begin(
            Method.VNPAY, payment=f"payment-{id}", now=self.now, ask_after=timedelta(minutes=2)
        )
        charge.report(
            Report(
                payment.reference,
                Result.PAID,
                charge.amount,
                "00",
                f"T-{id}",
                vietnam_day(self.now).isoformat(),
            ),
            now=self.now,
        )
        self.charges._keep(charge)
        return self.stored(id)

    def ipn(self, payment: Payment, **changed: str) -> dict[str, str]:
        """The gateway's signed notice about a payment."""
        params = {
            "vnp_TmnCode": self.merchant.tmn_code,
            "vnp_TxnRef": payment.reference,
            "vnp_Amount": str(payment.amount * 100),
            "vnp_ResponseCode": "00",
            "vnp_TransactionStatus": "00",
            "vnp_TransactionNo": "14000001",
            "vnp_BankCode": "NCB",
            "vnp_PayDate": "20261123120000",
            **changed,
        }
        return {**params, "vnp_SecureHash": vnpay.sign(params, self.merchant.secret)}

    def numbers(self) -> list[int]:
        """The numbers of all receipts, sorted."""
        receipts: list[Receipt] = list(self.receipts.items.values())
        return sorted(r.number for r in receipts)

    def book(self) -> Book:
        book: Book
        (book,) = self.books.items.values()
        return book


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def new_world() -> Callable[[], World]:
    return World


@pytest.fixture
def crash() -> type[BaseException]:
    return Crash
