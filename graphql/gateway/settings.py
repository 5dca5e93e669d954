"""Settings of the gateway."""

from __future__ import annotations

from pydantic import Field, model_validator

from kit.settings import Settings


class GatewaySettings(Settings):
    """What the gateway can be told, beside what every service can."""

    gateway_host: str = Field(default="127.0.0.1", description="address the gateway listens on")
    gateway_port: int = Field(default=8000, ge=0, le=65535, description="port the gateway listens on")
    public_url: str = Field(
        default="", description="address clients use, without a slash at its end; empty: as asked"
    )
    allowed_origins: str = Field(
        default="", description="web origins that may call besides our own, by commas"
    )
    forwarded_allow_ips: str = Field(
        default="127.0.0.1", description="proxies whose X-Forwarded-* is believed"
    )
    cookie_secure: bool = Field(default=True, description="refresh cookies over https (and localhost) only")
    catalog_target: str = Field(default="127.0.0.1:9002", description="gRPC target of catalog")
    dossier_target: str = Field(default="127.0.0.1:9003", description="gRPC target of dossier and vault")
    payment_target: str = Field(default="127.0.0.1:9004", description="gRPC target of payment")
    notify_target: str = Field(default="127.0.0.1:9005", description="gRPC target of notify")
    trusted_documents: str = Field(
        default="", description="JSON file of documents by sha256; production runs no other"
    )
    max_body_bytes: int = Field(default=256 * 1024, ge=1024, description="largest GraphQL request")
    max_upload_bytes: int = Field(default=512 * 2**20, ge=1, description="largest upload announced by tus")
    max_tokens: int = Field(default=2000, ge=10, description="tokens in a document")
    max_depth: int = Field(default=15, ge=2, description="levels of fields in a document")
    max_aliases: int = Field(default=30, ge=0, description="aliases in a document")
    max_cost: int = Field(
        default=20_000, ge=1, description="objects and values that an operation may ask for"
    )
    payment_return_url: str = Field(
        default="", description="page of the web app that shows how a payment went; empty: JSON"
    )

    @model_validator(mode="after")
    def _production_is_explicit(self) -> GatewaySettings:
        if self.environment == "production":
            if not self.public_url.startswith("https://"):
                raise ValueError("production needs PUBLIC_URL with https")
            if not self.trusted_documents:
                raise ValueError("production needs TRUSTED_DOCUMENTS")
            if not self.cookie_secure:
                raise ValueError("production needs COOKIE_SECURE")
        return self

    @property
    def origins(self) -> frozenset[str]:
        """The allowed origins, one by one."""
        return frozenset(
            origin.strip().rstrip("/") for origin in self.allowed_origins.split(",") if origin.strip()
        )

    @property
    def targets(self) -> dict[str, str]:
        """gRPC target of each service by name."""
        return {
            "identity": self.identity_target,
            "catalog": self.catalog_target,
            "dossier": self.dossier_target,
            "payment": self.payment_target,
            "notify": self.notify_target,
        }
