"""The protocol of a VNPay-type gateway (version 2.1.0), pure: what is signed, sent, read and answered.

Parameters are sorted and form-encoded, and signed with HMAC-SHA512 (`vnp_SecureHash`); the merchant API signs
its values joined by `|` in a fixed order instead. Amounts travel ×100, times as `yyyyMMddHHmmss` in GMT+7.
The server-to-server notice (IPN) decides; what the browser brings back only shows.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum, StrEnum
from typing import Final
from urllib.parse import urlencode

from kit.money import CURRENCY
from kit.text import fold

VERSION: Final = "2.1.0"
ZONE: Final = timezone(timedelta(hours=7))
_SIGNATURE = ("vnp_SecureHash", "vnp_SecureHashType")
_DIGITS = re.compile(r"[0-9]{1,18}")
_STAMP = "%Y%m%d%H%M%S"
_TIME = re.compile(r"20[0-9]{12}")  # strptime alone takes fewer digits, too
_TRANSACTION = re.compile(r"[0-9A-Za-z._-]{1,64}")
_CODE = re.compile(r"[0-9A-Za-z]{0,10}")
UNREADABLE: Final = -1  # an amount that is not in whole đồng


@dataclass(frozen=True)
class Merchant:
    """What the gateway gave us: our code there and the secret that signs both ways."""

    tmn_code: str
    secret: str = field(repr=False)


class Outcome(StrEnum):
    """What the gateway says of a transaction."""

    PAID = "paid"
    FAILED = "failed"
    SUSPECT = "suspect"  # money was taken, but the gateway doubts the transaction: a person looks at it
    PENDING = "pending"  # begun and not decided
    UNKNOWN = "unknown"  # the gateway has never heard of it


class IpnAnswer(Enum):
    """What we answer to an IPN: code and message. All but 00 and 02 make the gateway send it again."""

    OK = ("00", "Confirm Success")
    ORDER_NOT_FOUND = ("01", "Order not found")
    ALREADY_CONFIRMED = ("02", "Order already confirmed")
    AMOUNT_DIFFERS = ("04", "Invalid amount")
    BAD_CHECKSUM = ("97", "Invalid checksum")
    OTHER = ("99", "Unknown error")


@dataclass(frozen=True)
class Notice:
    """A transaction as the gateway reports it, by IPN, by the browser's return or to our inquiry."""

    txn_ref: str
    amount: int  # đồng; UNREADABLE in a notice that names none
    outcome: Outcome
    code: str  # vnp_ResponseCode, or the transaction status where that decides
    transaction_no: str = ""
    bank: str = ""
    paid_on: str = ""  # yyyyMMddHHmmss in GMT+7; empty when nothing was paid, or when it is no time
    currency: str = CURRENCY  # as far as the gateway names one


class BadSignature(ValueError):
    """The signature is absent or not the gateway's."""


class Malformed(ValueError):
    """Signed by the gateway and yet not understandable."""


def stamp(instant: datetime) -> str:
    """An instant the way the gateway writes it: `20261123120000`, GMT+7."""
    return instant.astimezone(ZONE).strftime(_STAMP)


def from_stamp(text: str) -> datetime:
    """The instant that a gateway's time stands for. Raises Malformed when it is none."""
    try:
        if not _TIME.fullmatch(text):
            raise ValueError(text)
        return datetime.strptime(text, _STAMP).replace(tzinfo=ZONE)
    except ValueError as error:
        raise Malformed(f"not a time: {text!r}") from error


def plain(text: str, limit: int = 255) -> str:
    """Vietnamese without accents and special characters, as the gateway wants order texts."""
    return " ".join(re.sub(r"[^0-9a-zA-Z .:-]", " ", fold(text)).split())[:limit].strip()


def sign(params: Mapping[str, str], secret: str) -> str:
    """HMAC-SHA512 in hex over the sorted, form-encoded `vnp_` parameters that have a value."""
    return _hmac(_encoded(params), secret)


def verify(params: Mapping[str, str], secret: str) -> None:
    """Raises BadSignature unless `vnp_SecureHash` is the gateway's; compares in constant time."""
    _compare(sign(params, secret), params.get("vnp_SecureHash", ""))


def payment_url(
    base: str,
    merchant: Merchant,
    *,
    txn_ref: str,
    amount: int,
    text: str,
    return_url: str,
    client_address: str,
    locale: str,
    created: datetime,
    expires: datetime,
) -> str:
    """Where the payer's browser is sent to pay. `amount` in đồng; `locale` is `vi` or `en`."""
    params = {
        "vnp_Version": VERSION,
        "vnp_Command": "pay",
        "vnp_TmnCode": merchant.tmn_code,
        "vnp_Amount": str(amount * 100),
        "vnp_CurrCode": CURRENCY,
        "vnp_TxnRef": txn_ref,
        "vnp_OrderInfo": plain(text),
        "vnp_OrderType": "other",
        "vnp_Locale": "en" if locale == "en" else "vn",
        "vnp_ReturnUrl": return_url,
        "vnp_IpAddr": client_address or "127.0.0.1",
        "vnp_CreateDate": stamp(created),
        "vnp_ExpireDate": stamp(expires),
    }
    query = _encoded(params)
    return f"{base}?{query}&vnp_SecureHash={_hmac(query, merchant.secret)}"


def read_notice(params: Mapping[str, str], merchant: Merchant) -> Notice:
    """An IPN or a browser's return, believed only when signed.

    What of it is missing or makes no sense is left empty: whoever knows the charge decides what that means.
    Raises BadSignature when it is not, Malformed when it is another merchant's or names no payment.
    """
    verify(params, merchant.secret)
    if params.get("vnp_TmnCode", "") != merchant.tmn_code:
        raise Malformed("for another merchant")
    code = params.get("vnp_ResponseCode", "")
    status = params.get("vnp_TransactionStatus", code)
    if code == "07" or status == "07":
        outcome, said = Outcome.SUSPECT, "07"
    elif code == "00" and status == "00":
        outcome, said = Outcome.PAID, "00"
    else:
        outcome, said = Outcome.FAILED, status if code in ("00", "") else code
    return _notice(params, outcome, said)


def query_request(
    merchant: Merchant, *, request_id: str, txn_ref: str, begun: datetime, now: datetime
) -> dict[str, str]:
    """The signed body that asks what became of a transaction (`querydr`)."""
    params = {
        "vnp_RequestId": request_id,
        "vnp_Version": VERSION,
        "vnp_Command": "querydr",
        "vnp_TmnCode": merchant.tmn_code,
        "vnp_TxnRef": txn_ref,
        "vnp_TransactionDate": stamp(begun),
        "vnp_CreateDate": stamp(now),
        "vnp_IpAddr": "127.0.0.1",
        "vnp_OrderInfo": f"Tra cuu {txn_ref}",
    }
    return params | {"vnp_SecureHash": _hmac(_joined(params, QUERY_ORDER), merchant.secret)}


def refund_request(
    merchant: Merchant,
    *,
    request_id: str,
    txn_ref: str,
    amount: int,
    transaction_no: str,
    begun: datetime,
    by: str,
    now: datetime,
) -> dict[str, str]:
    """The signed body that asks for all of a transaction's money to be sent back (type 02)."""
    params = {
        "vnp_RequestId": request_id,
        "vnp_Version": VERSION,
        "vnp_Command": "refund",
        "vnp_TmnCode": merchant.tmn_code,
        "vnp_TransactionType": "02",
        "vnp_TxnRef": txn_ref,
        "vnp_Amount": str(amount * 100),
        "vnp_TransactionNo": transaction_no,
        "vnp_TransactionDate": stamp(begun),
        "vnp_CreateBy": plain(by, 245) or "motcua",
        "vnp_CreateDate": stamp(now),
        "vnp_IpAddr": "127.0.0.1",
        "vnp_OrderInfo": f"Hoan tien {txn_ref}",
    }
    return params | {"vnp_SecureHash": _hmac(_joined(params, REFUND_ORDER), merchant.secret)}


def read_query_answer(params: Mapping[str, str], merchant: Merchant, txn_ref: str) -> Notice:
    """What the gateway answered to our inquiry about `txn_ref`.

    Raises BadSignature, or Malformed when it answers about something else or cannot answer now.
    """
    _compare(_hmac(_joined(params, QUERY_ANSWER_ORDER), merchant.secret), params.get("vnp_SecureHash", ""))
    code = params.get("vnp_ResponseCode", "")
    if code == "91":
        return Notice(txn_ref=txn_ref, amount=0, outcome=Outcome.UNKNOWN, code=code)
    if code != "00" or params.get("vnp_TxnRef") != txn_ref:
        raise Malformed(f"no answer about {txn_ref}: {code}")
    status = params.get("vnp_TransactionStatus", "")
    outcome = {
        "00": Outcome.PAID,
        "01": Outcome.PENDING,
        "04": Outcome.SUSPECT,  # taken at the bank and not settled at the gateway
        "07": Outcome.SUSPECT,
    }.get(status, Outcome.FAILED)
    notice = _notice(params, outcome, status)
    if notice.amount == UNREADABLE:
        raise Malformed(f"no amount of {txn_ref}")
    return notice


def read_refunded(params: Mapping[str, str], merchant: Merchant, txn_ref: str) -> bool:
    """Whether the answer to an inquiry shows that the money went back or is on its way.

    Raises BadSignature, or Malformed when it answers about something else or cannot answer now.
    """
    _compare(_hmac(_joined(params, QUERY_ANSWER_ORDER), merchant.secret), params.get("vnp_SecureHash", ""))
    if params.get("vnp_ResponseCode") != "00" or params.get("vnp_TxnRef") != txn_ref:
        raise Malformed(f"no answer about {txn_ref}")
    kind, status = params.get("vnp_TransactionType", ""), params.get("vnp_TransactionStatus", "")
    return status in ("05", "06") or (kind in ("02", "03") and status == "00")


class RefundAnswer(StrEnum):
    """What became of our request to send money back."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"  # this very request came before; what became of it is for an inquiry to say
    LATER = "later"  # not now; ask again
    REFUSED = "refused"  # never; a person has to look


def read_refund_answer(params: Mapping[str, str], merchant: Merchant) -> tuple[RefundAnswer, str]:
    """(what became of it, the gateway's code). Raises BadSignature."""
    _compare(_hmac(_joined(params, REFUND_ANSWER_ORDER), merchant.secret), params.get("vnp_SecureHash", ""))
    code = params.get("vnp_ResponseCode", "")
    if code == "00":
        return RefundAnswer.ACCEPTED, code
    if code == "94":
        return RefundAnswer.REPEATED, code
    if code in ("98", "99"):
        return RefundAnswer.LATER, code
    return RefundAnswer.REFUSED, code


QUERY_ORDER: Final = (
    "RequestId", "Version", "Command", "TmnCode", "TxnRef", "TransactionDate", "CreateDate", "IpAddr",
    "OrderInfo",
)  # fmt: skip
REFUND_ORDER: Final = (
    "RequestId", "Version", "Command", "TmnCode", "TransactionType", "TxnRef", "Amount", "TransactionNo",
    "TransactionDate", "CreateBy", "CreateDate", "IpAddr", "OrderInfo",
)  # fmt: skip
REFUND_ANSWER_ORDER: Final = (
    "ResponseId", "Command", "ResponseCode", "Message", "TmnCode", "TxnRef", "Amount", "BankCode", "PayDate",
    "TransactionNo", "TransactionType", "TransactionStatus", "OrderInfo",
)  # fmt: skip
QUERY_ANSWER_ORDER: Final = (*REFUND_ANSWER_ORDER, "PromotionCode", "PromotionAmount")


def _notice(params: Mapping[str, str], outcome: Outcome, code: str) -> Notice:
    amount = params.get("vnp_Amount", "")
    txn_ref = params.get("vnp_TxnRef", "")
    if not txn_ref or not _CODE.fullmatch(code):
        raise Malformed("no reference, or no code")
    transaction, paid_on = params.get("vnp_TransactionNo", ""), params.get("vnp_PayDate", "")
    try:
        from_stamp(paid_on)
    except Malformed:
        paid_on = ""
    return Notice(
        txn_ref=txn_ref,
        amount=int(amount) // 100 if _DIGITS.fullmatch(amount) and int(amount) % 100 == 0 else UNREADABLE,
        outcome=outcome,
        code=code,
        transaction_no=transaction if _TRANSACTION.fullmatch(transaction) else "",
        bank=params.get("vnp_BankCode", "")[:20],
        paid_on=paid_on,
        currency=(params.get("vnp_CurrCode") or CURRENCY)[:10],
    )


def _encoded(params: Mapping[str, str]) -> str:
    kept = {k: v for k, v in params.items() if k.startswith("vnp_") and v != "" and k not in _SIGNATURE}
    return urlencode(sorted(kept.items()))


def _joined(params: Mapping[str, str], order: tuple[str, ...]) -> str:
    return "|".join(str(params.get(f"vnp_{name}", "")) for name in order)


def _hmac(text: str, secret: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha512).hexdigest()


def _compare(expected: str, given: str) -> None:
    if not hmac.compare_digest(expected.encode(), given.lower().encode()):
        raise BadSignature("not signed by the gateway")
