"""What the gateway and the bank do, apart from HTTP: how payments end, what is answered to signed calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sandbox import wire
from sandbox.ledger import STATUS, Ledger, Transaction, Transfer
from sandbox.settings import Settings

_CODES = {
    "pay": ("paid", "00"),
    "delay": ("paid", "00"),
    "wrong_amount": ("paid", "00"),
    "wrong_checksum": ("paid", "00"),
    "lose_ipn": ("paid", "00"),
    "cancel": ("failed", "24"),
    "no_funds": ("failed", "51"),
    "expired": ("failed", "11"),
    "suspect": ("suspect", "07"),
}
OUTCOMES = tuple(_CODES)


@dataclass(frozen=True)
class How:
    """How the merchant is told: after `delay` s, `repeat` times more, not at all, with a wrong signature."""

    delay: float = 0.0
    repeat: int = 0
    lose: bool = False
    spoil: bool = False


class Gateway:
    """The gateway: its ledger and its secrets. `wake` is called when a notice was queued."""

    def __init__(self, settings: Settings, ledger: Ledger, wake: Callable[[], None]) -> None:
        self.ledger = ledger
        self.unclear: list[str] = []  # how the next refunds end: `done` or `not_done`, answered 99 both
        self._settings = settings
        self._wake = wake
        self._vnpay_secret = settings.vnpay_hash_secret.get_secret_value()
        self._bank_secret = settings.bank_secret.get_secret_value()

    # Payments

    def refused(self, params: dict[str, str]) -> str:
        """Why a payment page must not open, in the payer's words; empty when it may."""
        needed = ("TmnCode", "Amount", "TxnRef", "ReturnUrl", "OrderInfo", "ExpireDate", "SecureHash")
        if any(not params.get("vnp_" + name) for name in needed):
            return "Thiếu tham số."
        if not wire.same(self._sign(wire.query(params).encode()), params["vnp_SecureHash"]):
            return "Sai chữ ký."
        if params["vnp_TmnCode"] != self._settings.vnpay_tmn_code or not params["vnp_Amount"].isdecimal():
            return "Sai thông tin đơn vị thanh toán."
        if params["vnp_ExpireDate"] < wire.stamp(datetime.now(UTC)):
            return "Giao dịch đã quá hạn thanh toán."
        return ""

    def settle(self, transaction: Transaction, outcome: str, how: How) -> Transaction | None:
        """Ends a transaction with one of `OUTCOMES` and queues its notice; None when it had ended before."""
        state, code = _CODES[outcome]
        captured = transaction.amount if state in ("paid", "suspect") else 0
        if outcome == "wrong_amount":
            captured = max(1, transaction.amount // 2)
        with self.ledger.together():
            if not self.ledger.decide(
                transaction.ref,
                state=state,
                code=code,
                captured=captured,
                paid_on=wire.stamp(datetime.now(UTC)),
            ):
                return None
            settled = self.ledger.existing(transaction.ref)
            if not (how.lose or outcome == "lose_ipn"):
                query = wire.signed_query(self._outcome(settled), self._vnpay_secret)
                if how.spoil or outcome == "wrong_checksum":
                    query = query[:-8] + "00000000"
                self._notify("ipn", settled.ref, {"query": query}, how)
        return settled

    def transfer(self, qr: str, amount: int | None, how: How) -> str:
        """Pays a VietQR code and queues the bank's notice; answers the bank's transaction.

        `amount` None: what the code asks for. Raises ValueError for a code that cannot be paid here.
        """
        bank, account, asked, purpose = wire.read_qr(qr)
        if (bank, account) != (self._settings.bank_bin, self._settings.bank_account):
            raise ValueError("another account")
        amount = amount or asked
        if not amount or amount <= 0:
            raise ValueError("no amount")
        id_ = f"FT{uuid4().hex[:14].upper()}"
        content, paid_on = f"NGUOI TRA chuyen tien {purpose}", wire.stamp(datetime.now(UTC))
        notice = {
            "transaction_id": id_,
            "bank_bin": bank,
            "account": account,
            "amount": amount,
            "content": content,
            "time": paid_on,
        }
        body = json.dumps(notice)
        signature = wire.hmac512(self._bank_secret, body.encode())
        with self.ledger.together():
            self.ledger.transfer(id=id_, reference=purpose, content=content, amount=amount, paid_on=paid_on)
            if not how.lose:
                signed = {"body": body, "signature": "0" * 128 if how.spoil else signature}
                self._notify("transfer", id_, signed, how)
        return id_

    def return_url(self, transaction: Transaction) -> str:
        """Where the browser goes back to, with the signed outcome."""
        query = wire.signed_query(self._outcome(transaction), self._vnpay_secret)
        return transaction.return_url + ("&" if "?" in transaction.return_url else "?") + query

    def _notify(self, kind: str, subject: str, payload: dict[str, str], how: How) -> None:
        self.ledger.notify(kind, subject, payload, due=time.time() + how.delay, repeats=how.repeat)
        self._wake()

    def _outcome(self, transaction: Transaction) -> dict[str, str]:
        paid = transaction.state in ("paid", "suspect")
        return {
            "vnp_TmnCode": self._settings.vnpay_tmn_code,
            "vnp_TxnRef": transaction.ref,
            "vnp_Amount": str((transaction.captured if paid else transaction.amount) * 100),
            "vnp_OrderInfo": transaction.info,
            "vnp_ResponseCode": transaction.code,
            "vnp_TransactionStatus": STATUS[transaction.state],
            "vnp_TransactionNo": str(transaction.number) if paid else "0",
            "vnp_BankCode": "NCB",
            "vnp_BankTranNo": f"VNP{transaction.number}" if paid else "",
            "vnp_CardType": "ATM" if paid else "",
            "vnp_PayDate": transaction.paid_on,
        }

    # The merchant's API

    def merchant_call(self, params: dict[str, str]) -> dict[str, str]:
        """`querydr` and `refund`, signed; the answer is signed too."""
        order = {"querydr": wire.QUERY, "refund": wire.REFUND}.get(params.get("vnp_Command", ""))
        if order is None or not params.get("vnp_RequestId") or not params.get("vnp_TxnRef"):
            return self._answer(params, "03", "Du lieu gui sang khong dung dinh dang")
        if params.get("vnp_TmnCode") != self._settings.vnpay_tmn_code:
            return self._answer(params, "02", "Ma dinh danh ket noi khong hop le")
        if not wire.same(self._sign(wire.joined(params, order)), params.get("vnp_SecureHash", "")):
            return self._answer(params, "97", "Chu ky khong hop le")
        transaction = self.ledger.transaction(params["vnp_TxnRef"])
        if transaction is None:
            return self._answer(params, "91", "Khong tim thay giao dich")
        if params["vnp_Command"] == "querydr":
            return self._answer(params, "00", "OK", transaction)
        return self._refund(params, transaction)

    def _refund(self, params: dict[str, str], transaction: Transaction) -> dict[str, str]:
        if transaction.state != "paid":
            return self._answer(params, "95", "Giao dich khong thanh cong", transaction)
        amount = int(params["vnp_Amount"]) // 100 if params.get("vnp_Amount", "").isdecimal() else 0
        if self.ledger.refunded(params["vnp_RequestId"]):
            return self._answer(params, "94", "Yeu cau trung lap", transaction)
        if amount <= 0 or amount + transaction.refunded > transaction.captured:
            return self._answer(params, "02", "Tong so tien hoan tra lon hon so tien goc", transaction)
        unclear = self.unclear.pop(0) if self.unclear else ""
        if unclear != "not_done":
            self.ledger.refund(params["vnp_RequestId"], transaction.ref, "transactions", amount)
        if unclear:
            return self._answer(params, "99", "Loi khac", transaction)
        return self._answer(params, "00", "OK", transaction)

    def _answer(
        self, params: dict[str, str], code: str, message: str, transaction: Transaction | None = None
    ) -> dict[str, str]:
        command = params.get("vnp_Command", "")
        answer = {
            "vnp_ResponseId": uuid4().hex,
            "vnp_Command": command,
            "vnp_ResponseCode": code,
            "vnp_Message": message,
            "vnp_TmnCode": self._settings.vnpay_tmn_code,
            "vnp_TxnRef": params.get("vnp_TxnRef", ""),
        }
        if transaction is not None:
            outcome = self._outcome(transaction)
            kept = ("Amount", "BankCode", "PayDate", "TransactionNo", "TransactionStatus", "OrderInfo")
            answer |= {"vnp_" + name: outcome["vnp_" + name] for name in kept}
            answer["vnp_TransactionType"] = "02" if command == "refund" or transaction.refunded else "01"
            if command == "refund":
                answer["vnp_Amount"] = params.get("vnp_Amount", "")
        order = wire.REFUND_ANSWER if command == "refund" else wire.QUERY_ANSWER
        return answer | {"vnp_SecureHash": self._sign(wire.joined(answer, order))}

    # Calls with a signed JSON body: the gateway's statement, and the bank

    def statement(self, body: bytes, signature: str) -> tuple[bytes, str]:
        """The gateway's statement of a day: what it took, and what of that it has sent back."""

        def rows(asked: dict[str, Any]) -> dict[str, Any]:
            return {"code": "00", "rows": [_row(t) for t in self.ledger.taken_on(_day(asked))]}

        return _signed_call(body, signature, self._vnpay_secret, rows)

    def bank_call(self, what: str, body: bytes, signature: str) -> tuple[bytes, str]:
        """The bank for the holder of the account: `transfers` by reference, `statement` of a day, `refunds`.

        Raises KeyError for any other call.
        """
        calls: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "transfers": lambda asked: {
                "code": "00",
                "rows": [_row(t) for t in self.ledger.transfers(reference=str(asked.get("reference", "?")))],
            },
            "statement": lambda asked: {
                "code": "00",
                "rows": [_row(t) for t in self.ledger.transfers(day=_day(asked))],
            },
            "refunds": lambda asked: {"code": self._send_back(asked)},
        }
        return _signed_call(body, signature, self._bank_secret, calls[what])

    def _send_back(self, asked: dict[str, Any]) -> str:
        request, id_ = str(asked.get("request_id", "")), str(asked.get("transaction", "?"))
        amount = asked.get("amount")
        transfer = next(iter(self.ledger.transfers(id=id_)), None)
        if transfer is None or not request or not isinstance(amount, int):
            return "91"
        if self.ledger.refunded(request):
            return "94"
        if amount <= 0 or amount + transfer.refunded > transfer.amount:
            return "02"
        self.ledger.refund(request, id_, "transfers", amount)
        return "00"

    def _sign(self, data: bytes) -> str:
        return wire.hmac512(self._vnpay_secret, data)


def _day(asked: dict[str, Any]) -> str:
    return str(asked.get("date", "?")).replace("-", "")


def _row(found: Transaction | Transfer) -> dict[str, Any]:
    if isinstance(found, Transaction):
        reference, transaction, amount = found.ref, str(found.number), found.captured
    else:
        reference, transaction, amount = found.reference, found.id, found.amount
    return {
        "reference": reference,
        "transaction": transaction,
        "amount": amount,
        "refunded": found.refunded,
        "time": found.paid_on,
    }


def _signed_call(
    body: bytes, signature: str, secret: str, answer: Callable[[dict[str, Any]], dict[str, Any]]
) -> tuple[bytes, str]:
    """The answer to a signed JSON body and its signature; code 97 when the body is not signed."""
    said: dict[str, Any] = {"code": "97"}
    if wire.same(wire.hmac512(secret, body), signature):
        try:
            asked = json.loads(body)
        except ValueError:
            asked = None
        said = answer(asked) if isinstance(asked, dict) else {"code": "03"}
    content = json.dumps(said).encode()
    return content, wire.hmac512(secret, content)
