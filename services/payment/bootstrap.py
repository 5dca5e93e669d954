"""Wires payment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta

import httpx

from kit import clock, mongo
from kit.auth import ServiceTokens, TokenVerifier
from kit.clock import Clock
from kit.grpc_client import connect
from kit.service import Service
from kit.sessions import verifier_of
from motcua.identity.v1 import identity_pb2 as identity
from motcua.identity.v1.identity_pb2_grpc import IdentityServiceStub
from motcua.payment.v1.payment_pb2_grpc import add_PaymentServiceServicer_to_server
from payment import store
from payment.events_in import subscriptions
from payment.grpc_api import PaymentApi
from payment.handlers import People, Ports, Terms, chores
from payment.peers import Identity, TransferBank, VnpayGateway
from payment.settings import Settings

NAME = "payment"


def build(
    settings: Settings,
    *,
    verifier: TokenVerifier | None = None,
    people: People | None = None,
    now: Clock = clock.now,
) -> Service:
    """The payment service; tests bring a verifier and people of their own instead of identity's."""
    open_channel = connect(settings.identity_target, tls=settings.tls)
    identity_service = IdentityServiceStub(open_channel)

    async def fetch_token() -> tuple[str, float]:
        answer = await identity_service.IssueServiceToken(
            identity.IssueServiceTokenRequest(service=NAME, secret=settings.service_secret.get_secret_value())
        )
        return answer.access_token, answer.expire_time.ToDatetime(UTC).timestamp() - now().timestamp()

    own_channel = connect(settings.identity_target, bearer=ServiceTokens(fetch_token), tls=settings.tls)
    http = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(10.0, connect=3.0))
    database = mongo.connect(settings.mongodb_url, settings.mongodb_database or f"motcua_{NAME}")
    charges, receipts, books = (
        store.charges(database),
        store.receipts_store(database),
        store.books(database),
    )
    vnpay = VnpayGateway(http, settings, now)
    due = asyncio.Event()
    ports = Ports(
        charges=charges,
        receipts=receipts,
        books=books,
        closed=store.ClosedDossiers(database),
        merchant=vnpay.merchant,
        vnpay=vnpay,
        bank=TransferBank(http, settings),
        people=people or Identity(own_channel),
        clock=now,
        terms=Terms(
            receipt_form=settings.receipt_form,
            receipt_letters=settings.receipt_letters,
            ask_after=timedelta(seconds=settings.payment_ask_after),
            retry_after=timedelta(seconds=settings.payment_retry_after),
        ),
        wake=due.set,
    )
    return Service(
        NAME,
        settings,
        servicers=[(add_PaymentServiceServicer_to_server, PaymentApi(ports))],
        database=database,
        stores=[charges, receipts, books],
        subscriptions=subscriptions(ports),
        tasks=[sweeping(ports, due, settings.payment_poll)],
        closing=[http.aclose, open_channel.close, own_channel.close],
        verifier=verifier or verifier_of(open_channel),
    )


def sweeping(ports: Ports, due: asyncio.Event, poll: float) -> Callable[[], Awaitable[None]]:
    """The task that does what has come due: at once when woken, else after `poll` seconds."""

    async def sweep() -> None:
        while True:
            due.clear()
            if await chores.sweep(ports):
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(due.wait(), poll)

    return sweep
