"""What the bank's answers to a refund mean."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from payment.domain.lifecycle import Method
from payment.domain.records import Payment
from payment.peers import TransferBank
from payment.settings import Settings
from payment.vnpay import RefundAnswer

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
PAYMENT = Payment("p", Method.VIETQR, "MC00000000000001", 8000, NOW, NOW, received=8000)


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ({"code": "00"}, RefundAnswer.ACCEPTED),
        ({"code": "94"}, RefundAnswer.ACCEPTED),  # this very refund came before
        ({"code": "99"}, RefundAnswer.LATER),
        ({}, RefundAnswer.LATER),
        ({"code": "02"}, RefundAnswer.REFUSED),
    ],
)
async def test_a_refund_is_taken_put_off_or_refused(answer: dict[str, Any], meaning: RefundAnswer) -> None:
    settings = Settings()

    def respond(request: httpx.Request) -> httpx.Response:
        body = json.dumps(answer).encode()
        signature = hmac.new(settings.bank_secret.get_secret_value().encode(), body, hashlib.sha512)
        return httpx.Response(200, content=body, headers={"x-signature": signature.hexdigest()})

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        said, _ = await TransferBank(http, settings).refund(PAYMENT)
    assert said is meaning
