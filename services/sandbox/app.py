"""The gateway and the bank over HTTP: pages for the payer, APIs for us, controls for tests and demo.

    GET  /paymentv2/vpcpay.html         the payment page, opened with a signed query
    POST /merchant_webapi/api/transaction  querydr and refund          POST /merchant_webapi/api/statement
    GET  /qr?qr=...                     a banking app in small
    POST /bank/api/{transfers,refunds,statement}                       signed bodies, signed answers
    POST /control/transactions/{ref}    {"outcome": "pay", "delay_ms": 0, "repeat": 0, "lose_ipn": false}
    POST /control/qr                    {"qr": "...", "amount": 20000, ...}
    POST /control/refunds               {"unclear": ["done", "not_done"]}: the next refunds answer 99
    GET  /control/transactions/{ref}    what is known, with the answers that notices got

Outcomes: pay, cancel, no_funds, suspect, wrong_amount (takes another amount), wrong_checksum, lose_ipn.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox import pages, wire
from sandbox.ledger import STATUS, Ledger, Notice, Transaction, Transfer
from sandbox.settings import Settings

log = logging.getLogger("sandbox")
_CODES = {
    "pay": ("paid", "00"),
    "wrong_amount": ("paid", "00"),
    "wrong_checksum": ("paid", "00"),
    "lose_ipn": ("paid", "00"),
    "delay": ("paid", "00"),
    "cancel": ("failed", "24"),
    "no_funds": ("failed", "51"),
    "expired": ("failed", "11"),
    "suspect": ("suspect", "07"),
}


class Sandbox:
    """The gateway: its ledger, its secrets, and the notices that are still to be delivered."""

    def __init__(self, settings: Settings) -> None:
        if settings.environment == "production":
            raise SystemExit("the payment sandbox must not run in production")
        self.settings = settings
        self.ledger = Ledger(settings.sandbox_data_dir)
        self._http = httpx.AsyncClient(timeout=10, trust_env=False)
        self._wake = asyncio.Event()
        self._unclear: list[str] = []

    # The payer

    async def page(self, request: Request) -> Response:
        """Checks the signed query as the real gateway does and shows what there is to pay."""
        params = dict(request.query_params)
        problem = self._refused(params)
        if problem:
            return HTMLResponse(pages.said("Giao dịch không hợp lệ", problem), 400)
        known = self.ledger.transaction(params["vnp_TxnRef"])
        if known is not None and known.state != "pending":
            return HTMLResponse(pages.said("Giao dịch đã kết thúc", "Mã giao dịch này đã được dùng."), 409)
        transaction = known or self.ledger.open_transaction(
            params["vnp_TxnRef"],
            int(params["vnp_Amount"]) // 100,
            params["vnp_ReturnUrl"],
            params["vnp_OrderInfo"],
            params["vnp_ExpireDate"],
        )
        return HTMLResponse(pages.payment(transaction, params.get("vnp_Locale", "vn")))

    def _refused(self, params: dict[str, str]) -> str:
        needed = ("TmnCode", "Amount", "TxnRef", "ReturnUrl", "OrderInfo", "ExpireDate", "SecureHash")
        if any(not params.get("vnp_" + name) for name in needed):
            return "Thiếu tham số."
        if not wire.same(self._sign(wire.query(params)), params["vnp_SecureHash"]):
            return "Sai chữ ký."
        if params["vnp_TmnCode"] != self.settings.vnpay_tmn_code or not params["vnp_Amount"].isdecimal():
            return "Sai thông tin đơn vị thanh toán."
        if params["vnp_ExpireDate"] < wire.stamp(datetime.now(UTC)):
            return "Giao dịch đã quá hạn thanh toán."
        return ""

    async def pay(self, request: Request) -> Response:
        """A button of the payment page: settles the transaction and sends the browser back."""
        form = await _form(request)
        outcome = form.get("outcome", "")
        if outcome not in ("pay", "cancel", "no_funds", "delay"):
            return HTMLResponse(pages.said("Không rõ lựa chọn", "Hãy quay lại và chọn lại."), 400)
        transaction = self.ledger.transaction(form.get("ref", ""))
        if transaction is None:
            return HTMLResponse(pages.said("Không tìm thấy giao dịch", "Hãy bắt đầu lại."), 404)
        settled = self._settle(transaction, outcome, delay=5.0 if outcome == "delay" else 0.0)
        if settled is None:
            return HTMLResponse(pages.said("Giao dịch đã kết thúc", "Mã giao dịch này đã được dùng."), 409)
        return RedirectResponse(self._return_url(settled), 303)

    async def qr_page(self, request: Request) -> Response:
        """The form of the banking app, filled in from a code."""
        qr = request.query_params.get("qr", "")
        try:
            _, _, amount, purpose = wire.read_qr(qr) if qr else ("", "", None, "")
        except ValueError:
            return HTMLResponse(pages.transfer(qr, None, "", "Không đọc được mã VietQR."), 400)
        return HTMLResponse(pages.transfer(qr, amount, purpose))

    async def qr_pay(self, request: Request) -> Response:
        """Makes the transfer that was confirmed in the banking app."""
        form = await _form(request)
        qr, typed = form.get("qr", ""), form.get("amount", "").replace(".", "").strip()
        try:
            self._transfer(qr, amount=int(typed) if typed else None)
        except ValueError:
            return HTMLResponse(pages.transfer(qr, None, "", "Mã VietQR hoặc số tiền không hợp lệ."), 400)
        return HTMLResponse(pages.said("Đã chuyển khoản", "Ngân hàng sẽ báo cho đơn vị nhận tiền."))

    async def overview(self, request: Request) -> Response:
        """The latest transactions."""
        return HTMLResponse(pages.overview(self.ledger.recent()))

    # Controls for tests and demo

    async def control(self, request: Request) -> Response:
        """Settles a transaction as told and answers where the browser would be sent."""
        wanted = await _json(request)
        outcome = str(wanted.get("outcome", "pay"))
        if outcome not in _CODES:
            return JSONResponse({"problem": f"unknown outcome; one of {sorted(_CODES)}"}, 400)
        transaction = self.ledger.transaction(request.path_params["ref"])
        if transaction is None:
            return JSONResponse({"problem": "no such transaction; open its payment page first"}, 404)
        try:
            delay, repeat = float(wanted.get("delay_ms", 0)) / 1000, int(wanted.get("repeat", 0))
        except (TypeError, ValueError):
            return JSONResponse({"problem": "delay_ms and repeat are numbers"}, 400)
        lose = bool(wanted.get("lose_ipn", False))
        settled = self._settle(transaction, outcome, delay=delay, repeat=repeat, lose=lose)
        if settled is None:
            return JSONResponse({"problem": "settled already"}, 409)
        return JSONResponse({"return_url": self._return_url(settled), "transaction_no": str(settled.number)})

    async def control_qr(self, request: Request) -> Response:
        """Pays a VietQR code as told: another amount, a wrong signature, repeated or no notices."""
        wanted = await _json(request)
        try:
            transfer = self._transfer(
                str(wanted.get("qr", "")),
                amount=int(wanted["amount"]) if wanted.get("amount") else None,
                delay=float(wanted.get("delay_ms", 0)) / 1000,
                repeat=int(wanted.get("repeat", 0)),
                lose=bool(wanted.get("lose_ipn", False)),
                spoil=bool(wanted.get("wrong_checksum", False)),
            )
        except (TypeError, ValueError) as error:
            return JSONResponse({"problem": f"not a code that can be paid here: {error}"}, 400)
        return JSONResponse({"transaction_id": transfer})

    async def control_refunds(self, request: Request) -> Response:
        """Makes the next refunds unclear: each answers 99, having been `done` or `not_done`."""
        wanted = (await _json(request)).get("unclear")
        if not isinstance(wanted, list) or set(wanted) - {"done", "not_done"}:
            return JSONResponse({"problem": "unclear is a list of done and not_done"}, 400)
        self._unclear = list(wanted)
        return JSONResponse({"unclear": self._unclear})

    async def known(self, request: Request) -> Response:
        """What the gateway knows of a transaction or transfer, and how its notices were answered."""
        subject = request.path_params["ref"]
        found: Transaction | Transfer | None = self.ledger.transaction(subject)
        found = found or next(iter(self.ledger.transfers(id=subject)), None)
        if found is None:
            return JSONResponse({"problem": "not known"}, 404)
        notices = [
            {"kind": n.kind, "tries": n.tries, "answers": n.answers} for n in self.ledger.notices(subject)
        ]
        return JSONResponse({**vars(found), "notices": notices})

    def _settle(
        self,
        transaction: Transaction,
        outcome: str,
        *,
        delay: float = 0.0,
        repeat: int = 0,
        lose: bool = False,
    ) -> Transaction | None:
        state, code = _CODES[outcome]
        captured = transaction.amount if state in ("paid", "suspect") else 0
        if outcome == "wrong_amount":
            captured = max(1, transaction.amount // 2)
        if not self.ledger.decide(
            transaction.ref, state=state, code=code, captured=captured, paid_on=wire.stamp(datetime.now(UTC))
        ):
            return None
        settled = self.ledger.transaction(transaction.ref)
        if settled is None:
            return None
        if not (lose or outcome == "lose_ipn"):
            params = self._outcome(settled)
            query = wire.signed_query(params, self._vnpay_secret)
            if outcome == "wrong_checksum":
                query = query[:-8] + "00000000"
            self.ledger.notify("ipn", settled.ref, {"query": query}, due=time.time() + delay, repeats=repeat)
            self._wake.set()
        return settled

    def _transfer(
        self,
        qr: str,
        *,
        amount: int | None = None,
        delay: float = 0.0,
        repeat: int = 0,
        lose: bool = False,
        spoil: bool = False,
    ) -> str:
        bank, account, asked, purpose = wire.read_qr(qr)
        if (bank, account) != (self.settings.bank_bin, self.settings.bank_account):
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
        self.ledger.transfer(id=id_, reference=purpose, content=content, amount=amount, paid_on=paid_on)
        if not lose:
            body = json.dumps(notice)
            signature = wire.hmac512(self._bank_secret, body.encode())
            if spoil:
                signature = "0" * len(signature)
            self.ledger.notify(
                "transfer",
                id_,
                {"body": body, "signature": signature},
                due=time.time() + delay,
                repeats=repeat,
            )
            self._wake.set()
        return id_

    def _outcome(self, transaction: Transaction) -> dict[str, str]:
        paid = transaction.state in ("paid", "suspect")
        return {
            "vnp_TmnCode": self.settings.vnpay_tmn_code,
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

    def _return_url(self, transaction: Transaction) -> str:
        query = wire.signed_query(self._outcome(transaction), self._vnpay_secret)
        return transaction.return_url + ("&" if "?" in transaction.return_url else "?") + query

    # The merchant

    async def transaction_api(self, request: Request) -> Response:
        """`querydr` and `refund`."""
        params = {k: str(v) for k, v in (await _json(request)).items()}
        command = params.get("vnp_Command", "")
        order = {"querydr": wire.QUERY, "refund": wire.REFUND}.get(command)
        if order is None or not params.get("vnp_RequestId") or not params.get("vnp_TxnRef"):
            return self._answer(params, "03", "Du lieu gui sang khong dung dinh dang")
        if params.get("vnp_TmnCode") != self.settings.vnpay_tmn_code:
            return self._answer(params, "02", "Ma dinh danh ket noi khong hop le")
        if not wire.same(
            wire.hmac512(self._vnpay_secret, wire.joined(params, order)), params.get("vnp_SecureHash", "")
        ):
            return self._answer(params, "97", "Chu ky khong hop le")
        transaction = self.ledger.transaction(params["vnp_TxnRef"])
        if transaction is None:
            return self._answer(params, "91", "Khong tim thay giao dich")
        if command == "querydr":
            return self._answer(params, "00", "OK", transaction)
        return self._refund(params, transaction)

    def _refund(self, params: dict[str, str], transaction: Transaction) -> Response:
        if transaction.state != "paid":
            return self._answer(params, "95", "Giao dich khong thanh cong", transaction)
        amount = int(params["vnp_Amount"]) // 100 if params.get("vnp_Amount", "").isdecimal() else 0
        if self.ledger.refunded(params["vnp_RequestId"]):
            return self._answer(params, "94", "Yeu cau trung lap", transaction)
        if amount <= 0 or amount + transaction.refunded > transaction.captured:
            return self._answer(params, "02", "Tong so tien hoan tra lon hon so tien goc", transaction)
        unclear = self._unclear.pop(0) if self._unclear else ""
        if unclear != "not_done":
            self.ledger.refund(params["vnp_RequestId"], transaction.ref, "transactions", amount)
        if unclear:
            return self._answer(params, "99", "Loi khac", transaction)
        return self._answer(params, "00", "OK", self.ledger.transaction(transaction.ref))

    def _answer(
        self, params: dict[str, str], code: str, message: str, transaction: Transaction | None = None
    ) -> Response:
        command = params.get("vnp_Command", "")
        answer = {
            "vnp_ResponseId": uuid4().hex,
            "vnp_Command": command,
            "vnp_ResponseCode": code,
            "vnp_Message": message,
            "vnp_TmnCode": self.settings.vnpay_tmn_code,
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
        answer["vnp_SecureHash"] = wire.hmac512(self._vnpay_secret, wire.joined(answer, order))
        return JSONResponse(answer)

    async def statement_api(self, request: Request) -> Response:
        """The gateway's statement of a day: what it took, and what of that it has sent back."""
        asked = await self._signed(request, self._vnpay_secret)
        if asked is None:
            return self._signed_answer({"code": "97"}, self._vnpay_secret)
        rows = [
            {"reference": t.ref, "transaction": str(t.number), "amount": t.captured, "refunded": t.refunded}
            for t in self.ledger.taken_on(str(asked.get("date", "")).replace("-", ""))
        ]
        return self._signed_answer({"code": "00", "rows": rows}, self._vnpay_secret)

    async def bank_api(self, request: Request) -> Response:
        """The bank for the holder of the account: transfers by reference or day, and sending one back."""
        asked = await self._signed(request, self._bank_secret)
        if asked is None:
            return self._signed_answer({"code": "97"}, self._bank_secret)
        what = request.path_params["what"]
        if what == "refunds":
            return self._signed_answer({"code": self._send_back(asked)}, self._bank_secret)
        if what == "transfers":
            found = self.ledger.transfers(reference=str(asked.get("reference", "?")))
        elif what == "statement":
            found = self.ledger.transfers(day=str(asked.get("date", "?")).replace("-", ""))
        else:
            return JSONResponse({"problem": "no such call"}, 404)
        rows = [
            {
                "reference": t.reference,
                "transaction": t.id,
                "amount": t.amount,
                "refunded": t.refunded,
                "time": t.paid_on,
            }
            for t in found
        ]
        return self._signed_answer({"code": "00", "rows": rows}, self._bank_secret)

    def _send_back(self, asked: dict[str, Any]) -> str:
        request, id_, amount = (
            str(asked.get("request_id", "")),
            str(asked.get("transaction", "?")),
            asked.get("amount"),
        )
        transfer = next(iter(self.ledger.transfers(id=id_)), None)
        if transfer is None or not request or not isinstance(amount, int):
            return "91"
        if self.ledger.refunded(request):
            return "94"
        if amount <= 0 or amount + transfer.refunded > transfer.amount:
            return "02"
        self.ledger.refund(request, id_, "transfers", amount)
        return "00"

    async def _signed(self, request: Request, secret: str) -> dict[str, Any] | None:
        body = await request.body()
        if not hmac.compare_digest(wire.hmac512(secret, body), request.headers.get("x-signature", "")):
            return None
        try:
            asked = json.loads(body)
        except ValueError:
            return None
        return asked if isinstance(asked, dict) else None

    def _signed_answer(self, answer: dict[str, Any], secret: str) -> Response:
        body = json.dumps(answer).encode()
        headers = {"x-signature": wire.hmac512(secret, body)}
        return Response(body, media_type="application/json", headers=headers)

    # Notices

    async def deliver(self) -> None:
        """Sends notices until each is answered 00 or 02, or given up."""
        while True:
            self._wake.clear()
            for notice in self.ledger.due_notices():
                await self._send(notice)
            due = self.ledger.next_due()
            pause = None if due is None else max(0.0, due - time.time())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    async def _send(self, notice: Notice) -> None:
        payload = json.loads(notice.payload)
        try:
            if notice.kind == "ipn":
                response = await self._http.get(f"{self.settings.vnpay_ipn_url}?{payload['query']}")
            else:
                response = await self._http.post(
                    self.settings.bank_notice_url,
                    content=payload["body"],
                    headers={"content-type": "application/json", "x-signature": payload["signature"]},
                )
            answer = str(response.json().get("RspCode", response.status_code))
        except (httpx.HTTPError, ValueError, AttributeError) as error:
            answer = type(error).__name__
        log.info("notice %s of %s answered %s", notice.id, notice.subject, answer)
        heard = answer in ("00", "02")
        again: float | None = None
        if heard and notice.repeats > 0:
            again = time.time()
        elif not heard and notice.tries + 1 < self.settings.sandbox_tries:
            again = time.time() + self.settings.sandbox_retry_seconds
        self.ledger.answered(notice, answer, again=again, repeat=heard and notice.repeats > 0)

    async def close(self) -> None:
        """Lets go of the connections and the file."""
        await self._http.aclose()
        self.ledger.close()

    def _sign(self, text: str) -> str:
        return wire.hmac512(self._vnpay_secret, text.encode())

    @property
    def _vnpay_secret(self) -> str:
        return self.settings.vnpay_hash_secret.get_secret_value()

    @property
    def _bank_secret(self) -> str:
        return self.settings.bank_secret.get_secret_value()


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(errors="replace")))


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


async def _healthy(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def build(settings: Settings) -> Starlette:
    """The sandbox as an ASGI application; `app.state.sandbox` is the gateway itself."""
    sandbox = Sandbox(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        delivery = asyncio.create_task(sandbox.deliver(), name="notices")
        yield
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)
        await sandbox.close()

    app = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", sandbox.overview),
            Route("/healthz", _healthy),
            Route("/paymentv2/vpcpay.html", sandbox.page),
            Route("/paymentv2/pay", sandbox.pay, methods=["POST"]),
            Route("/qr", sandbox.qr_page),
            Route("/qr", sandbox.qr_pay, methods=["POST"]),
            Route("/merchant_webapi/api/transaction", sandbox.transaction_api, methods=["POST"]),
            Route("/merchant_webapi/api/statement", sandbox.statement_api, methods=["POST"]),
            Route("/bank/api/{what}", sandbox.bank_api, methods=["POST"]),
            Route("/control/transactions/{ref}", sandbox.control, methods=["POST"]),
            Route("/control/transactions/{ref}", sandbox.known),
            Route("/control/qr", sandbox.control_qr, methods=["POST"]),
            Route("/control/refunds", sandbox.control_refunds, methods=["POST"]),
        ],
    )
    app.state.sandbox = sandbox
    return app
