"""Settings of a service: from the environment only, checked once at start."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from kit.tls import Files

_MOST_SECONDS: Final = 10 * 366 * 86_400
_MOST: Final = 2**53


class CannotStart(Exception):
    """The service cannot start as it is configured; the message is one clear line."""


def wrong(error: ValidationError) -> str:
    """What is wrong with which settings, in one line without their values."""
    return "; ".join(
        ": ".join([*(str(part).upper() for part in e["loc"][:1]), e["msg"].removeprefix("Value error, ")])
        for e in error.errors()
    )


class TlsSettings(BaseSettings):
    """Mutual TLS between our processes."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    tls_cert: str = Field(
        default="",
        description="PEM file of our certificate; with TLS_KEY and TLS_CA: mutual TLS on the gRPC API, on "
        "calls to others and to tls:// NATS; read again when renewed; empty: no TLS",
    )
    tls_key: str = Field(default="", description="PEM file of its key")
    tls_ca: str = Field(default="", description="PEM file of the CAs that others' certificates come from")

    @field_validator("*")
    @classmethod
    def _numbers_can_be_borne(cls, value: Any) -> Any:
        """No number overflows a clock, a counter or a buffer: seconds are at most ten years."""
        if isinstance(value, float) and not abs(value) <= _MOST_SECONDS:  # nor is NaN
            raise ValueError(f"a number of at most {_MOST_SECONDS}")
        if isinstance(value, int) and abs(value) > _MOST:
            raise ValueError(f"a whole number of at most {_MOST}")
        return value

    @model_validator(mode="after")
    def _tls_is_whole(self) -> TlsSettings:
        given = (self.tls_cert, self.tls_key, self.tls_ca)
        if any(given) and not all(given):
            raise ValueError("TLS_CERT, TLS_KEY and TLS_CA go together")
        return self

    @cached_property
    def tls(self) -> Files | None:
        """The files of mutual TLS, None without. Raises CannotStart when they cannot be used."""
        if not self.tls_cert:
            return None
        try:
            return Files(self.tls_cert, self.tls_key, self.tls_ca)
        except (OSError, ValueError) as error:
            raise CannotStart(f"bad setting: TLS_CERT, TLS_KEY, TLS_CA: {error}") from error


class Settings(TlsSettings):
    """What every service can be told. A service subclasses it and adds its own, each with a description."""

    environment: Literal["development", "test", "production"] = Field(
        default="development",
        description="development, test or production; production refuses every stand-in",
    )
    mongodb_url: str = Field(default="mongodb://127.0.0.1:27017", description="where the documents are")
    mongodb_database: str = Field(default="", description="database; empty: motcua_<service>")
    nats_url: str = Field(default="nats://127.0.0.1:4222", description="NATS servers, separated by commas")
    unmarked_events: bool = Field(
        default=False,
        description="take events that do not name their stream, as versions before did not: only while "
        "one of them still publishes, for a service whose password is stolen can then forge events of others",
    )
    stream_replicas: int = Field(default=1, ge=1, le=5, description="copies of each JetStream stream")
    grpc_listen: str = Field(
        default="127.0.0.1:0", description="host:port of the gRPC API; port 0 picks a free one"
    )
    grpc_max_streams: int = Field(
        default=1000, ge=10, description="calls under way at once on one connection from another service"
    )
    grpc_max_message_bytes: int = Field(default=4 * 2**20, ge=1024, description="largest message accepted")
    grpc_max_connection_age: float = Field(
        default=300.0, gt=0, description="seconds until a client must reconnect"
    )
    probe_listen: str = Field(
        default="",
        description="host:port of gRPC health for probes, without TLS, of the services `live` and `ready`; "
        "empty: none",
    )
    start_patience: float = Field(
        default=0.0,
        ge=0,
        description="seconds a start waits for the database and object storage; 0: no longer than any call",
    )
    drain: float = Field(
        default=0.0,
        ge=0,
        description="seconds of still serving after `not ready` when stopping, for callers to go",
    )
    grace: float = Field(
        default=10.0, ge=0, description="seconds given to running calls and events in hand when stopping"
    )
    metrics_listen: str = Field(default="", description="host:port of Prometheus metrics; empty: none")
    otlp_endpoint: str = Field(
        default="", description="OTLP/gRPC collector of traces; empty: none are shipped"
    )
    trace_ratio: float = Field(default=1.0, ge=0, le=1, description="share of new traces that are recorded")
    log_format: Literal["json", "console"] = Field(
        default="console", description="one JSON object or one short line"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least level logged"
    )
    identity_target: str = Field(default="127.0.0.1:9001", description="gRPC target of identity")
    service_secret: SecretStr = Field(
        default=SecretStr(""), description="this service's secret, for its own tokens from identity"
    )

    @field_validator("nats_url")
    @classmethod
    def _nats_is_an_address(cls, value: str) -> str:
        for server in value.split(","):
            try:
                parts = urlsplit(server)
                right = parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0
            except ValueError:  # its text may have a part of a password in it
                right = False
            if not right:
                raise ValueError("every server is nats://host:port or tls://host:port, with user:password@")
        return value

    @property
    def nats_servers(self) -> str:
        """Where NATS is, for people: without names and passwords."""
        return ",".join(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            for parts in map(urlsplit, self.nats_url.split(","))
        )
