"""The gateway and the bank over HTTP: pages for the payer, APIs for us, controls for tests and demo.

    GET  /paymentv2/vpcpay.html         the payment page, opened with a signed query
    POST /merchant_webapi/api/transaction  querydr and refund          POST /merchant_webapi/api/statement
    GET  /qr?qr=...                     a banking app in small
    POST /bank/api/{transfers,refunds,statement}                       signed bodies, signed answers
    POST /control/transactions/{ref}    {"outcome": "pay", "delay_ms": 0, "repeat": 0, "lose_ipn": false}
    POST /control/qr                    {"qr": "...", "amount": 20000, ...}
    POST /control/refunds               {"unclear": ["done", "not_done"]}: the next refunds answer 99
    GET  /control/transactions/{ref}    what is known, with the answers that notices got

Outcomes: pay, cancel, no_funds, expired, suspect, lose_ipn, wrong_checksum, wrong_amount (takes another one).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox import pages, wire
from sandbox.gateway import OUTCOMES, Gateway, How
from sandbox.ledger import Ledger, Transaction, Transfer
from sandbox.notices import Notices
from sandbox.settings import Settings

_ENDED = ("Giao dịch đã kết thúc", "Mã giao dịch này đã được dùng.")
_BUTTONS = ("pay", "cancel", "no_funds", "delay")


class Api:
    """The handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._ledger = gateway.ledger

    # The payer

    async def page(self, request: Request) -> Response:
        """Checks the signed query as the real gateway does and shows what there is to pay."""
        params = dict(request.query_params)
        if problem := self._gateway.refused(params):
            return HTMLResponse(pages.said("Giao dịch không hợp lệ", problem), 400)
        transaction = self._ledger.open_transaction(
            params["vnp_TxnRef"],
            int(params["vnp_Amount"]) // 100,
            params["vnp_ReturnUrl"],
            params["vnp_OrderInfo"],
            params["vnp_ExpireDate"],
        )
        if transaction.state != "pending":
            return HTMLResponse(pages.said(*_ENDED), 409)
        return HTMLResponse(pages.payment(transaction))

    async def pay(self, request: Request) -> Response:
        """A button of the payment page: settles the transaction and sends the browser back."""
        form = await _form(request)
        outcome = form.get("outcome", "")
        if outcome not in _BUTTONS:
            return HTMLResponse(pages.said("Không rõ lựa chọn", "Hãy quay lại và chọn lại."), 400)
        transaction = self._ledger.transaction(form.get("ref", ""))
        if transaction is None:
            return HTMLResponse(pages.said("Không tìm thấy giao dịch", "Hãy bắt đầu lại."), 404)
        settled = self._gateway.settle(transaction, outcome, How(delay=5.0 if outcome == "delay" else 0.0))
        if settled is None:
            return HTMLResponse(pages.said(*_ENDED), 409)
        return RedirectResponse(self._gateway.return_url(settled), 303)

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
            self._gateway.transfer(qr, int(typed) if typed else None, How())
        except ValueError:
            return HTMLResponse(pages.transfer(qr, None, "", "Mã VietQR hoặc số tiền không hợp lệ."), 400)
        return HTMLResponse(pages.said("Đã chuyển khoản", "Ngân hàng sẽ báo cho đơn vị nhận tiền."))

    async def overview(self, request: Request) -> Response:
        """The latest transactions."""
        return HTMLResponse(pages.overview(self._ledger.recent()))

    # The merchant

    async def transaction(self, request: Request) -> Response:
        """`querydr` and `refund`."""
        params = {key: str(value) for key, value in (await _json(request)).items()}
        return JSONResponse(self._gateway.merchant_call(params))

    async def statement(self, request: Request) -> Response:
        """The gateway's statement of a day."""
        signature = request.headers.get("x-signature", "")
        return _signed(self._gateway.statement(await request.body(), signature))

    async def bank(self, request: Request) -> Response:
        """The bank for the holder of the account."""
        signature = request.headers.get("x-signature", "")
        try:
            return _signed(
                self._gateway.bank_call(request.path_params["what"], await request.body(), signature)
            )
        except KeyError:
            return JSONResponse({"problem": "no such call"}, 404)

    # Controls for tests and demo

    async def control(self, request: Request) -> Response:
        """Settles a transaction as told and answers where the browser would be sent."""
        wanted = await _json(request)
        outcome = str(wanted.get("outcome", "pay"))
        if outcome not in OUTCOMES:
            return JSONResponse({"problem": f"unknown outcome; one of {OUTCOMES}"}, 400)
        transaction = self._ledger.transaction(request.path_params["ref"])
        if transaction is None:
            return JSONResponse({"problem": "no such transaction; open its payment page first"}, 404)
        try:
            settled = self._gateway.settle(transaction, outcome, _how(wanted))
        except (TypeError, ValueError):
            return JSONResponse({"problem": "delay_ms and repeat are numbers"}, 400)
        if settled is None:
            return JSONResponse({"problem": "settled already"}, 409)
        return JSONResponse(
            {"return_url": self._gateway.return_url(settled), "transaction_no": str(settled.number)}
        )

    async def control_qr(self, request: Request) -> Response:
        """Pays a VietQR code as told: another amount, a wrong signature, repeated or no notices."""
        wanted = await _json(request)
        try:
            amount = int(wanted["amount"]) if wanted.get("amount") else None
            transaction = self._gateway.transfer(str(wanted.get("qr", "")), amount, _how(wanted))
        except (TypeError, ValueError) as error:
            return JSONResponse({"problem": f"not a code that can be paid here: {error}"}, 400)
        return JSONResponse({"transaction_id": transaction})

    async def control_refunds(self, request: Request) -> Response:
        """Makes the next refunds unclear: each answers 99, having been `done` or `not_done`."""
        wanted = (await _json(request)).get("unclear")
        if not isinstance(wanted, list) or any(one not in ("done", "not_done") for one in wanted):
            return JSONResponse({"problem": "unclear is a list of done and not_done"}, 400)
        self._gateway.unclear = list(wanted)
        return JSONResponse({"unclear": wanted})

    async def known(self, request: Request) -> Response:
        """What the gateway knows of a transaction or transfer, and how its notices were answered."""
        subject = request.path_params["ref"]
        found: Transaction | Transfer | None = self._ledger.transaction(subject)
        found = found or next(iter(self._ledger.transfers(id=subject)), None)
        if found is None:
            return JSONResponse({"problem": "not known"}, 404)
        notices = [
            {"kind": n.kind, "tries": n.tries, "answers": n.answers} for n in self._ledger.notices(subject)
        ]
        return JSONResponse({**vars(found), "notices": notices})

    async def healthy(self, request: Request) -> Response:
        """Whether it serves."""
        return JSONResponse({"status": "ok"})


def build(settings: Settings) -> Starlette:
    """The sandbox as an ASGI application. Ends the program in production."""
    if settings.environment == "production":
        raise SystemExit("the payment sandbox must not run in production")
    ledger = Ledger(settings.sandbox_data_dir)
    notices = Notices(settings, ledger)
    api = Api(Gateway(settings, ledger, notices.wake))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        delivery = asyncio.create_task(notices.deliver(), name="notices")
        yield
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)
        await notices.close()
        ledger.close()

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", api.overview),
            Route("/healthz", api.healthy),
            Route("/paymentv2/vpcpay.html", api.page),
            Route("/paymentv2/pay", api.pay, methods=["POST"]),
            Route("/qr", api.qr_page),
            Route("/qr", api.qr_pay, methods=["POST"]),
            Route("/merchant_webapi/api/transaction", api.transaction, methods=["POST"]),
            Route("/merchant_webapi/api/statement", api.statement, methods=["POST"]),
            Route("/bank/api/{what}", api.bank, methods=["POST"]),
            Route("/control/transactions/{ref}", api.control, methods=["POST"]),
            Route("/control/transactions/{ref}", api.known),
            Route("/control/qr", api.control_qr, methods=["POST"]),
            Route("/control/refunds", api.control_refunds, methods=["POST"]),
        ],
    )


def _how(wanted: dict[str, Any]) -> How:
    return How(
        delay=float(wanted.get("delay_ms", 0)) / 1000,
        repeat=int(wanted.get("repeat", 0)),
        lose=bool(wanted.get("lose_ipn", False)),
        spoil=bool(wanted.get("wrong_checksum", False)),
    )


def _signed(answer: tuple[bytes, str]) -> Response:
    body, signature = answer
    return Response(body, media_type="application/json", headers={"x-signature": signature})


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(errors="replace")))


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
