"""GraphQL over WebSocket: the graphql-transport-ws protocol.

https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from graphql import GraphQLError, OperationType
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.browser import origin_allowed
from gateway.crowd import Rates, Release
from gateway.documents import Refused
from gateway.endpoint import Asked, BadRequest, GraphQL, expiry, locale_of
from gateway.errors import formatted
from kit.auth import ANONYMOUS, Caller
from kit.errors import DomainError, RateLimited, Unauthenticated

PROTOCOL = "graphql-transport-ws"
_INIT = 10.0  # seconds given to connection_init
_FAREWELL = 0.5  # seconds between the end of the streams and that of the socket
_OPERATIONS = 20  # at once on one socket
_BURST, _MESSAGES = 100, 20  # messages at once, and a second, that a client may send


@dataclass
class _Socket:
    graphql: GraphQL
    websocket: WebSocket
    acknowledged: bool = False
    caller: Caller = ANONYMOUS
    token: str = ""
    expires: float = float("inf")
    known: asyncio.Event = field(default_factory=asyncio.Event)  # who calls
    operations: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    streams: set[str] = field(default_factory=set)  # those of the operations that end by themselves never
    opened: float = field(default_factory=time.monotonic)
    release: Release | None = None  # of its place among the account's streams
    rates: Rates = field(default_factory=Rates)

    def patience(self) -> float:
        """Seconds to wait for the next message: until the token expires, and a little more so that the
        streams say so first, or until the socket is old."""
        if not self.acknowledged:
            return max(0.0, self.opened + _INIT - time.monotonic())
        if self.expires == float("inf"):
            return self.old_in
        return min(max(0.0, self.expires - time.time()) + _FAREWELL, self.old_in)

    @property
    def old_in(self) -> float:
        """Seconds until the socket has been open long enough, and its client is sent to connect again."""
        return max(0.0, self.opened + self.graphql.settings.stream_minutes * 60 - time.monotonic())

    async def send(self, **message: Any) -> None:
        await self.websocket.send_text(orjson.dumps(message).decode())


class _Close(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


async def serve(graphql: GraphQL, websocket: WebSocket) -> None:
    """Serves one socket until either side closes it."""
    if not origin_allowed(graphql.settings, websocket.headers):
        await websocket.close(4403, "Forbidden")
        return
    if PROTOCOL not in websocket.scope.get("subprotocols", []):
        await websocket.close(4406, "Subprotocol not acceptable")
        return
    address = websocket.client.host if websocket.client else ""
    try:
        release = graphql.crowd.take("stream", account="", address=address)
    except RateLimited:
        await websocket.send_denial_response(Response(status_code=429, headers={"retry-after": "30"}))
        return
    try:
        await websocket.accept(PROTOCOL)
        with graphql.leaving.socket():
            await _run(_Socket(graphql, websocket))
    finally:
        release()


async def _run(socket: _Socket) -> None:
    graphql, websocket = socket.graphql, socket.websocket
    serving = asyncio.create_task(_serve(socket))
    ending = asyncio.create_task(graphql.leaving.streams_end.wait())
    ended = asyncio.create_task(_session_ended(socket))
    try:
        await asyncio.wait((serving, ending, ended), return_when=asyncio.FIRST_COMPLETED)
        if not serving.done() and ended.done():
            streams = [socket.operations[id] for id in socket.streams]
            if streams:  # they say so first
                await asyncio.wait(streams, timeout=_FAREWELL)
            raise _Close(4401, "Session ended")
        if not serving.done():
            await _finish(socket)
            raise _Close(1001, "Going away")
        await serving
    except _Close as close:
        with suppress(WebSocketDisconnect, RuntimeError):  # the other side was faster
            await websocket.close(close.code, close.reason)
    except (WebSocketDisconnect, RuntimeError):
        pass  # the other side is gone
    finally:
        if socket.release is not None:
            socket.release()
        for task in (serving, ending, ended, *socket.operations.values()):
            task.cancel()
        await asyncio.gather(serving, *socket.operations.values(), return_exceptions=True)


async def _session_ended(socket: _Socket) -> None:
    """Returns when the session of who calls is over; that the token expires is told elsewhere."""
    await socket.known.wait()
    over = await socket.graphql.session_ended(socket.caller, socket.token)
    if over.reason == "TOKEN_EXPIRED":
        await asyncio.Event().wait()


async def _finish(socket: _Socket) -> None:
    """Queries and mutations that run get their answers; subscriptions are for the next socket."""
    for id in socket.streams:
        socket.operations[id].cancel()
    running = [task for id, task in socket.operations.items() if id not in socket.streams]
    if running:
        await asyncio.wait(running, timeout=socket.graphql.settings.grace)


async def _serve(socket: _Socket) -> None:
    while True:
        try:
            text = await asyncio.wait_for(socket.websocket.receive_text(), socket.patience())
        except TimeoutError:
            if socket.acknowledged and not socket.old_in:
                raise _Close(1001, "Connect again") from None  # no code of the protocol's that ends clients
            if socket.acknowledged:
                raise _Close(4401, "Token expired") from None
            raise _Close(4408, "Connection initialisation timeout") from None
        except KeyError:
            raise _Close(4400, "Invalid message") from None
        if socket.rates.take("", burst=_BURST, per_second=_MESSAGES):
            raise _Close(4429, "Too many messages")
        if len(text) > socket.graphql.settings.max_body_bytes:
            raise _Close(4400, "Message too long")
        try:
            message = orjson.loads(text)
            kind = message["type"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise _Close(4400, "Invalid message") from None
        if kind == "connection_init":
            await _init(socket, message.get("payload"))
        elif kind == "ping":
            await socket.send(type="pong")
        elif kind == "pong":
            pass
        elif kind == "subscribe":
            _subscribe(socket, message)
        elif kind == "complete":
            task = socket.operations.pop(str(message.get("id")), None)
            socket.streams.discard(str(message.get("id")))
            if task is not None:
                task.cancel()
        else:
            raise _Close(4400, "Invalid message")


async def _init(socket: _Socket, payload: Any) -> None:
    if socket.acknowledged:
        raise _Close(4429, "Too many initialisation requests")
    given = payload if isinstance(payload, dict) else {}
    authorization = given.get("authorization") or given.get("Authorization")
    try:
        socket.caller, socket.token = await socket.graphql.caller(
            str(authorization or socket.websocket.headers.get("authorization", ""))
        )
    except DomainError:
        raise _Close(4403, "Forbidden") from None
    try:
        socket.release = socket.graphql.crowd.take("stream", account=socket.caller.subject, address="")
    except RateLimited:
        raise _Close(1013, "Too many sockets") from None
    socket.expires = expiry(socket.token)
    socket.acknowledged = True
    socket.known.set()
    await socket.send(type="connection_ack")


def _subscribe(socket: _Socket, message: Any) -> None:
    if not socket.acknowledged:
        raise _Close(4401, "Unauthorized")
    id, payload = message.get("id"), message.get("payload")
    if not isinstance(id, str) or not id or not isinstance(payload, dict):
        raise _Close(4400, "Invalid message")
    if id in socket.operations:
        raise _Close(4409, f"Subscriber for {id[:50]} already exists")
    if len(socket.operations) >= _OPERATIONS:
        raise _Close(4429, "Too many operations")
    socket.operations[id] = asyncio.create_task(_operate(socket, id, payload))


async def _operate(socket: _Socket, id: str, payload: Any) -> None:
    locale = locale_of(socket.websocket.headers.get("accept-language", "")) or "vi"
    try:
        try:
            asked = Asked.of(payload)
            prepared, operation = socket.graphql.prepare(asked)
        except BadRequest as error:
            await socket.send(id=id, type="error", payload=[{"message": str(error)}])
            return
        except Refused as refused:
            errors = [formatted(error, locale) for error in refused.errors]
            await socket.send(id=id, type="error", payload=errors)
            return
        if socket.caller.subject:
            socket.graphql.crowd.ask(account=socket.caller.subject)
        context = socket.graphql.context(socket.websocket, socket.caller, socket.token, http=False)
        if operation.operation is OperationType.SUBSCRIPTION:
            socket.streams.add(id)
            answers = socket.graphql.stream(asked, prepared, operation, context)
            async with aclosing(answers):  # type: ignore[type-var]
                async for answer in answers:
                    if "data" not in answer:
                        await socket.send(id=id, type="error", payload=answer["errors"])
                        return
                    await socket.send(id=id, type="next", payload=answer)
        else:
            try:
                if time.time() >= socket.expires:
                    raise Unauthenticated("TOKEN_EXPIRED", "the access token has expired")
                if socket.token:
                    await socket.graphql.caller(f"Bearer {socket.token}")
            except DomainError as error:
                told = formatted(GraphQLError(error.message, original_error=error), locale)
                await socket.send(id=id, type="error", payload=[told])
                return
            answer = await socket.graphql.run(asked, prepared, operation, context)
            if "data" not in answer:
                await socket.send(id=id, type="error", payload=answer["errors"])
                return
            await socket.send(id=id, type="next", payload=answer)
        await socket.send(id=id, type="complete")
    except (WebSocketDisconnect, RuntimeError):
        pass  # the other side is gone
    except Exception as error:
        unexpected = GraphQLError(str(error), original_error=error)
        await socket.send(id=id, type="error", payload=[formatted(unexpected, locale)])
    finally:
        if socket.operations.get(id) is asyncio.current_task():
            del socket.operations[id]
            socket.streams.discard(id)
