"""Settings of payment: nothing of the sandbox gets into production."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from payment.settings import Settings

REAL: dict[str, Any] = {
    "environment": "production",
    "vnpay_hash_secret": SecretStr("0123456789abcdef"),
    "bank_secret": SecretStr("fedcba9876543210"),
    "vnpay_pay_url": "https://pay.example/vpcpay.html",
    "vnpay_api_url": "https://pay.example/api",
    "bank_api_url": "https://bank.example/api",
}


def test_development_runs_on_the_sandbox_as_it_is() -> None:
    assert Settings().vnpay_tmn_code == "MOTCUA01"


def test_production_takes_its_own_secrets_and_addresses() -> None:
    assert Settings(**REAL).environment == "production"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("vnpay_hash_secret", SecretStr("sandbox-vnpay-secret"), "own secrets"),
        ("bank_secret", SecretStr("short"), "own secrets"),
        ("vnpay_api_url", "http://127.0.0.1:8090/merchant_webapi/api", "https only"),
    ],
)
def test_production_refuses_what_belongs_to_the_sandbox(name: str, value: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Settings(**{**REAL, name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("receipt_form", "EBL03"), ("receipt_letters", "Tab"), ("bank_bin", "97043")]
)
def test_what_receipts_and_codes_cannot_carry_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Settings(**{name: value})
