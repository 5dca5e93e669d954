"""Puts the gateway together: routes, layers, start and stop."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from gateway import graphiql, websocket
from gateway.address import Proxied
from gateway.browser import Browser
from gateway.crowd import Turnstile
from gateway.documents import Documents, Limits, read_trusted
from gateway.endpoint import GraphQL
from gateway.files import Files
from gateway.leaving import Leaving
from gateway.live import Live
from gateway.payments import Payments
from gateway.schema import schema
from gateway.services import Services
from gateway.settings import GatewaySettings
from kit.grpc_client import connect
from kit.sessions import verifier_of
from motcua.identity.v1 import identity_pb2 as identity

log = logging.getLogger(__name__)
_HEALTH_TIMEOUT = 1.0  # seconds a service has to say that it serves
_HEALTH_KEPT = 0.5  # seconds an answer of /status is good for


def build(settings: GatewaySettings, leaving: Leaving | None = None) -> ASGIApp:
    """The ASGI application. Whoever serves it tells by `leaving` when it is to end.

    Raises ValueError for trusted documents that are not what their hashes say.
    """
    leaving = leaving or Leaving()
    services = Services(settings.targets, partial(connect, tls=settings.tls))
    verifier = verifier_of(services.channels["identity"])
    live = Live(verifier.ended)
    limits = Limits(settings.max_tokens, settings.max_depth, settings.max_aliases, settings.max_cost)
    trusted = read_trusted(settings.trusted_documents) if settings.trusted_documents else None
    graphql = GraphQL(settings, services, verifier, live, Documents(schema(), limits, trusted), leaving)
    files, payments, health = Files(graphql), Payments(graphql), Health(services, live)

    async def graphql_http(request: Request) -> Response:
        if request.method not in ("GET", "POST"):
            return PlainTextResponse("GET or POST", 405, headers={"allow": "GET, POST"})
        if settings.environment == "development" and graphiql.asked_for(request):
            return HTMLResponse(graphiql.PAGE, headers={"content-security-policy": graphiql.POLICY})
        return await graphql(request)

    async def graphql_socket(socket: WebSocket) -> None:
        await websocket.serve(graphql, socket)

    async def ready(_request: Request) -> Response:
        return PlainTextResponse("leaving", 503) if leaving.begun else PlainTextResponse("ready")

    async def jwks(_request: Request) -> Response:
        return JSONResponse(await _jwks(services), headers={"cache-control": "public, max-age=300"})

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_listen(live, settings))]
        tasks.append(asyncio.create_task(verifier.ended.run(lambda: live.connected)))
        tasks.append(asyncio.create_task(graphql.crowd.replicas.watch()))
        yield
        for task in tasks:
            task.cancel()
        await live.stop()
        await services.close()

    every = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    routes: list[BaseRoute] = [
        Route("/graphql", graphql_http, methods=every),
        WebSocketRoute("/graphql", graphql_socket),
        Route("/files", files.tus, methods=every),
        Route("/files/d/{token}", files.download, methods=["GET", "HEAD"]),
        Route("/files/{id}", files.tus, methods=every),
        Route("/payments/vnpay/ipn", payments.vnpay_ipn, methods=["GET"]),
        Route("/payments/vnpay/return", payments.vnpay_return, methods=["GET"]),
        Route("/payments/transfer/notice", payments.transfer_notice, methods=["POST"]),
        Route("/.well-known/jwks.json", jwks, methods=["GET"]),
        Route("/livez", lambda _request: PlainTextResponse("live"), methods=["GET"]),
        Route("/readyz", ready, methods=["GET"]),
        Route("/status", health.__call__, methods=["GET"]),
    ]
    app = Browser(Starlette(routes=routes, lifespan=lifespan), settings, leaving)
    return Proxied(Turnstile(app, graphql.crowd), settings.proxies)


class Health:
    """`/status`, for people: 200 only when all five services serve and events arrive."""

    def __init__(self, services: Services, live: Live) -> None:
        self._services = services
        self._live = live
        self._looked = float("-inf")
        self._parts: dict[str, str] = {}
        self._lock = asyncio.Lock()

    async def __call__(self, _request: Request) -> Response:
        """The state of each part."""
        async with self._lock:
            if time.monotonic() - self._looked > _HEALTH_KEPT:
                self._parts = await self._look()
                self._looked = time.monotonic()
        ready = all(state == "ok" for state in self._parts.values())
        return JSONResponse({"ready": ready, "parts": self._parts}, 200 if ready else 503)

    async def _look(self) -> dict[str, str]:
        names = list(self._services.channels)
        states = await asyncio.gather(*(self._state(self._services.channels[name]) for name in names))
        parts = dict(zip(names, states, strict=True))
        parts["nats"] = "ok" if self._live.connected else "not connected"
        return parts

    async def _state(self, channel: grpc.aio.Channel) -> str:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT)
        except TimeoutError:
            return "does not answer"
        except grpc.aio.AioRpcError as error:
            return error.code().name.lower()
        return "ok" if reply.status == health_pb2.HealthCheckResponse.SERVING else "not serving"


async def _listen(live: Live, settings: GatewaySettings) -> None:
    """Connects to NATS, trying as long as it takes: queries are served without it."""
    while True:
        try:
            await live.start(settings.nats_url, settings.tls)
            return
        except Exception as error:
            log.warning("NATS at %s: %s", settings.nats_servers, str(error) or type(error).__name__)
        await asyncio.sleep(1)


async def _jwks(services: Services) -> Mapping[str, Any]:
    reply = await services.identity.GetJwks(identity.GetJwksRequest(), timeout=5.0)
    found: Mapping[str, Any] = json.loads(reply.jwks)
    return found
