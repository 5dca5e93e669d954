"""Charges, payments and receipts."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import strawberry

from gateway.binding import enum, fill, view
from gateway.relay import connect
from gateway.scalars import DateTime, Long
from gateway.schema.base import (
    Amount,
    Connection,
    Info,
    Money,
    Node,
    mutation,
    one,
    other,
    plain,
    resolver,
    rpc,
)
from gateway.schema.refs import AccountRef, AgencyRef, DossierRef
from motcua.payment.v1 import payment_pb2 as pb

if TYPE_CHECKING:
    from gateway.context import Context


@enum(pb.ChargeState, "CHARGE_STATE_")
class ChargeState(IntEnum):
    """States of a charge."""

    DUE = 1
    PAID = 2
    CANCELLED = 3
    REFUND_PENDING = 4
    REFUNDED = 5


@enum(pb.PaymentMethod, "PAYMENT_METHOD_")
class PaymentMethod(IntEnum):
    """Ways of paying."""

    VNPAY = 1
    VIETQR = 2


@enum(pb.PaymentState, "PAYMENT_STATE_")
class PaymentState(IntEnum):
    """SUSPECT waits for a person."""

    PENDING = 1
    PAID = 2
    FAILED = 3
    EXPIRED = 4
    SUSPECT = 5
    REFUND_PENDING = 6
    REFUNDED = 7


@enum(pb.PaymentReviewReason, "PAYMENT_REVIEW_REASON_")
class PaymentReviewReason(IntEnum):
    """What of the gateway's signed word does not fit. GATEWAY: it doubts the payment itself."""

    AMOUNT = 1
    CURRENCY = 2
    PAY_DATE = 3
    TRANSACTION = 4
    PARAMETERS = 5
    GATEWAY = 6


@view(pb.Charge, key="id")
class Charge(Node):
    """What a dossier costs."""

    dossier: DossierRef | None = one("dossiers", "dossier_id")
    dossier_code: str | None
    procedure_name: str | None
    payer: AccountRef | None = one("accounts", "payer_id")
    agency: AgencyRef | None = one("agencies", "agency")
    state: ChargeState
    lines: list[ChargeLine]
    amount: Money = plain(lambda charge: charge)
    payments: list[Payment]
    receipt: Receipt | None = one("receipts", "receipt_id")
    receipt_number: str | None = strawberry.field(
        description="Such as `26TAB/00000001`; null until it is issued."
    )
    refundable_on_rejection: bool
    create_time: DateTime | None
    pay_time: DateTime | None
    etag: str | None


@view(pb.ChargeLine)
class ChargeLine:
    name: str
    amount: Money = plain(lambda line: Amount(line.amount))
    quantity: int


@view(pb.Payment, key="id")
class Payment:
    """An attempt to pay."""

    id: strawberry.ID
    method: PaymentMethod
    state: PaymentState
    amount: Money = plain(lambda payment: Amount(payment.amount))
    reference: str | None = strawberry.field(description="Ours, unique at the gateway.")
    response_code: str | None = strawberry.field(description="The gateway's answer, such as `00`.")
    create_time: DateTime | None
    pay_time: DateTime | None
    expire_time: DateTime | None
    review: PaymentReview | None = strawberry.field(
        description="Why a person has, or had, to look at it; null when nothing about it was in doubt."
    )


@view(pb.PaymentReview)
class PaymentReview:
    """A payment in doubt."""

    reasons: list[PaymentReviewReason]
    amount: Money = plain(lambda review: Amount(review.amount, review.currency))
    create_time: DateTime
    decide_time: DateTime | None = strawberry.field(description="Null while a cashier has to look at it.")


@view(pb.Receipt, key="id")
class Receipt(Node):
    """An e-receipt."""

    charge: Charge | None = one("charges", "charge_id")
    form: str = strawberry.field(description="EBL01 or EBL02.")
    series: str
    number: str
    payer_name: str | None
    payer_tax_code: str | None
    agency: AgencyRef | None = one("agencies", "agency")
    lines: list[ChargeLine]
    amount: Money = plain(lambda receipt: receipt)
    issue_time: DateTime
    void_time: DateTime | None = strawberry.field(
        description="When it was annulled because its money went back; its number stays used."
    )


@view(pb.BeginPaymentResponse)
class PaymentStart:
    """Where to pay: a page of the gateway, or the text of a VietQR code."""

    charge: Charge
    payment: Payment
    redirect_url: str | None
    qr_payload: str | None


@strawberry.input
class PayChargeInput:
    request_id: str | None = None
    charge_id: strawberry.ID
    method: PaymentMethod = PaymentMethod.VNPAY


@strawberry.input
class RefundPaymentInput:
    request_id: str | None = None
    charge_id: strawberry.ID
    payment_id: strawberry.ID | None = strawberry.field(
        default=None, description="Absent: the one that paid the charge."
    )
    reason: str
    etag: str | None = None


@strawberry.input
class ReviewPaymentInput:
    request_id: str | None = None
    charge_id: strawberry.ID
    payment_id: strawberry.ID
    accept: bool = strawberry.field(description="Whether its money came.")
    amount: Long | None = strawberry.field(
        default=None, description="Đồng that came; absent: as the gateway claims."
    )
    reason: str
    etag: str | None = None


@strawberry.type
class PaymentQuery:
    """What cashiers look for."""

    @resolver(
        Connection[Charge],
        description="Charges of the caller's agencies with a payment that a cashier has to look at.",
    )
    async def charges_under_review(self: Any, info: Info, first: int = 20, after: str | None = None) -> Any:
        context: Context = info.context

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListChargesRequest(under_review=True, page_size=size, page_token=token)
            reply = await context.call(context.services.payment.ListCharges, request)
            return reply.charges, reply.next_page_token, None

        return await connect(first, after, fetch)


@strawberry.type
class AccountPayments:
    """What an account owes and has paid."""

    @resolver(Connection[Charge], description="Newest first.")
    async def charges(
        self: Any,
        info: Info,
        states: list[ChargeState] | None = None,
        first: int = 20,
        after: str | None = None,
    ) -> Any:
        context: Context = info.context

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListChargesRequest(
                payer_id=other(context, self),
                states=states,  # type: ignore[arg-type]
                page_size=size,
                page_token=token,
            )
            reply = await context.call(context.services.payment.ListCharges, request)
            return reply.charges, reply.next_page_token, None

        return await connect(first, after, fetch)

    @resolver(Connection[Receipt], description="Newest first.")
    async def receipts(self: Any, info: Info, first: int = 20, after: str | None = None) -> Any:
        context: Context = info.context

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListReceiptsRequest(payer_id=other(context, self), page_size=size, page_token=token)
            reply = await context.call(context.services.payment.ListReceipts, request)
            return reply.receipts, reply.next_page_token, None

        return await connect(first, after, fetch)


@strawberry.type
class PaymentMutation:
    """Mutations of payments."""

    @mutation(PaymentStart, "Begins to pay a charge and answers where to.")
    async def pay_charge(self, info: Info, input: PayChargeInput) -> Any:
        context: Context = info.context
        request = pb.BeginPaymentRequest(client_address=context.client_address, locale=await context.locale())
        return await context.call(context.services.payment.BeginPayment, fill(request, input))

    refund_payment = rpc(
        "payment",
        pb.RefundPaymentRequest,
        RefundPaymentInput,
        Charge,
        "Gives the money back.",
        answer="charge",
    )
    review_payment = rpc(
        "payment",
        pb.ReviewPaymentRequest,
        ReviewPaymentInput,
        Charge,
        "Decides about a payment under review.",
        answer="charge",
    )
