"""Charges, payments, receipts and refunds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.binding import Info, Part, fill
from gateway.context import Context
from gateway.execution import never_waits
from gateway.relay import Page, connect
from gateway.schema.base import Money, connection, mutation, rpc
from gateway.schema.vault import other
from motcua.identity.v1 import identity_pb2 as identity
from motcua.payment.v1 import payment_pb2 as pb

part = Part('''
extend type Account {
  """Newest first."""
  charges(states: [ChargeState!], first: Int! = 20, after: String): ChargeConnection!
  receipts(first: Int! = 20, after: String): ReceiptConnection!
}

"""What a dossier costs."""
type Charge implements Node {
  id: ID!
  dossier: Dossier
  dossierCode: String
  procedureName: String
  payer: Account
  agency: Agency
  state: ChargeState!
  lines: [ChargeLine!]!
  amount: Money!
  payments: [Payment!]!
  receipt: Receipt
  """Such as `26TAB/00000001`; null until it is issued."""
  receiptNumber: String
  refundableOnRejection: Boolean!
  createTime: DateTime
  payTime: DateTime
  etag: String
}
type ChargeLine { name: String! amount: Money! quantity: Int! }
"""An attempt to pay."""
type Payment {
  id: ID!
  method: PaymentMethod!
  state: PaymentState!
  amount: Money!
  """Ours, unique at the gateway."""
  reference: String
  """The gateway's answer, such as `00`."""
  responseCode: String
  createTime: DateTime
  payTime: DateTime
  expireTime: DateTime
}
"""An e-receipt."""
type Receipt implements Node {
  id: ID!
  charge: Charge
  """EBL01 or EBL02."""
  form: String!
  series: String!
  number: String!
  payerName: String
  payerTaxCode: String
  agency: Agency
  lines: [ChargeLine!]!
  amount: Money!
  issueTime: DateTime!
}
"""Where to pay: a page of the gateway, or the text of a VietQR code."""
type PaymentStart {
  charge: Charge!
  payment: Payment!
  redirectUrl: String
  qrPayload: String
}

input PayChargeInput { requestId: String chargeId: ID! method: PaymentMethod! = VNPAY }
input RefundPaymentInput {
  requestId: String
  chargeId: ID!
  """Absent: the one that paid the charge."""
  paymentId: ID
  reason: String!
  etag: String
}
''')
part.enum("ChargeState", pb.ChargeState, "States of a charge.")
part.enum("PaymentMethod", pb.PaymentMethod, "Ways of paying.")
part.enum("PaymentState", pb.PaymentState, "SUSPECT waits for a person.")
part.type("Charge", pb.Charge, key="id")
part.type("ChargeLine", pb.ChargeLine)
part.type("Payment", pb.Payment, key="id")
part.type("Receipt", pb.Receipt, key="id")
part.type("PaymentStart", pb.BeginPaymentResponse)
connection(part, "Charge")
connection(part, "Receipt")


@part.resolve("Account.charges")
async def charges(
    account: identity.Account,
    info: Info,
    first: int,
    states: list[Any] | None = None,
    after: str | None = None,
) -> Page:
    context: Context = info.context

    async def fetch(size: int, token: str) -> Any:
        request = pb.ListChargesRequest(
            payer_id=other(context, account), states=states, page_size=size, page_token=token
        )
        reply = await context.call(context.services.payment.ListCharges, request)
        return reply.charges, reply.next_page_token, None

    return await connect(first, after, fetch)


@part.resolve("Account.receipts")
async def receipts(account: identity.Account, info: Info, first: int, after: str | None = None) -> Page:
    context: Context = info.context

    async def fetch(size: int, token: str) -> Any:
        request = pb.ListReceiptsRequest(payer_id=other(context, account), page_size=size, page_token=token)
        reply = await context.call(context.services.payment.ListReceipts, request)
        return reply.receipts, reply.next_page_token, None

    return await connect(first, after, fetch)


part.resolve("Charge.dossier")(lambda charge, info: info.context.dossiers.load(charge.dossier_id))
part.resolve("Charge.payer")(lambda charge, info: info.context.accounts.load(charge.payer_id))
part.resolve("Charge.agency", "Receipt.agency")(
    lambda source, info: info.context.agencies.load(source.agency)
)
part.resolve("Charge.receipt")(lambda charge, info: info.context.receipts.load(charge.receipt_id))
part.resolve("Receipt.charge")(lambda receipt, info: info.context.charges.load(receipt.charge_id))
part.resolve("Charge.amount", "Receipt.amount")(never_waits(lambda source, _info: source))
part.resolve("ChargeLine.amount", "Payment.amount")(never_waits(lambda source, _info: Money(source.amount)))


@mutation(part, "payCharge", "PaymentStart", "Begins to pay a charge and answers where to.")
async def pay_charge(context: Context, input: Mapping[str, Any]) -> Any:
    request = fill(
        pb.BeginPaymentRequest(client_address=context.client_address, locale=await context.locale()), input
    )
    return await context.call(context.services.payment.BeginPayment, request)


rpc(
    part,
    "refundPayment",
    "Charge",
    "Gives the money back.",
    method=lambda context: context.services.payment.RefundPayment,
    request=pb.RefundPaymentRequest,
    answer=lambda reply: reply.charge,
)
