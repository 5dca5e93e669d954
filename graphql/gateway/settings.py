"""Settings of the gateway."""

from __future__ import annotations

from pydantic import Field, model_validator

from gateway.address import Network, networks
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
    trusted_proxies: str = Field(
        default="",
        description="networks of proxies whose X-Forwarded-For/-Proto are believed, by commas; empty: none",
    )
    gateway_peers: str = Field(
        default="", description="headless Service whose addresses are the ready gateways, to divide limits by"
    )
    gateway_replicas: int = Field(
        default=1, ge=1, description="how many gateways there are, as long as GATEWAY_PEERS does not tell"
    )
    max_connections: int = Field(default=4000, ge=10, description="open connections of this process")
    connections_per_address: int = Field(
        default=400,
        ge=1,
        description="open connections of one address to this process; proxies have no limit",
    )
    header_seconds: float = Field(default=10.0, gt=0, description="seconds for all headers of a request")
    max_header_bytes: int = Field(default=32 * 1024, ge=1024, description="address and headers of a request")
    max_headers: int = Field(default=100, ge=10, description="headers of a request")
    least_speed: int = Field(
        default=1024, ge=1, description="bytes a second that a body, or the reader of an answer, must move at"
    )
    speed_window: float = Field(default=20.0, gt=0, description="seconds over which that is measured")
    streams_per_account: int = Field(default=20, ge=1, description="open WebSockets and SSE of an account")
    streams_per_address: int = Field(default=300, ge=1, description="open WebSockets and SSE of an address")
    uploads_per_account: int = Field(default=6, ge=1, description="uploads of an account that send at once")
    uploads_per_address: int = Field(default=100, ge=1, description="uploads of an address that send at once")
    requests_per_account: int = Field(default=3000, ge=1, description="requests of an account a minute")
    requests_per_address: int = Field(default=30_000, ge=1, description="requests of an address a minute")
    stream_minutes: float = Field(
        default=60.0, gt=0, description="minutes after which a WebSocket or SSE ends; clients connect again"
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
        networks(self.trusted_proxies)
        if self.environment == "production":
            if not self.public_url.startswith("https://"):
                raise ValueError("production needs PUBLIC_URL with https")
            if not self.trusted_documents:
                raise ValueError("production needs TRUSTED_DOCUMENTS")
            if not self.cookie_secure:
                raise ValueError("production needs COOKIE_SECURE")
        return self

    @property
    def proxies(self) -> tuple[Network, ...]:
        """The networks of the proxies that we trust."""
        return networks(self.trusted_proxies)

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
