"""Connections that are not kept open by waiting: time limits, a least speed, and bounds of what is buffered.

uvicorn limits none of this. What stands still through our own fault (we do not read, or the answer is not
ready) never counts against a client; a slow telephone is served as long as it moves at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.address import Network, group, parse, within
from gateway.crowd import REFUSED
from gateway.settings import GatewaySettings

log = logging.getLogger(__name__)
_DRAIN = 5.0  # seconds that a body is still read whose answer has been given, so that the client reads that
_FRAMING = 32 * 1024  # bytes around a body: sizes of chunks, their extensions, trailers


@dataclass
class Doors:
    """What all connections of a process share: their limits, and how many there are of each address."""

    connections: int
    per_address: int
    header_seconds: float
    header_bytes: int
    header_count: int
    least_speed: int  # bytes a second
    window: float  # seconds over which it is measured
    trusted: tuple[Network, ...] = ()
    open: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(settings: GatewaySettings) -> Doors:
        """As the settings have it."""
        return Doors(
            connections=settings.max_connections,
            per_address=settings.connections_per_address,
            header_seconds=settings.header_seconds,
            header_bytes=settings.max_header_bytes,
            header_count=settings.max_headers,
            least_speed=settings.least_speed,
            window=settings.speed_window,
            trusted=settings.proxies,
        )

    def enter(self, address: str) -> str:
        """Counts a connection; answers why it may not stay, if so. Many share a proxy's address."""
        key = group(address)
        self.open[key] += 1
        if self.open.total() > self.connections:
            return "connections"
        found = parse(address)
        proxy = found is not None and within(found, self.trusted)
        return "address" if not proxy and self.open[key] > self.per_address else ""

    def leave(self, address: str) -> None:
        """The connection is gone."""
        key = group(address)
        self.open[key] -= 1
        if self.open[key] <= 0:
            del self.open[key]


class _Writes(Protocol):
    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop


class Reader:
    """Watches a client that does not read what it asked for, and ends its connection."""

    def __init__(self, owner: _Writes, doors: Doors) -> None:
        self._owner = owner
        self._doors = doors
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = 0

    def slow(self) -> None:
        """The buffer to the client is full."""
        if self._timer is None:
            self._waiting = self._owner.transport.get_write_buffer_size()
            self._timer = self._owner.loop.call_later(self._doors.window, self._look)

    def caught_up(self) -> None:
        """The buffer is (nearly) empty, or there is nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        left = self._owner.transport.get_write_buffer_size()
        if self._waiting - left < self._doors.least_speed * self._doors.window:
            REFUSED.labels("slow_reader").inc()
            self._owner.transport.abort()
        else:
            self.slow()


class Connection(HttpToolsProtocol):
    """HTTP/1.1 with limits of time, speed and size. `doors` is set by `protocols`."""

    doors: Doors

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Turns the connection away when there are too many."""
        super().connection_made(transport)
        self._reader = Reader(self, self.doors)
        self._timer: asyncio.TimerHandle | None = None
        self._head = self._around = self._body = 0  # bytes of this message
        self._headed = self._whole = False  # its headers are complete, all of it is here
        self._last = False  # answered before it was all here
        self._address = self.client[0] if self.client else ""
        self._counted = True
        why = self.doors.enter(self._address)
        if why:
            self._end(503 if why == "connections" else 429, why)
        else:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place back."""
        self._stop()
        self._reader.caught_up()
        self._give_back()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; what comes before, between and after the body is bounded."""
        if self.transport.is_closing():
            return
        if self._timer is None and not self._headed:
            self._expect_headers()  # the first bytes of a further request
        before = self._body
        super().data_received(data)
        if self.transport.is_closing() or self.parser is None:
            return
        around = len(data) - (self._body - before)
        if not self._headed:
            self._head += around
            if self._head > self.doors.header_bytes:
                self._end(431, "large_headers")
        elif not self._whole:
            self._around += around
            if self._around > _FRAMING + 8 * self._body:
                self._end(400, "large_framing")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._headed = self._whole = False
        self._head = self._around = self._body = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; a trailer is nobody's business, and must not pass for a header."""
        if self._headed:
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuses too many headers and an unclear host; then the body has to come."""
        self._headed = True
        self._stop()
        hosts = sum(name == b"host" for name, _ in self.headers)
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.headers) > self.doors.header_count or size > self.doors.header_bytes:
            self._end(431, "large_headers")
            return
        if hosts != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            self._end(400, "host")
            return
        super().on_headers_complete()
        self._seen = 0
        self._timer = self.loop.call_later(self.doors.window, self._measure)

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._body += len(body)
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here; what takes time now is ours."""
        self._whole = True
        self._stop()
        if self.cycle is not None and not self.transport.is_closing():
            super().on_message_complete()
        self._headed = False
        self._head = 0
        if self._last and not self.transport.is_closing():
            self._last = False  # what was left of it was short: further requests are welcome
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """After an answer before the end of the request, that end has to come soon."""
        follows = bool(self.pipeline)
        super().on_response_complete()
        if not follows and self.cycle.more_body and not self.transport.is_closing():
            self._last = True
            self._unset_keepalive_if_required()
            self._stop()
            self._timer = self.loop.call_later(_DRAIN, self.transport.close)

    def handle_websocket_upgrade(self) -> None:
        """The connection is a WebSocket's from now on."""
        self._stop()
        self._reader.caught_up()
        self._give_back()
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        super().pause_writing()
        self._reader.slow()

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._reader.caught_up()

    def _expect_headers(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.doors.header_seconds, self._end, 408, "slow_headers")

    def _measure(self) -> None:
        """The body has to come at the least speed, unless it is we who do not read."""
        self._timer = None
        if self._whole or self.transport.is_closing():
            return
        came = self._body - self._seen
        waits = self.flow.read_paused or (self.cycle is not None and self.cycle.waiting_for_100_continue)
        if not waits and came < self.doors.least_speed * self.doors.window:
            REFUSED.labels("slow_body").inc()
            self.transport.close()  # without an answer: one may have begun; what came of an upload is kept
            return
        self._seen = self._body
        self._timer = self.loop.call_later(self.doors.window, self._measure)

    def _end(self, status: int, why: str) -> None:
        REFUSED.labels(why).inc()
        self._stop()
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                lines = [STATUS_LINE[status], b"content-length: 0\r\nconnection: close\r\n"]
                if status == 429:
                    lines.append(b"retry-after: 30\r\n")
                self.transport.write(b"".join([*lines, b"\r\n"]))
            self.transport.close()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_back(self) -> None:
        if self._counted:
            self._counted = False
            self.doors.leave(self._address)


class Socket(WebSocketsSansIOProtocol):
    """A WebSocket with the same limits. uvicorn's pings end those whose other side is gone."""

    doors: Doors

    def connection_made(self, transport: Any) -> None:
        """Takes the place that the HTTP connection had."""
        super().connection_made(transport)
        self._reader = Reader(self, self.doors)
        self._address = self.client[0] if self.client else ""
        self.doors.enter(self._address)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives it back."""
        self._reader.caught_up()
        self.doors.leave(self._address)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Whoever does not read gets nothing read either: each ping would add a pong to what waits."""
        super().pause_writing()
        self._reader.slow()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._reader.caught_up()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()


def protocols(settings: GatewaySettings) -> tuple[type[Connection], type[Socket]]:
    """The protocols for a server with these settings."""
    doors = Doors.of(settings)
    return (
        type("Connection", (Connection,), {"doors": doors}),
        type("Socket", (Socket,), {"doors": doors}),
    )
