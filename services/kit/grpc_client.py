"""Channels to other services: balanced, traced, measured, with a deadline on every call.

A lean wrapper instead of interceptors, which cost a task each: the gateway makes several calls a query.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from opentelemetry import trace

from kit.ids import uuid7
from kit.telemetry import RPC_CALLED, traceparent, tracer

_READS = ("Get", "BatchGet", "List", "Search", "Count", "Check", "Find", "Quote", "Compute")
_ATTEMPTS = 5
FLOW = (
    # A fixed window instead of one that grows with the line's speed: a stream whose reader is slower than the
    # network would otherwise pile up tens of megabytes, which a break then throws away.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2**20),
)
_OPTIONS = (
    (
        "grpc.service_config",
        json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}),
    ),
    ("grpc.enable_retries", 1),  # only those that no server has seen; the others are tried again below
    *FLOW,
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
)

Bearer = Callable[[], Awaitable[str]]


def connect(target: str, *, timeout: float = 10.0, bearer: Bearer | None = None) -> Channel:
    """A channel to `host:port` or `dns:///name:port`; connects when first used.

    `timeout` (seconds) is the deadline of unary calls that set none. `bearer` gives the access token of calls
    that carry no `authorization` (a service's own: `ServiceTokens`). Reads, and writes with a `request_id`
    (one is put in where it is empty), are tried again while the other side is UNAVAILABLE.
    """
    return Channel(grpc.aio.insecure_channel(target, options=_OPTIONS), timeout, bearer)


class Channel(grpc.aio.Channel):
    """What generated stubs take; the calls of a stub are awaited or iterated as usual."""

    def __init__(self, channel: grpc.aio.Channel, timeout: float, bearer: Bearer | None) -> None:
        self._channel = channel
        self._timeout = timeout
        self._bearer = bearer

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with one request and one reply."""
        return self._one(method, self._channel.unary_unary(method, *args, **kwargs), streaming=False)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with many requests and one reply; no deadline unless the caller sets one."""
        return self._one(method, self._channel.stream_unary(method, *args, **kwargs), streaming=True)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with many replies; no deadline unless the caller sets one."""
        return self._many(method, self._channel.unary_stream(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with many requests and many replies; no deadline unless the caller sets one."""
        return self._many(method, self._channel.stream_stream(method, *args, **kwargs))

    def _one(self, method: str, call: Any, *, streaming: bool) -> Any:
        read = not streaming and method.rpartition("/")[2].startswith(_READS)
        observers: dict[str, Callable[[float], None]] = {}

        async def run(
            request: Any,
            *,
            timeout: float | None = None,  # noqa: ASYNC109 - gRPC's own name
            metadata: Any = None,
            **kwargs: Any,
        ) -> Any:
            attempts = _ATTEMPTS if read else 1
            if not read and not streaming and "request_id" in request.DESCRIPTOR.fields_by_name:
                attempts = _ATTEMPTS
                if not request.request_id:
                    request.request_id = uuid7()
            if timeout is None and not streaming:
                timeout = self._timeout
            started = time.perf_counter()
            code = "OK"
            span = tracer.start_span(method, kind=trace.SpanKind.CLIENT)
            try:
                sent = await self._metadata(span, metadata)
                while True:
                    try:
                        return await call(request, timeout=timeout, metadata=sent, **kwargs)
                    except grpc.aio.AioRpcError as error:
                        attempts -= 1
                        code = error.code().name
                        pause = 0.1 * 2 ** (_ATTEMPTS - attempts) * random.uniform(0.5, 1)  # noqa: S311
                        if code != "UNAVAILABLE" or not attempts or (timeout and timeout <= pause):
                            raise
                    await asyncio.sleep(pause)
                    timeout = timeout and timeout - pause
                    code = "OK"
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            finally:
                span.end()
                observe = observers.get(code)
                if observe is None:
                    observe = observers[code] = RPC_CALLED.labels(method, code).observe
                observe(time.perf_counter() - started)

        return run

    def _many(self, method: str, call: Any) -> Any:
        async def run(request: Any = None, *, metadata: Any = None, **kwargs: Any) -> Any:
            started = time.perf_counter()
            code = "OK"
            # Not the current span: a generator may be finished from another task.
            span = tracer.start_span(method, kind=trace.SpanKind.CLIENT)
            try:
                sent = await self._metadata(span, metadata)
                async for reply in call(request, metadata=sent, **kwargs):
                    yield reply
            except grpc.aio.AioRpcError as error:
                code = error.code().name
                raise
            except (asyncio.CancelledError, GeneratorExit):
                code = "CANCELLED"
                raise
            finally:
                span.end()
                RPC_CALLED.labels(method, code).observe(time.perf_counter() - started)

        return run

    async def _metadata(self, span: trace.Span, metadata: Any) -> list[tuple[str, str | bytes]]:
        sent = list(metadata or ())
        if parent := traceparent(span):
            sent.append(("traceparent", parent))
        if self._bearer is not None and not any(key == "authorization" for key, _ in sent):
            sent.append(("authorization", f"Bearer {await self._bearer()}"))
        return sent

    async def close(self, grace: float | None = None) -> None:
        """Closes it after `grace` seconds for running calls."""
        await self._channel.close(grace)

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the connection."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns when the state is another."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Returns when it is connected."""
        await self._channel.channel_ready()
