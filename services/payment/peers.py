"""The world outside: the VNPay-type gateway, the bank, and identity for a payer's name."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import Any

import grpc
import httpx

from kit.clock import Clock, vietnam_day
from kit.errors import Unavailable
from kit.ids import derived, uuid7
from kit.money import CURRENCY
from kit.status import from_rpc
from motcua.identity.v1 import identity_pb2 as identity
from motcua.identity.v1.identity_pb2_grpc import IdentityServiceStub
from payment import vietqr, vnpay
from payment.domain.charge import Charge
from payment.domain.lifecycle import Result
from payment.domain.records import Payment, Report
from payment.handlers import Begun, StatementLine
from payment.handlers.paying import find_reference, report_of
from payment.settings import Settings

_TRANSACTION = re.compile(r"[0-9A-Za-z._-]{1,64}")


class VnpayGateway:
    """A gateway of the VNPay kind over HTTP."""

    def __init__(self, http: httpx.AsyncClient, settings: Settings, clock: Clock) -> None:
        self._http = http
        self._pay_url = settings.vnpay_pay_url
        self._api_url = settings.vnpay_api_url.rstrip("/")
        self._return_url = settings.vnpay_return_url
        self._clock = clock
        self.merchant = vnpay.Merchant(settings.vnpay_tmn_code, settings.vnpay_hash_secret.get_secret_value())

    def begin(self, charge: Charge, payment: Payment, *, client_address: str, locale: str) -> Begun:
        """The signed address of the gateway's page for this attempt."""
        return Begun(
            redirect_url=vnpay.payment_url(
                self._pay_url,
                self.merchant,
                txn_ref=payment.reference,
                amount=payment.amount,
                text=f"Nop phi le phi ho so {charge.dossier_code or charge.reference}",
                return_url=self._return_url,
                client_address=client_address,
                locale=locale,
                created=payment.begun_at,
                expires=payment.expires_at,
            )
        )

    async def inquire(self, payment: Payment) -> list[Report]:
        """What the gateway knows of an attempt: one report. Raises Unavailable."""
        answer = await self._query(payment)
        with _clear():
            return [report_of(vnpay.read_query_answer(answer, self.merchant, payment.reference))]

    async def refund(self, payment: Payment) -> tuple[vnpay.RefundAnswer, str]:
        """Asks for the money of a payment to be sent back. Raises Unavailable.

        A request whose answer was lost or unclear is repeated only when an inquiry shows that it had no
        effect; nor does the gateway send back more than it took.
        """
        tries = payment.refund.tries if payment.refund else 0
        if tries and await self._went_back(payment):
            return vnpay.RefundAnswer.ACCEPTED, "00"
        body = vnpay.refund_request(
            self.merchant,
            request_id=derived("refund", payment.id, str(tries)).replace("-", ""),
            txn_ref=payment.reference,
            amount=payment.received,
            transaction_no=payment.gateway_transaction,
            begun=payment.begun_at,
            by=payment.refund.by if payment.refund else "",
            now=self._clock(),
        )
        answer = await self._post(body)
        with _clear():
            said, code = vnpay.read_refund_answer(answer, self.merchant)
        if said is vnpay.RefundAnswer.REPEATED:
            said = vnpay.RefundAnswer.LATER
            if await self._went_back(payment):
                said = vnpay.RefundAnswer.ACCEPTED
        return said, code

    async def _went_back(self, payment: Payment) -> bool:
        answer = await self._query(payment)
        with _clear():
            return vnpay.read_refunded(answer, self.merchant, payment.reference)

    async def _query(self, payment: Payment) -> Mapping[str, str]:
        now = self._clock()
        return await self._post(
            vnpay.query_request(
                self.merchant,
                request_id=uuid7().replace("-", ""),
                txn_ref=payment.reference,
                begun=payment.begun_at,
                now=now,
            )
        )

    async def statement(self, day: date) -> list[StatementLine]:
        """What the gateway took on a day (in Vietnam). Raises Unavailable."""
        secret = self.merchant.secret
        return _lines(
            await _signed_post(self._http, f"{self._api_url}/statement", {"date": str(day)}, secret)
        )

    async def _post(self, body: dict[str, str]) -> Mapping[str, str]:
        try:
            response = await self._http.post(f"{self._api_url}/transaction", json=body)
            response.raise_for_status()
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable("GATEWAY_UNAVAILABLE", f"the gateway: {type(error).__name__}") from error
        if not isinstance(answer, dict):
            raise Unavailable("GATEWAY_UNCLEAR", "the gateway answered something else")
        return {str(key): str(value) for key, value in answer.items()}


class TransferBank:
    """The bank where VietQR transfers arrive: signed notices, and an API for what they leave open."""

    def __init__(self, http: httpx.AsyncClient, settings: Settings) -> None:
        self._http = http
        self._api_url = settings.bank_api_url.rstrip("/")
        self._bin, self._account = settings.bank_bin, settings.bank_account
        self._secret = settings.bank_secret.get_secret_value()

    def begin(self, charge: Charge, payment: Payment, *, client_address: str, locale: str) -> Begun:
        """The code that a banking app reads: our account, the amount, and the reference as the text."""
        return Begun(
            qr_payload=vietqr.build(
                vietqr.Transfer(self._bin, self._account, payment.amount, payment.reference)
            )
        )

    def read_notice(self, body: bytes, signature: str) -> Report:
        """A notice of a transfer, believed only when signed. Raises vnpay.BadSignature, vnpay.Malformed."""
        expected = _signature(body, self._secret)
        if not hmac.compare_digest(expected.encode(), signature.lower().encode()):
            raise vnpay.BadSignature("not signed by the bank")
        try:
            notice = json.loads(body)
            if (notice["bank_bin"], notice["account"]) != (self._bin, self._account):
                raise vnpay.Malformed("for another account")
            return _transfer(
                str(notice["content"]),
                notice["amount"],
                str(notice["transaction_id"]),
                str(notice.get("time", "")),
                str(notice.get("currency") or CURRENCY),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise vnpay.Malformed(f"not a transfer: {error}") from error

    async def inquire(self, payment: Payment) -> list[Report]:
        """The transfers that reached us with this payment's reference. Raises Unavailable."""
        answer = await _signed_post(
            self._http, f"{self._api_url}/transfers", {"reference": payment.reference}, self._secret
        )
        try:
            found = [
                _transfer(str(row["reference"]), row["amount"], str(row["transaction"]), str(row["time"]))
                for row in answer["rows"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable("GATEWAY_UNCLEAR", f"the bank's transfers: {error}") from error
        return found or [Report(reference=payment.reference, result=Result.UNKNOWN, amount=0, code="")]

    async def refund(self, payment: Payment) -> tuple[vnpay.RefundAnswer, str]:
        """Sends a transfer back; the same request each time. Raises Unavailable."""
        body = {
            "request_id": derived("refund", payment.id),
            "transaction": payment.gateway_transaction,
            "amount": payment.received,
        }
        answer = await _signed_post(self._http, f"{self._api_url}/refunds", body, self._secret, rows=False)
        code = str(answer.get("code", "99"))
        if code in ("00", "94"):
            return vnpay.RefundAnswer.ACCEPTED, code
        return (vnpay.RefundAnswer.LATER if code == "99" else vnpay.RefundAnswer.REFUSED), code

    async def statement(self, day: date) -> list[StatementLine]:
        """The transfers of a day (in Vietnam). Raises Unavailable."""
        return _lines(
            await _signed_post(self._http, f"{self._api_url}/statement", {"date": str(day)}, self._secret)
        )


class Identity:
    """Names for receipts, from identity."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = IdentityServiceStub(channel)

    async def payer(self, account: str) -> tuple[str, str]:
        """(name, tax code) of an account. Raises Unavailable when it cannot be had now."""
        try:
            answer = await self._stub.BatchGetAccounts(identity.BatchGetAccountsRequest(ids=[account]))
        except grpc.aio.AioRpcError as error:
            raise Unavailable("IDENTITY_UNAVAILABLE", str(from_rpc(error))) from error
        if not answer.accounts:
            raise Unavailable("PAYER_UNKNOWN", "identity does not know the payer", account=account)
        return answer.accounts[0].name, answer.accounts[0].tax_code


@contextmanager
def _clear() -> Iterator[None]:
    """An answer that is not the gateway's, or about something else, is as good as none."""
    try:
        yield
    except (vnpay.BadSignature, vnpay.Malformed) as error:
        raise Unavailable("GATEWAY_UNCLEAR", str(error)) from error


def _transfer(text: str, amount: Any, transaction: str, time: str, currency: str = CURRENCY) -> Report:
    """Money that is on our account; a time that is none stays empty, which has it looked at.

    Raises vnpay.Malformed, a ValueError, when there is no sense in it.
    """
    if not _whole(amount) or not _TRANSACTION.fullmatch(transaction):
        raise vnpay.Malformed("no whole amount, or no transaction")
    try:
        taken_on = vietnam_day(vnpay.from_stamp(time)).isoformat()
    except vnpay.Malformed:
        taken_on = ""
    return Report(
        reference=find_reference(text[:1000]),
        result=Result.PAID,
        amount=amount,
        code="00",
        transaction=transaction,
        taken_on=taken_on,
        currency=currency[:10],
    )


def _whole(amount: object) -> bool:
    """Whether it is a number of đồng that a VietQR transfer can have."""
    return type(amount) is int and 0 < amount < 10**13


def _lines(answer: Mapping[str, Any]) -> list[StatementLine]:
    try:
        return [
            StatementLine(
                reference=find_reference(str(row["reference"])[:1000]) or str(row["reference"])[:64],
                transaction=str(row["transaction"])[:64],
                amount=_stated(row["amount"]),
                refunded=_stated(row["refunded"]),
            )
            for row in answer["rows"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable("GATEWAY_UNCLEAR", f"the statement: {error}") from error


def _stated(amount: object) -> int:
    """An amount of a statement. Raises ValueError for what is no number of đồng."""
    if type(amount) is not int or not 0 <= amount < 10**15:
        raise ValueError("not an amount")
    return amount


async def _signed_post(
    http: httpx.AsyncClient, url: str, body: Mapping[str, Any], secret: str, *, rows: bool = True
) -> Mapping[str, Any]:
    """Posts a signed body and reads the signed answer. Raises Unavailable."""
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json", "x-signature": _signature(content, secret)}
    try:
        response = await http.post(url, content=content, headers=headers)
        response.raise_for_status()
        signature = response.headers.get("x-signature", "")
        if not hmac.compare_digest(_signature(response.content, secret).encode(), signature.encode()):
            raise Unavailable("GATEWAY_UNCLEAR", "an answer with a bad signature")
        answer = json.loads(response.content)
    except (httpx.HTTPError, ValueError) as error:
        raise Unavailable("GATEWAY_UNAVAILABLE", f"{url}: {type(error).__name__}") from error
    if not isinstance(answer, dict) or (rows and (answer.get("code") != "00" or "rows" not in answer)):
        raise Unavailable("GATEWAY_UNCLEAR", "an answer that says something else")
    return answer


def _signature(body: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
