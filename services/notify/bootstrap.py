"""Wires notify from its settings."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Literal

import httpx
from pydantic import Field, SecretStr

from kit import clock, mongo
from kit.auth import TokenVerifier
from kit.clock import Clock
from kit.service import CannotStart, Service
from kit.settings import Settings
from kit.telemetry import traceparent
from motcua.notify.v1 import notify_pb2_grpc
from notify import store
from notify.domain.delivery import Retry
from notify.domain.kinds import Channel
from notify.events_in import subscriptions
from notify.grpc_api import NotifyApi
from notify.handlers import Directory, Ports
from notify.peers import Identity
from notify.senders import HttpGateway, Sender, Smtp
from notify.worker import Deliveries, keep_reminding

log = logging.getLogger(__name__)


class NotifySettings(Settings):
    """What notify can be told beyond what every service can."""

    smtp_host: str = Field(default="", description="mail server; empty: no e-mail goes out")
    smtp_port: int = Field(default=25, ge=1, le=65535, description="its port")
    smtp_username: str = Field(default="", description="name to sign in with; empty: no sign-in")
    smtp_password: SecretStr = Field(default=SecretStr(""), description="password to sign in with")
    smtp_tls: Literal["none", "starttls", "implicit"] = Field(
        default="none", description="how mail is encrypted"
    )
    smtp_timeout: float = Field(
        default=15.0, gt=0, le=30, description="seconds that a step of sending may take"
    )
    mail_from: str = Field(
        default="khong-tra-loi@motcua.example",
        pattern=r"^[^@\s]+@[^@\s]+$",
        description="sender address of mail",
    )
    mail_from_name: str = Field(default="Một Cửa", description="sender name of mail")
    portal_url: str = Field(
        default="http://127.0.0.1:8000/",
        pattern=r"^https?://\S+/$",
        description="where links in notices lead; ends in /",
    )
    sms_gateway_url: str = Field(default="", description="HTTP gateway for SMS; empty: no SMS go out")
    sms_gateway_token: SecretStr = Field(default=SecretStr(""), description="bearer token for it")
    zalo_gateway_url: str = Field(
        default="", description="HTTP gateway for Zalo; empty: nothing goes out by Zalo"
    )
    zalo_gateway_token: SecretStr = Field(default=SecretStr(""), description="bearer token for it")
    delivery_attempts: int = Field(
        default=20, ge=1, description="tries of one delivery before it is abandoned"
    )
    delivery_first_pause: float = Field(
        default=15.0, gt=0, description="seconds after a first failure; it doubles"
    )
    delivery_longest_pause: float = Field(default=3600.0, gt=0, description="seconds that a pause grows to")
    delivery_lease: float = Field(
        default=120.0,
        ge=1,
        description="seconds after which a delivery held by a dead process is tried by another",
    )
    delivery_poll: float = Field(default=2.0, gt=0, description="seconds between looks for due deliveries")
    remind_every: float = Field(
        default=60.0, gt=0, description="seconds between looks for deadlines to remind of"
    )


def build(
    settings: NotifySettings,
    *,
    directory: Directory | None = None,
    verifier: TokenVerifier | None = None,
    now: Clock = clock.now,
) -> Service:
    """The service. Tests give a directory and a verifier; otherwise identity is both. Raises CannotStart."""
    if settings.environment == "production" and settings.smtp_username and settings.smtp_tls == "none":
        raise CannotStart("notify: SMTP_TLS must be starttls or implicit where SMTP_USERNAME signs in")
    database = mongo.connect(settings.mongodb_url, settings.mongodb_database or "motcua_notify")
    identity = Identity(settings.identity_target, settings.service_secret.get_secret_value(), settings.tls)
    client = httpx.AsyncClient(timeout=15.0, trust_env=False)
    senders = _senders(settings, client)
    log.info("notices go out by: %s", ", ".join(("app", *senders)))
    stores = (
        notices := store.notices(database, now),
        preferences := store.preferences(database, now),
        contacts := store.contacts(database, now),
        desks := store.desks(database, now),
        agencies := store.agencies(database, now),
        deadlines := store.deadlines(database, now),
    )
    deliveries = Deliveries(
        notices,
        contacts,
        senders,
        directory or identity,
        now,
        Retry(
            attempts=settings.delivery_attempts,
            first=timedelta(seconds=settings.delivery_first_pause),
            most=timedelta(seconds=settings.delivery_longest_pause),
            lease=timedelta(seconds=settings.delivery_lease),
        ),
        poll=settings.delivery_poll,
        grace=settings.grace,
    )
    ports = Ports(
        notices=notices,
        preferences=preferences,
        contacts=contacts,
        desks=desks,
        agencies=agencies,
        deadlines=deadlines,
        directory=directory or identity,
        working=frozenset(senders),
        now=now,
        wake=deliveries.wake,
        trace=traceparent,
    )
    return Service(
        "notify",
        settings,
        servicers=[(notify_pb2_grpc.add_NotifyServiceServicer_to_server, NotifyApi(ports))],
        database=database,
        stores=stores,
        subscriptions=subscriptions(ports),
        tasks=[deliveries.run, lambda: keep_reminding(ports, settings.remind_every)],
        closing=[client.aclose, identity.close],
        verifier=verifier or identity.verifier(),
    )


def _senders(settings: NotifySettings, client: httpx.AsyncClient) -> dict[Channel, Sender]:
    senders: dict[Channel, Sender] = {}
    if settings.smtp_host:
        senders[Channel.EMAIL] = Smtp(
            host=settings.smtp_host,
            port=settings.smtp_port,
            sender=settings.mail_from,
            sender_name=settings.mail_from_name,
            portal=settings.portal_url,
            username=settings.smtp_username,
            password=settings.smtp_password.get_secret_value(),
            tls=settings.smtp_tls,
            timeout=settings.smtp_timeout,
        )
    for channel, url, token in (
        (Channel.SMS, settings.sms_gateway_url, settings.sms_gateway_token),
        (Channel.ZALO, settings.zalo_gateway_url, settings.zalo_gateway_token),
    ):
        if url:
            senders[channel] = HttpGateway(client, url, token.get_secret_value(), settings.portal_url)
    return senders
