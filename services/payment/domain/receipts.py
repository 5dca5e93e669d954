"""E-receipts with gapless numbers (NĐ 254/2026, TT 91/2026): form EBL01 or EBL02, a series such as 26TAB.

One small document, the book, holds the last number of a series and the charge that it was given to. A book
moves on only when the receipt of its last number exists, so a crash at any moment leaves at most one number
without its receipt, and whoever comes next finds in the book what is missing and makes it.

A receipt here carries no signature: signing needs the agency's certificate, which is not part of this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from kit.clock import VIETNAM
from kit.errors import FailedPrecondition
from kit.ids import derived
from payment.domain.charge import Charge
from payment.domain.records import Line

LAST_NUMBER: Final = 99_999_999
FORMS: Final = ("EBL01", "EBL02")  # without and with a printed face value


@dataclass(frozen=True)
class ReceiptIssued:
    pass


@dataclass(frozen=True)
class ReceiptVoided:
    reason: str


@dataclass
class Receipt:
    """Proof of one payment. It keeps its number and what it says for ever; it can only be annulled."""

    id: str
    charge: str
    dossier: str
    dossier_code: str
    procedure_name: str
    form: str
    series: str
    number: int
    payer: str
    payer_name: str
    payer_tax_code: str
    agency: str
    lines: list[Line]
    amount: int
    currency: str
    issued_at: datetime
    voided_at: datetime | None = None  # the money went back: it proves nothing any more
    void_reason: str = ""
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def void(self, reason: str, *, now: datetime) -> None:
        """Annuls it, once; its number stays used, so the series has no gap."""
        if self.voided_at is None:
            self.voided_at, self.void_reason = now, reason
            self.events.append(ReceiptVoided(reason))

    @property
    def masked_tax_code(self) -> str:
        """The payer's tax code for an official: one of twelve digits is a person's number, and masked."""
        code = self.payer_tax_code
        return f"{code[:4]}******{code[-2:]}" if len(code) == 12 else code

    @property
    def number_text(self) -> str:
        """The number as printed: eight digits."""
        return f"{self.number:08d}"

    @property
    def label(self) -> str:
        """Series and number, such as `26TAB/00000001`."""
        return f"{self.series}/{self.number_text}"


@dataclass
class Book:
    """The numbers of one agency, form and series: the last one given out, and the charge that has it."""

    id: str
    agency: str
    form: str
    series: str
    last: int = 0
    charge: str = ""
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def allocate(self, charge: str) -> int:
        """The charge's number: a new one, or the one that it was given last. Raises SERIES_EXHAUSTED."""
        if self.charge != charge:
            if self.last >= LAST_NUMBER:
                raise FailedPrecondition("SERIES_EXHAUSTED", f"series {self.series} has no number left")
            self.last, self.charge = self.last + 1, charge
        return self.last


def series_of(paid_at: datetime, letters: str) -> str:
    """The series of a payment: the year in Vietnam, two digits, and the letters, such as 26TAB.

    The moment of payment decides, not that of issuing, so that a receipt delayed over New Year resumes in
    the book where its number may already be.
    """
    return f"{paid_at.astimezone(VIETNAM).year % 100:02d}{letters}"


def book_for(charge: Charge, *, form: str, letters: str) -> Book:
    """The book in which a paid charge gets its number, as it is before the first."""
    if charge.paid_at is None:
        raise FailedPrecondition("NOT_PAID", "only a paid charge gets a receipt")
    series = series_of(charge.paid_at, letters)
    return Book(id=f"{charge.agency}:{form}:{series}", agency=charge.agency, form=form, series=series)


def receipt_id(charge: str) -> str:
    """The id of a charge's receipt: one charge, one receipt, whatever its number."""
    return derived("receipt", charge)


def make(charge: Charge, book: Book, number: int) -> Receipt:
    """The receipt of a paid charge; it bears the moment of payment."""
    if charge.paid_at is None:
        raise FailedPrecondition("NOT_PAID", "only a paid charge gets a receipt")
    return Receipt(
        id=receipt_id(charge.id),
        charge=charge.id,
        dossier=charge.dossier,
        dossier_code=charge.dossier_code,
        procedure_name=charge.procedure_name,
        form=book.form,
        series=book.series,
        number=number,
        payer=charge.payer,
        payer_name=charge.payer_name,
        payer_tax_code=charge.payer_tax_code,
        agency=charge.agency,
        lines=list(charge.lines),
        amount=charge.amount,
        currency=charge.currency,
        issued_at=charge.paid_at,
        events=[ReceiptIssued()],
    )
