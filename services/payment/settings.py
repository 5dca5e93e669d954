"""Settings of payment; those it shares with the gateway and the bank have the same names in the sandbox."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, model_validator

from kit.settings import Settings as Base

SANDBOX_SECRETS = ("sandbox-vnpay-secret", "sandbox-bank-secret")


class Settings(Base):
    """What payment can be told, from the environment only."""

    vnpay_tmn_code: str = Field(default="MOTCUA01", description="our code at the gateway")
    vnpay_hash_secret: SecretStr = Field(
        default=SecretStr(SANDBOX_SECRETS[0]), description="signs what goes between us and the gateway"
    )
    vnpay_pay_url: str = Field(
        default="http://127.0.0.1:8090/paymentv2/vpcpay.html", description="the gateway's payment page"
    )
    vnpay_api_url: str = Field(
        default="http://127.0.0.1:8090/merchant_webapi/api", description="the gateway's merchant API"
    )
    vnpay_return_url: str = Field(
        default="http://127.0.0.1:8000/payments/vnpay/return", description="where the gateway sends browsers"
    )
    bank_bin: str = Field(default="970436", pattern=r"^\d{6}$", description="our bank's BIN in VietQR codes")
    bank_account: str = Field(default="1032026001", description="our account that transfers reach")
    bank_secret: SecretStr = Field(
        default=SecretStr(SANDBOX_SECRETS[1]), description="signs what goes between us and the bank"
    )
    bank_api_url: str = Field(default="http://127.0.0.1:8090/bank/api", description="the bank's API")
    receipt_form: str = Field(
        default="EBL01", pattern="^EBL0[12]$", description="EBL01: no printed face value; EBL02: with one"
    )
    receipt_letters: str = Field(
        default="TAB", pattern="^[A-Z]{3}$", description="letters of the series after the year, as in 26TAB"
    )
    payment_ask_after: float = Field(
        default=60.0, gt=0, description="seconds until the gateway is asked about an open payment; doubles"
    )
    payment_retry_after: float = Field(
        default=5.0, gt=0, description="seconds until a refund or a receipt is tried again; doubles"
    )
    payment_poll: float = Field(
        default=2.0, gt=0, description="seconds between two looks at what has come due"
    )

    @model_validator(mode="after")
    def _no_sandbox_in_production(self) -> Self:
        if self.environment != "production":
            return self
        secrets = (self.vnpay_hash_secret.get_secret_value(), self.bank_secret.get_secret_value())
        if any(secret in SANDBOX_SECRETS or len(secret) < 16 for secret in secrets):
            raise ValueError("production needs the gateway's and the bank's own secrets, not the sandbox's")
        if not all(
            u.startswith("https://") for u in (self.vnpay_pay_url, self.vnpay_api_url, self.bank_api_url)
        ):
            raise ValueError("production reaches the gateway and the bank by https only, not the sandbox")
        return self
