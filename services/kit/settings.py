"""Settings of a service: from the environment only, checked once at start."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class CannotStart(Exception):
    """The service cannot start as it is configured; the message is one clear line."""


class Settings(BaseSettings):
    """What every service can be told. A service subclasses it and adds its own, each with a description."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    environment: Literal["development", "test", "production"] = Field(
        default="development",
        description="development, test or production; production refuses every stand-in",
    )
    mongodb_url: str = Field(default="mongodb://127.0.0.1:27017", description="where the documents are")
    mongodb_database: str = Field(default="", description="database; empty: motcua_<service>")
    nats_url: str = Field(default="nats://127.0.0.1:4222", description="NATS servers, separated by commas")
    stream_replicas: int = Field(default=1, ge=1, le=5, description="copies of each JetStream stream")
    grpc_listen: str = Field(
        default="127.0.0.1:0", description="host:port of the gRPC API; port 0 picks a free one"
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
