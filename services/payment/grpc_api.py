"""Protobuf in, handlers, protobuf out."""

from __future__ import annotations

from typing import Any

from kit.errors import FieldViolation, InvalidInput
from kit.grpc_server import current_caller
from kit.mongo import Request, etag
from motcua.payment.v1 import payment_pb2 as pb
from motcua.payment.v1.payment_pb2_grpc import PaymentServiceServicer
from payment.domain.charge import Charge
from payment.domain.lifecycle import ChargeState, Method, PaymentState, ReviewReason
from payment.domain.receipts import Receipt
from payment.domain.records import Line, Payment, Review
from payment.handlers import Ports, paying, reading, reconciling
from payment.store import timestamp

_CHARGE_STATES = {
    ChargeState.DUE: pb.CHARGE_STATE_DUE,
    ChargeState.PAID: pb.CHARGE_STATE_PAID,
    ChargeState.CANCELLED: pb.CHARGE_STATE_CANCELLED,
    ChargeState.REFUND_PENDING: pb.CHARGE_STATE_REFUND_PENDING,
    ChargeState.REFUNDED: pb.CHARGE_STATE_REFUNDED,
}
_STATES_ASKED = {number: state for state, number in _CHARGE_STATES.items()}
_PAYMENT_STATES = {
    PaymentState.PENDING: pb.PAYMENT_STATE_PENDING,
    PaymentState.PAID: pb.PAYMENT_STATE_PAID,
    PaymentState.FAILED: pb.PAYMENT_STATE_FAILED,
    PaymentState.EXPIRED: pb.PAYMENT_STATE_EXPIRED,
    PaymentState.SUSPECT: pb.PAYMENT_STATE_SUSPECT,
    PaymentState.REFUND_PENDING: pb.PAYMENT_STATE_REFUND_PENDING,
    PaymentState.REFUNDED: pb.PAYMENT_STATE_REFUNDED,
}
_REASONS = {
    reason.value: pb.PaymentReviewReason.Value(f"PAYMENT_REVIEW_REASON_{reason}") for reason in ReviewReason
}
_METHODS = {Method.VNPAY: pb.PAYMENT_METHOD_VNPAY, Method.VIETQR: pb.PAYMENT_METHOD_VIETQR}
_METHODS_ASKED = {number: method for method, number in _METHODS.items()}


class PaymentApi(PaymentServiceServicer):
    """The gRPC API of payment."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def GetCharge(self, request: pb.GetChargeRequest, context: Any) -> pb.GetChargeResponse:
        charge = await reading.get_charge(self._ports, current_caller(), id=request.id)
        return pb.GetChargeResponse(charge=charge_message(charge))

    async def BatchGetCharges(
        self, request: pb.BatchGetChargesRequest, context: Any
    ) -> pb.BatchGetChargesResponse:
        charges = await reading.batch_get_charges(self._ports, current_caller(), ids=request.ids)
        return pb.BatchGetChargesResponse(charges=map(charge_message, charges))

    async def ListCharges(self, request: pb.ListChargesRequest, context: Any) -> pb.ListChargesResponse:
        charges, token = await reading.list_charges(
            self._ports,
            current_caller(),
            payer=request.payer_id,
            states=[_asked(_STATES_ASKED, state, "states") for state in request.states],
            size=request.page_size,
            token=request.page_token,
            under_review=request.under_review,
        )
        return pb.ListChargesResponse(charges=map(charge_message, charges), next_page_token=token)

    async def BeginPayment(self, request: pb.BeginPaymentRequest, context: Any) -> pb.BeginPaymentResponse:
        caller = current_caller()
        charge, payment, begun = await paying.begin_payment(
            self._ports,
            caller,
            charge_id=request.charge_id,
            method=_asked(_METHODS_ASKED, request.method, "method"),
            client_address=request.client_address,
            locale=request.locale,
            request=Request.of(caller, request.request_id, _without_address(request)),
        )
        return pb.BeginPaymentResponse(
            charge=charge_message(charge),
            payment=payment_message(payment),
            redirect_url=begun.redirect_url,
            qr_payload=begun.qr_payload,
        )

    async def HandleVnpayIpn(
        self, request: pb.HandleVnpayIpnRequest, context: Any
    ) -> pb.HandleVnpayIpnResponse:
        answer = await paying.handle_vnpay_ipn(
            self._ports,
            current_caller(),
            parameters=dict(request.parameters),
            repeated=request.repeated_parameters,
        )
        return pb.HandleVnpayIpnResponse(rsp_code=answer.value[0], message=answer.value[1])

    async def ReadVnpayReturn(
        self, request: pb.ReadVnpayReturnRequest, context: Any
    ) -> pb.ReadVnpayReturnResponse:
        shown = await paying.read_vnpay_return(
            self._ports, current_caller(), parameters=dict(request.parameters)
        )
        if shown.charge is None or shown.payment is None:
            return pb.ReadVnpayReturnResponse(valid=False)
        return pb.ReadVnpayReturnResponse(
            valid=True,
            charge_id=shown.charge.id,
            dossier_id=shown.charge.dossier,
            state=_PAYMENT_STATES[shown.payment.state],
            response_code=shown.code,
        )

    async def HandleTransferNotice(
        self, request: pb.HandleTransferNoticeRequest, context: Any
    ) -> pb.HandleTransferNoticeResponse:
        answer = await paying.handle_transfer_notice(
            self._ports, current_caller(), body=request.body, signature=request.signature
        )
        return pb.HandleTransferNoticeResponse(rsp_code=answer.value[0], message=answer.value[1])

    async def RefundPayment(self, request: pb.RefundPaymentRequest, context: Any) -> pb.RefundPaymentResponse:
        caller = current_caller()
        charge = await paying.refund_payment(
            self._ports,
            caller,
            charge_id=request.charge_id,
            payment_id=request.payment_id,
            reason=request.reason,
            etag=request.etag,
            request=Request.of(caller, request.request_id, request),
        )
        return pb.RefundPaymentResponse(charge=charge_message(charge))

    async def ReviewPayment(self, request: pb.ReviewPaymentRequest, context: Any) -> pb.ReviewPaymentResponse:
        caller = current_caller()
        charge = await paying.review_payment(
            self._ports,
            caller,
            charge_id=request.charge_id,
            payment_id=request.payment_id,
            accept=request.accept,
            amount=request.amount,
            reason=request.reason,
            etag=request.etag,
            request=Request.of(caller, request.request_id, request),
        )
        return pb.ReviewPaymentResponse(charge=charge_message(charge))

    async def BatchGetReceipts(
        self, request: pb.BatchGetReceiptsRequest, context: Any
    ) -> pb.BatchGetReceiptsResponse:
        receipts = await reading.batch_get_receipts(self._ports, current_caller(), ids=request.ids)
        return pb.BatchGetReceiptsResponse(receipts=map(_receipt, receipts))

    async def ListReceipts(self, request: pb.ListReceiptsRequest, context: Any) -> pb.ListReceiptsResponse:
        receipts, token = await reading.list_receipts(
            self._ports,
            current_caller(),
            payer=request.payer_id,
            size=request.page_size,
            token=request.page_token,
        )
        return pb.ListReceiptsResponse(receipts=map(_receipt, receipts), next_page_token=token)

    async def Reconcile(self, request: pb.ReconcileRequest, context: Any) -> pb.ReconcileResponse:
        found = await reconciling.reconcile(self._ports, current_caller(), day=request.date)
        return pb.ReconcileResponse(
            matched=found.matched,
            matched_amount=found.matched_amount,
            differences=[
                pb.ReconcileResponse.Difference(
                    reference=d.reference,
                    kind=d.kind,
                    our_amount=d.our_amount,
                    their_amount=d.their_amount,
                )
                for d in found.differences
            ],
        )


def charge_message(charge: Charge) -> pb.Charge:
    """A charge on the wire."""
    return pb.Charge(
        id=charge.id,
        dossier_id=charge.dossier,
        dossier_code=charge.dossier_code,
        procedure_name=charge.procedure_name,
        payer_id=charge.payer,
        agency=charge.agency,
        state=_CHARGE_STATES[charge.state],
        lines=map(_line, charge.lines),
        amount=charge.amount,
        currency=charge.currency,
        payments=map(payment_message, charge.payments),
        receipt_id=charge.receipt,
        refundable_on_rejection=charge.refundable_on_rejection,
        create_time=timestamp(charge.created_at),
        pay_time=timestamp(charge.paid_at),
        etag=etag(charge),
        receipt_number=charge.receipt_number,
    )


def payment_message(payment: Payment) -> pb.Payment:
    """A payment on the wire; its amount is what was taken once anything was."""
    return pb.Payment(
        id=payment.id,
        method=_METHODS[payment.method],
        state=_PAYMENT_STATES[payment.state],
        amount=payment.received or payment.amount,
        reference=payment.reference,
        gateway_transaction=payment.gateway_transaction,
        response_code=payment.code,
        create_time=timestamp(payment.begun_at),
        pay_time=timestamp(payment.paid_at),
        expire_time=timestamp(payment.expires_at),
        review=_review(payment.review) if payment.review else None,
    )


def _review(review: Review) -> pb.PaymentReview:
    return pb.PaymentReview(
        reasons=[_REASONS[reason] for reason in review.reasons if reason in _REASONS],
        amount=review.amount,
        currency=review.currency,
        create_time=timestamp(review.at),
        decide_time=timestamp(review.decided_at),
    )


def _receipt(receipt: Receipt) -> pb.Receipt:
    """The receipt as the caller may see it: to officials a tax code that is a person's number is masked."""
    shown = receipt_message(receipt)
    if current_caller().kind == "official":
        shown.payer_tax_code = receipt.masked_tax_code
    return shown


def receipt_message(receipt: Receipt) -> pb.Receipt:
    """A receipt on the wire."""
    return pb.Receipt(
        id=receipt.id,
        charge_id=receipt.charge,
        form=receipt.form,
        series=receipt.series,
        number=receipt.number_text,
        payer_id=receipt.payer,
        payer_name=receipt.payer_name,
        payer_tax_code=receipt.payer_tax_code,
        agency=receipt.agency,
        lines=map(_line, receipt.lines),
        amount=receipt.amount,
        currency=receipt.currency,
        issue_time=timestamp(receipt.issued_at),
        void_time=timestamp(receipt.voided_at),
        void_reason=receipt.void_reason,
    )


def _line(line: Line) -> pb.ChargeLine:
    return pb.ChargeLine(name=line.name, amount=line.amount, quantity=line.quantity)


def _asked(known: dict[Any, Any], number: int, field: str) -> Any:
    if number not in known:
        raise InvalidInput(violations=[FieldViolation(field, "UNKNOWN_VALUE", "not one of the known values")])
    return known[number]


def _without_address(request: pb.BeginPaymentRequest) -> pb.BeginPaymentRequest:
    """The same request from another network is still the same request."""
    same = pb.BeginPaymentRequest()
    same.CopyFrom(request)
    same.client_address = ""
    return same
