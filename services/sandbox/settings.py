"""Settings of the sandbox; those it shares with payment have the same names there."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What the sandbox can be told, from the environment only."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    environment: Literal["development", "test", "production"] = Field(
        default="development", description="the sandbox refuses to run in production"
    )
    sandbox_listen: str = Field(default="127.0.0.1:8090", description="host:port; port 0 picks a free one")
    sandbox_data_dir: Path = Field(
        default=Path(".data/sandbox"), description="where the gateway keeps its ledger"
    )
    sandbox_retry_seconds: float = Field(default=5.0, gt=0, description="pause before a notice is sent again")
    sandbox_tries: int = Field(
        default=10, ge=1, description="how often a notice is sent until it is answered 00 or 02"
    )
    vnpay_tmn_code: str = Field(default="MOTCUA01", description="the merchant's code")
    vnpay_hash_secret: SecretStr = Field(
        default=SecretStr("sandbox-vnpay-secret"), description="signs what goes between merchant and gateway"
    )
    vnpay_ipn_url: str = Field(
        default="http://127.0.0.1:8000/payments/vnpay/ipn", description="where the merchant takes notices"
    )
    bank_bin: str = Field(default="970436", description="the bank's BIN in VietQR codes")
    bank_account: str = Field(default="1032026001", description="the account that transfers reach")
    bank_secret: SecretStr = Field(
        default=SecretStr("sandbox-bank-secret"),
        description="signs what goes between account holder and bank",
    )
    bank_notice_url: str = Field(
        default="http://127.0.0.1:8000/payments/transfer/notice", description="where notices of transfers go"
    )
