"""The gRPC server of a service. Around every call, outside in: tracing, metrics, errors, the caller, the
bounds of what it asks."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry import trace

from kit import bounds, status
from kit.auth import ANONYMOUS, Caller, TokenVerifier
from kit.errors import DomainError, Unauthenticated, Unavailable
from kit.grpc_client import FLOW
from kit.ids import uuid7
from kit.settings import Settings
from kit.telemetry import RPC_SERVED, parent_from, tracer
from kit.tls import server_credentials

DEADLINE = 30.0  # seconds given to a unary call whose client set no deadline
_OPEN = ("/grpc.health.v1.", "/grpc.reflection.")  # answered to everyone

AddServicer = Callable[[Any, Any], None]
"""A generated `add_<Service>Servicer_to_server`."""

log = logging.getLogger(__name__)
_caller: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)
_token: ContextVar[str] = ContextVar("token", default="")


def current_caller() -> Caller:
    """The verified caller of the call being served; ANONYMOUS when it brought no token."""
    return _caller.get()


def current_token() -> str:
    """The access token that the call being served brought, to call on for the same caller; else empty."""
    return _token.get()


class _Around(grpc.aio.ServerInterceptor):
    def __init__(self, verifier: TokenVerifier | None) -> None:
        self._verifier = verifier
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:  # no such method; not remembered, so that strangers cannot fill memory
                return None
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        behaviour = (
            handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream
        )
        limited = not handler.request_streaming and not handler.response_streaming
        bounded = _each_bounded if handler.request_streaming else _bounded

        async def answer(request: Any, context: Any) -> Any:
            async with self._call(method, context, limited):
                return await behaviour(bounded(request), context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._call(method, context, limited):
                replies = behaviour(bounded(request), context)
                if hasattr(replies, "__aiter__"):
                    async for reply in replies:
                        yield reply
                else:  # it writes to the context itself
                    await replies

        if handler.request_streaming:
            if handler.response_streaming:
                return grpc.stream_stream_rpc_method_handler(stream, **coders)
            return grpc.stream_unary_rpc_method_handler(answer, **coders)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **coders)
        return grpc.unary_unary_rpc_method_handler(answer, **coders)

    @asynccontextmanager
    async def _call(self, method: str, context: Any, limited: bool) -> AsyncIterator[None]:
        metadata = dict(context.invocation_metadata() or ())
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        with tracer.start_as_current_span(
            method,
            parent_from(metadata.get("traceparent")),
            kind=trace.SpanKind.SERVER,
            record_exception=False,
        ) as span:
            try:
                if not method.startswith(_OPEN):
                    await self._authenticate(metadata.get("authorization"))
                imposed = DEADLINE if limited and context.time_remaining() is None else None
                async with asyncio.timeout(imposed):
                    yield
            except DomainError as error:
                code = status.code_of(error)
                await context.abort(code, error.message, status.to_details(error))
            except grpc.aio.AbortError:
                code = grpc.StatusCode(context.code()) if context.code() else grpc.StatusCode.UNKNOWN
                raise
            except TimeoutError as error:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
                await context.abort(code, str(error) or "too slow")
            except (asyncio.CancelledError, GeneratorExit):
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                masked = _masked(error)
                code = status.code_of(masked)
                await context.abort(code, masked.message, status.to_details(masked))
            finally:
                span.set_attribute("rpc.grpc.status_code", code.value[0])
                RPC_SERVED.labels(method, code.name).observe(time.perf_counter() - started)

    async def _authenticate(self, header: str | bytes | None) -> None:
        if header is None or self._verifier is None:
            return
        scheme, _, token = str(header).partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("TOKEN_INVALID", "authorization must be a bearer token")
        _caller.set(await self._verifier.verify(token))
        _token.set(token)


def _bounded(request: Any) -> Any:
    bounds.check(request)
    return request


async def _each_bounded(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _bounded(request)


class _Masked(DomainError):
    """Something unexpected, told to nobody but the log."""

    code = "INTERNAL"


def _masked(error: Exception) -> DomainError:
    if isinstance(error, grpc.aio.AioRpcError):
        meant = status.from_rpc(error)
        if isinstance(meant, Unavailable):
            return meant
    error_id = uuid7()
    log.error("internal error %s", error_id, exc_info=error)
    return _Masked("INTERNAL", f"internal error {error_id}", error_id=error_id)


def free_to_listen(listen: str) -> None:
    """Raises OSError with the reason, which gRPC does not say, when host:port cannot be listened on."""
    host, _, port = listen.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except (OSError, OverflowError, ValueError) as error:
        raise OSError(f"cannot listen on {listen}: {error}") from error


class _Names:
    """Passes servicers on to the server and notes their names."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        handlers = tuple(handlers)
        self.names += [handler.service_name() for handler in handlers]
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, name: str, handlers: Any) -> None:
        self._server.add_registered_method_handlers(name, handlers)


class Server:
    """A gRPC server; `port` is known once it has started."""

    def __init__(
        self,
        settings: Settings,
        servicers: Iterable[tuple[AddServicer, Any]],
        verifier: TokenVerifier | None = None,
    ) -> None:
        size, age = settings.grpc_max_message_bytes, int(settings.grpc_max_connection_age * 1000)
        self.port = 0
        self._settings = settings
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=[_Around(verifier)],
            options=[
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", 4 * size),
                *FLOW,
                ("grpc.max_connection_age_ms", age),
                ("grpc.max_connection_age_grace_ms", 600_000),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.max_concurrent_streams", settings.grpc_max_streams),
                ("grpc.max_metadata_size", 16 * 1024),
                ("grpc.absolute_max_metadata_size", 32 * 1024),
                ("grpc.http2.max_ping_strikes", 2),  # a peer that pings more often than that is sent away
                ("grpc.so_reuseport", 0),
            ],
        )
        named = _Names(self._server)
        for add, servicer in servicers:
            add(servicer, named)
        self.names = tuple(named.names)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*self.names, health.SERVICE_NAME), self._server)

    async def start(self) -> None:
        """Listens. Raises OSError when the port is taken. Not ready until `ready(True)`."""
        await self.ready(False)
        listen = self._settings.grpc_listen
        free_to_listen(listen)
        try:
            if (files := self._settings.tls) is None:
                self.port = self._server.add_insecure_port(listen)
            else:
                self.port = self._server.add_secure_port(listen, server_credentials(files))
        except (ValueError, RuntimeError) as error:
            raise OSError(f"cannot listen on {listen}: {error}") from error
        await self._server.start()

    async def ready(self, yes: bool) -> None:
        """What the health service answers, for the server ("") and each of its services."""
        serving = (
            health_pb2.HealthCheckResponse.SERVING if yes else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", *self.names):
            await self._health.set(name, serving)

    async def leave(self) -> None:
        """Not ready from now on, but serving still."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Not ready first; then no new calls, and `grace` seconds for those that run."""
        await self.leave()
        await self._server.stop(self._settings.grace)
