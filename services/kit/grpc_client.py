"""Channels to other services: balanced, traced, measured, with a deadline on every call.

A lean wrapper instead of interceptors, which cost a task each: the gateway makes several calls a query.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry import trace

from kit.ids import uuid7
from kit.telemetry import RPC_CALLED, traceparent, tracer
from kit.tls import Files, channel_credentials

# What may run twice without a request id: it only reads, or finds itself done.
_REPEATABLE = (
    *("Get", "BatchGet", "List", "Search", "Count", "Check", "Find", "Quote", "Compute", "Read", "Track"),
    *("Issue", "CreateDownload", "SignIn", "SignOut", "CancelUpload", "Handle"),
)
# UNAVAILABLE: nobody is there. CANCELLED, when it was not us: it came as the server stopped.
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_PATIENCE = 8.0  # seconds of trying again: longer than it takes until replaced replicas are found
_ANSWERED = 3.0  # the same for one that is there but says that it cannot: it has been patient itself
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
    ("grpc.keepalive_time_ms", 20_000),  # a node that dies says no farewell
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
)

Bearer = Callable[[], Awaitable[str]]
_Callable = Callable[[], AbstractContextManager[Any]]


def connect(
    target: str, *, timeout: float = 10.0, bearer: Bearer | None = None, tls: Files | None = None
) -> Channel:
    """A channel to `host:port` or `dns:///name:port`; connects when first used.

    `timeout` (seconds) is the deadline of unary calls that set none. `bearer` gives the access token of calls
    that carry no `authorization` (a service's own: `ServiceTokens`). Reads, and writes with a `request_id`
    (one is put in where it is empty), are tried again while the other side is away. `tls` (`settings.tls`)
    is what we show the other side and know it by; None: no TLS.
    """
    return Channel(target, timeout, bearer, tls)


@dataclass(eq=False)
class _Line:
    """A channel of gRPC and the calls on it; once replaced it ends with the last of them."""

    channel: grpc.aio.Channel
    calls: int = 0


class _Tries:
    """The tries of one call, `timeout` seconds in all."""

    def __init__(self, again: bool, timeout: float | None) -> None:
        self.again = again
        self._started = time.monotonic()
        self._deadline = None if timeout is None else self._started + timeout
        self._pause = 0.05

    def left(self) -> float | None:
        """Seconds until the deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def pause(self, error: grpc.aio.AioRpcError) -> float | None:
        """Seconds until the next try after a failure; None when there shall be none."""
        if not self.again or error.code() not in _AWAY:
            return None
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311
        self._pause = min(self._pause * 2, 1.0)
        end = self._started + (_ANSWERED if error.trailing_metadata() else _PATIENCE)
        if self._deadline is not None:
            end = min(end, self._deadline)
        return pause if time.monotonic() + pause < end else None


class Channel(grpc.aio.Channel):
    """What generated stubs take; the calls of a stub are awaited or iterated as usual."""

    def __init__(self, target: str, timeout: float, bearer: Bearer | None, tls: Files | None) -> None:
        self._target = target
        self._timeout = timeout
        self._bearer = bearer
        self._tls = tls
        self._pem = tls.current() if tls else None
        self._line = self._open()
        self._replaced: set[_Line] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def _open(self) -> _Line:
        if self._pem is None:
            return _Line(grpc.aio.insecure_channel(self._target, options=_OPTIONS))
        credentials = channel_credentials(self._pem)
        return _Line(grpc.aio.secure_channel(self._target, credentials, options=_OPTIONS))

    def _current(self) -> _Line:
        """The line to call on: another one once the certificate is renewed, as gRPC's keep theirs."""
        if self._tls is not None and (pem := self._tls.current()) is not self._pem:
            before, self._pem = self._line, pem
            self._line = self._open()
            self._replaced.add(before)
            self._end_if_idle(before)
        return self._line

    def _end_if_idle(self, line: _Line) -> None:
        if line.calls or line not in self._replaced:
            return
        self._replaced.discard(line)
        ending = asyncio.create_task(line.channel.close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _callable(self, kind: str, method: str, args: Any, kwargs: Any) -> _Callable:
        """Gives the multi-callable of a method on the current line, for the time of a call."""
        known = self._line
        made = getattr(known.channel, kind)(method, *args, **kwargs)

        @contextmanager
        def current() -> Iterator[Any]:
            nonlocal known, made
            if (line := self._current()) is not known:
                known, made = line, getattr(line.channel, kind)(method, *args, **kwargs)
            line.calls += 1
            try:
                yield made
            finally:
                line.calls -= 1
                if line is not self._line:
                    self._end_if_idle(line)

        return current

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with one request and one reply."""
        return self._one(method, self._callable("unary_unary", method, args, kwargs), streaming=False)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with many requests and one reply; no deadline unless the caller sets one."""
        return self._one(method, self._callable("stream_unary", method, args, kwargs), streaming=True)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with many replies; no deadline unless the caller sets one."""
        again = method.rpartition("/")[2].startswith(_REPEATABLE)
        return self._many(method, self._callable("unary_stream", method, args, kwargs), again=again)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with many requests and many replies; no deadline unless the caller sets one."""
        return self._many(method, self._callable("stream_stream", method, args, kwargs), again=False)

    def _one(self, method: str, call: _Callable, *, streaming: bool) -> Any:
        repeatable = not streaming and method.rpartition("/")[2].startswith(_REPEATABLE)
        observers: dict[str, Callable[[float], None]] = {}

        async def run(
            request: Any,
            *,
            timeout: float | None = None,  # noqa: ASYNC109 - gRPC's own name
            metadata: Any = None,
            **kwargs: Any,
        ) -> Any:
            again = repeatable
            if not again and not streaming and "request_id" in request.DESCRIPTOR.fields_by_name:
                again = True
                if not request.request_id:
                    request.request_id = uuid7()
            if timeout is None and not streaming:
                timeout = self._timeout
            tries = _Tries(again, timeout)
            started = time.perf_counter()
            code = "OK"
            span = tracer.start_span(method, kind=trace.SpanKind.CLIENT)
            try:
                sent = await self._metadata(span, metadata)
                while True:
                    try:
                        with call() as made:
                            return await made(request, timeout=tries.left(), metadata=sent, **kwargs)
                    except grpc.aio.AioRpcError as error:
                        code = error.code().name
                        if (pause := tries.pause(error)) is None:
                            raise
                    await asyncio.sleep(pause)
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

    def _many(self, method: str, call: _Callable, *, again: bool) -> Any:
        async def run(
            request: Any = None,
            *,
            timeout: float | None = None,  # noqa: ASYNC109 - gRPC's own name
            metadata: Any = None,
            **kwargs: Any,
        ) -> Any:
            tries = _Tries(again, timeout)
            started = time.perf_counter()
            code = "OK"
            # Not the current span: a generator may be finished from another task.
            span = tracer.start_span(method, kind=trace.SpanKind.CLIENT)
            try:
                sent = await self._metadata(span, metadata)
                while True:
                    try:
                        with call() as made:
                            async for reply in made(request, timeout=tries.left(), metadata=sent, **kwargs):
                                tries.again = False  # what was received is not asked for twice
                                yield reply
                        return
                    except grpc.aio.AioRpcError as error:
                        if (pause := tries.pause(error)) is None:
                            raise
                    await asyncio.sleep(pause)
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
        lines = [self._line, *self._replaced]
        await asyncio.gather(*(line.channel.close(grace) for line in lines), *self._ending)

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the connection."""
        return self._line.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns when the state is another."""
        await self._line.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Returns when it is connected."""
        await self._line.channel.channel_ready()
