"""`/graphql`: GraphQL over HTTP, and subscriptions over SSE.
https://graphql.github.io/graphql-over-http/draft/"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import jwt
import orjson
from graphql import GraphQLError, GraphQLObjectType, OperationDefinitionNode, OperationType
from graphql.execution.values import get_argument_values, get_variable_values
from opentelemetry import trace
from prometheus_client import Histogram
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway import browser
from gateway.context import Context, Session
from gateway.crowd import Crowd, Release
from gateway.documents import Documents, Prepared, Refused
from gateway.errors import formatted
from gateway.execution import execute
from gateway.leaving import Leaving
from gateway.live import Live
from gateway.schema import SOURCES, schema
from gateway.services import Services
from gateway.settings import GatewaySettings
from kit.auth import ANONYMOUS, Caller, TokenVerifier
from kit.errors import DomainError, RateLimited, Unauthenticated
from kit.telemetry import SECONDS, parent_from, tracer

log = logging.getLogger(__name__)
OPERATIONS = Histogram(
    "graphql_operation_seconds", "GraphQL operations", ("kind", "outcome"), buckets=SECONDS
)
RPCS = Histogram(
    "graphql_operation_rpcs", "RPCs of an operation", ("kind",), buckets=(0, 1, 2, 3, 4, 5, 6, 8, 10, 20, 50)
)
_JSON = "application/json"
_GRAPHQL = "application/graphql-response+json"
_EVENTS = "text/event-stream"
_SESSIONS = frozenset({"signUp", "signIn", "refreshSession", "signOut"})
_ALIVE = 15.0  # seconds between comments on a quiet stream


class BadRequest(Exception):
    """Not a GraphQL request: `status`, one clear line, and a reason where people are told too."""

    def __init__(self, status: int, message: str, reason: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = headers


@dataclass(frozen=True)
class Asked:
    """The parameters of one request."""

    query: str | None
    key: str | None
    operation_name: str | None
    variables: dict[str, Any]

    @staticmethod
    def of(body: Any) -> Asked:
        """The parameters in a parsed body. Raises BadRequest."""
        if isinstance(body, list):
            raise BadRequest(400, "Batches are not accepted.")
        if not isinstance(body, dict):
            raise BadRequest(400, "The body must be a JSON object.")
        query, name = body.get("query"), body.get("operationName")
        variables, extensions = body.get("variables"), body.get("extensions")
        key = body.get("documentId")
        for value, kind, label in (
            (query, str, "query"),
            (name, str, "operationName"),
            (variables, dict, "variables"),
            (extensions, dict, "extensions"),
            (key, str, "documentId"),
        ):
            if value is not None and not isinstance(value, kind):
                raise BadRequest(400, f"{label} is of the wrong kind.")
        persisted = (extensions or {}).get("persistedQuery")
        if key is None and isinstance(persisted, dict):
            key = str(persisted.get("sha256Hash", ""))
        if query is None and not key:
            raise BadRequest(400, "query or documentId is needed.")
        return Asked(query, (key or "").removeprefix("sha256:") or None, name or None, variables or {})


class GraphQL:
    """Runs operations for every transport."""

    def __init__(
        self,
        settings: GatewaySettings,
        services: Services,
        verifier: TokenVerifier,
        live: Live,
        documents: Documents,
        leaving: Leaving,
    ) -> None:
        self.settings = settings
        self.leaving = leaving
        self.services = services
        self.live = live
        self.crowd = Crowd(settings)
        self._verifier = verifier
        self._documents = documents
        self._pumps: set[asyncio.Task[None]] = set()

    # Who asks

    async def caller(self, authorization: str) -> tuple[Caller, str]:
        """Caller and token. Raises Unauthenticated for a bad header or token, so that nobody believes to be
        signed in who is not."""
        if not authorization:
            return ANONYMOUS, ""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("TOKEN_INVALID", "Authorization must be `Bearer` and an access token")
        return await self._verifier.verify(token), token

    async def session_ended(self, caller: Caller, token: str) -> DomainError:
        """Returns why the session of the token is over, once it is; never for a stranger."""
        with self.live.ended.watch(caller.session, caller.subject) as changed:
            while True:
                try:
                    if token:
                        await self._verifier.verify(token)
                except Unauthenticated as error:
                    return error
                except DomainError as error:  # the keys cannot be fetched: it is as good as it was
                    log.warning("a session was not looked at: %s", error)
                await changed.wait()
                changed.clear()

    def context(self, request: Any, caller: Caller, token: str, *, http: bool) -> Context:
        """The context of a request or socket."""
        headers = request.headers
        return Context(
            services=self.services,
            caller=caller,
            token=token,
            wanted_locale=locale_of(headers.get("accept-language", "")),
            client_address=request.client.host if request.client else "",
            user_agent=headers.get("user-agent", ""),
            public_url=self.public_url(request),
            session=Session(
                request.cookies.get(browser.cookie_name(self.settings), ""),
                request.cookies.get(browser.device_cookie_name(self.settings), "")[:100],
                possible=http,
            ),
            live=self.live,
        )

    def public_url(self, request: Any) -> str:
        """Where clients reach us."""
        if self.settings.public_url:
            return self.settings.public_url
        scheme = {"ws": "http", "wss": "https"}.get(request.url.scheme, request.url.scheme)
        return f"{scheme}://{request.headers.get('host', '')}"

    # Running

    def prepare(self, asked: Asked) -> tuple[Prepared, OperationDefinitionNode]:
        """The document and operation to run, within the limits. Raises Refused."""
        prepared = self._documents.prepare(asked.query, asked.key)
        operation = prepared.operation(asked.operation_name)
        self._documents.check_cost(prepared, operation, asked.variables)
        return prepared, operation

    async def run(
        self, asked: Asked, prepared: Prepared, operation: OperationDefinitionNode, context: Context
    ) -> dict[str, Any]:
        """The answer of a query or mutation, as it goes on the wire."""
        kind = operation.operation.value
        started = time.perf_counter()
        with tracer.start_as_current_span(f"graphql.{kind}"):
            result = await execute(schema(), prepared.shapes, operation, context, variables=asked.variables)
            answer: dict[str, Any] = {"data": result.data}
            if result.errors:
                locale = await context.locale()
                answer["errors"] = [formatted(error, locale) for error in result.errors]
                if result.refused:
                    del answer["data"]
        outcome = "errors" if result.errors else "ok"
        OPERATIONS.labels(kind, outcome).observe(time.perf_counter() - started)
        RPCS.labels(kind).observe(context.rpcs)
        return answer

    async def stream(
        self,
        asked: Asked,
        prepared: Prepared,
        operation: OperationDefinitionNode,
        context: Context,
    ) -> AsyncIterator[dict[str, Any]]:
        """The answers of a subscription. The last one has errors when it ends for a reason: the token
        expired, the session ended, or the caller may no longer see what is watched."""
        expires = expiry(context.token)
        try:
            name, source = self._source(asked, operation, context)
        except GraphQLError as error:
            yield {"errors": [formatted(error, await context.locale())]}
            return
        ended = asyncio.create_task(self.session_ended(context.caller, context.token))
        async with _cancelled(ended), aclosing(source):
            while True:
                try:
                    event = await _next(source, ended, expires)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    located = GraphQLError(str(error), original_error=error, path=[name])
                    yield {"errors": [formatted(located, await context.locale())]}
                    return
                now = context.again()
                result = await execute(
                    schema(), prepared.shapes, operation, now, variables=asked.variables, root=event
                )
                answer: dict[str, Any] = {"data": result.data}
                if result.errors:
                    locale = await context.locale()
                    answer["errors"] = [formatted(error, locale) for error in result.errors]
                yield answer

    def _source(self, asked: Asked, operation: OperationDefinitionNode, context: Context) -> tuple[str, Any]:
        """The response name and the source of the one root field that a valid subscription has."""
        variables = get_variable_values(schema(), operation.variable_definitions or (), asked.variables)
        if isinstance(variables, list):
            raise variables[0]
        root = cast(GraphQLObjectType, schema().subscription_type)
        node: Any = operation.selection_set.selections[0]
        field = root.fields.get(node.name.value) if hasattr(node, "name") else None
        if field is None:
            raise GraphQLError("A subscription must select its field directly.")
        arguments = get_argument_values(field, node, variables)
        return (node.alias or node.name).value, SOURCES[node.name.value](context, **arguments)

    # HTTP

    async def __call__(self, request: Request) -> Response:
        """Answers an HTTP request."""
        media = _accepted(request.headers.get("accept", ""))
        try:
            if media is None:
                raise BadRequest(
                    406, "Accept must allow application/json or application/graphql-response+json."
                )
            asked = await self._read(request)
        except BadRequest as error:
            extensions = {"reason": error.reason} if error.reason else None
            told = formatted(GraphQLError(str(error), extensions=extensions), _locale(request))
            return _response(error.status, {"errors": [told]}, media or _JSON, error.headers)
        except ClientDisconnect:
            return Response(status_code=400)
        with tracer.start_as_current_span(
            "POST /graphql" if request.method == "POST" else "GET /graphql",
            context=parent_from(request.headers.get("traceparent")),
            kind=trace.SpanKind.SERVER,
        ):
            return await self._answer(request, asked, media)

    async def _answer(self, request: Request, asked: Asked, media: str) -> Response:
        locale = locale_of(request.headers.get("accept-language", "")) or "vi"
        try:
            prepared, operation = self.prepare(asked)
        except Refused as refused:
            status = 200 if media == _JSON else 400
            return _response(
                status,
                {"errors": [formatted(error, locale) for error in refused.errors]},
                _JSON if media == _EVENTS else media,
            )
        try:
            caller, token = await self.caller(request.headers.get("authorization", ""))
        except DomainError as error:
            located = GraphQLError(error.message, original_error=error)
            unknown = isinstance(error, Unauthenticated)
            if not unknown or not _about_sessions(prepared, operation):
                return _response(
                    401 if unknown else 503,
                    {"errors": [formatted(located, locale)]},
                    _JSON if media == _EVENTS else media,
                    {"www-authenticate": 'Bearer realm="motcua", error="invalid_token"'} if unknown else {},
                )
            caller, token = ANONYMOUS, ""
        if request.method == "GET" and operation.operation is OperationType.MUTATION:
            body = {"errors": [{"message": "A mutation needs POST.", "extensions": {"code": "BAD_REQUEST"}}]}
            return _response(405, body, media, {"allow": "POST"})
        context = self.context(request, caller, token, http=media != _EVENTS)
        try:
            if caller.subject:
                self.crowd.ask(account=caller.subject)
            if media == _EVENTS:
                return self._events(asked, prepared, operation, context)
        except RateLimited as error:
            problem = formatted(GraphQLError(error.message, original_error=error), locale)
            after = {"retry-after": error.metadata["retry_after"]}
            return _response(429, {"errors": [problem]}, _JSON if media == _EVENTS else media, after)
        if operation.operation is OperationType.SUBSCRIPTION:
            body = {
                "errors": [
                    {
                        "message": "A subscription needs Accept: text/event-stream, or a WebSocket.",
                        "extensions": {"code": "BAD_REQUEST"},
                    }
                ]
            }
            return _response(400, body, media)
        answer = await self.run(asked, prepared, operation, context)
        response = _response(400 if "data" not in answer and media == _GRAPHQL else 200, answer, media)
        if context.session.set is not None:
            response.headers.append("set-cookie", browser.cookie(self.settings, *context.session.set))
        if device := context.session.known:
            name = browser.device_cookie_name(self.settings)
            told = browser.cookie(self.settings, device, browser.DEVICE_SECONDS, name)
            response.headers.append("set-cookie", told)
        return response

    async def _read(self, request: Request) -> Asked:
        if request.method == "GET":
            given: dict[str, Any] = dict(request.query_params)
            for name in ("variables", "extensions"):
                if given.get(name):
                    given[name] = _json(given[name])
                else:
                    given.pop(name, None)
            if len(request.url.query) > self.settings.max_body_bytes:
                raise BadRequest(414, "The address is too long.", "BODY_TOO_LARGE")
            return Asked.of(given)
        content_type = request.headers.get("content-type", "")
        kind, _, parameters = content_type.partition(";")
        if kind.strip().lower() != _JSON:
            # Also what keeps other sites out: a form cannot send this type without a preflight.
            raise BadRequest(415, "Content-Type must be application/json.")
        charset = parameters.partition("charset=")[2].strip(' "').lower()
        if charset not in ("", "utf-8", "utf8"):
            raise BadRequest(415, "The charset must be utf-8.")
        return Asked.of(_json(await bounded(request, self.settings.max_body_bytes)))

    def _events(
        self,
        asked: Asked,
        prepared: Prepared,
        operation: OperationDefinitionNode,
        context: Context,
    ) -> Response:
        release = self.crowd.take("stream", account=context.caller.subject, address=context.client_address)
        until = time.monotonic() + self.settings.stream_minutes * 60

        async def lines() -> AsyncIterator[bytes]:
            if operation.operation is not OperationType.SUBSCRIPTION:
                yield _event("next", await self.run(asked, prepared, operation, context))
                yield _event("complete", None)
                return
            answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(1)

            # A task of its own, so that what it watches is let go when it is cancelled.
            async def pump() -> None:
                stream = self.stream(asked, prepared, operation, context)
                try:
                    async with aclosing(stream):  # type: ignore[type-var]
                        async for answer in stream:
                            await answers.put(answer)
                except Exception:
                    log.exception("a stream failed")
                await answers.put(None)

            pumping = asyncio.create_task(pump())
            self._pumps.add(pumping)
            pumping.add_done_callback(self._pumps.discard)
            ending = asyncio.create_task(self.leaving.streams_end.wait())
            asking = asyncio.create_task(answers.get())
            try:
                yield b":\n\n"
                while True:
                    await asyncio.wait((asking, ending), timeout=_ALIVE, return_when=asyncio.FIRST_COMPLETED)
                    if asking.done():
                        answer = asking.result()
                        if answer is None:
                            break
                        yield _event("next", answer)
                        asking = asyncio.create_task(answers.get())
                    elif ending.done():
                        return  # without `complete`, so that the client comes back, to another of us
                    elif time.monotonic() >= until:
                        return  # likewise: nobody keeps a place for ever
                    else:
                        yield b":\n\n"
            finally:
                for task in (pumping, asking, ending):
                    task.cancel()
            yield _event("complete", None)

        return _Held(
            release,
            lines(),
            media_type=_EVENTS,
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )


async def _next(source: Any, ended: asyncio.Task[DomainError], expires: float) -> Any:
    """The next event of a stream. Raises what the source raises, what `ended` answers as soon as it does, and
    Unauthenticated (TOKEN_EXPIRED)."""

    async def step() -> Any:
        return await anext(source)

    stepping = asyncio.create_task(step())
    left = None if expires == float("inf") else max(0.0, expires - time.time())
    async with _cancelled(stepping):
        await asyncio.wait((stepping, ended), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise ended.result()
        if stepping.done():
            return stepping.result()
        raise Unauthenticated("TOKEN_EXPIRED", "the access token has expired")


@asynccontextmanager
async def _cancelled(task: asyncio.Task[Any]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


class _Held(StreamingResponse):
    """A stream that gives its place back however it ends, also when nobody waits for its first byte."""

    def __init__(self, release: Release, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


async def bounded(request: Request, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes. Raises BadRequest for a longer one as soon as that is
    known."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise BadRequest(413, f"The body is longer than {limit} bytes.", "BODY_TOO_LARGE")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BadRequest(413, f"The body is longer than {limit} bytes.", "BODY_TOO_LARGE")
        parts.append(part)
    return b"".join(parts)


def locale_of(accept_language: str) -> str:
    """`vi` or `en`, whichever the header prefers; empty when it asks for neither."""
    best, chosen = 0.0, ""
    for part in accept_language.split(",")[:20]:
        tag, _, quality = part.strip().partition(";")
        try:
            weight = float(quality.partition("=")[2] or 1) if quality else 1.0
        except ValueError:
            continue
        language = tag.strip().lower().partition("-")[0]
        if language in ("vi", "en") and weight > best:
            best, chosen = weight, language
    return chosen


def _about_sessions(prepared: Prepared, operation: OperationDefinitionNode) -> bool:
    """Whether the operation only opens, renews or ends sessions.

    A token that is no good does not stand in its way: clients attach the one they have to every request, and
    this is how they get a better one.
    """
    name = operation.name.value if operation.name else ""
    return operation.operation is OperationType.MUTATION and prepared.roots[name] <= _SESSIONS


def _locale(request: Request) -> str:
    return locale_of(request.headers.get("accept-language", "")) or "vi"


def _accepted(accept: str) -> str | None:
    """The media type to answer with, or None when Accept allows none of ours."""
    if not accept:
        return _JSON
    best, chosen = 0.0, None
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        kind = {"*/*": _JSON, "application/*": _JSON}.get(kind, kind)
        if kind in (_JSON, _GRAPHQL, _EVENTS) and weight > best:
            best, chosen = weight, kind
    return chosen


def _json(body: bytes | str) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest(400, "Not JSON.") from None


def _response(
    status: int, body: Mapping[str, Any], media: str, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        orjson.dumps(body),
        status,
        media_type=f"{media}; charset=utf-8",
        headers={"cache-control": "no-store", **(headers or {})},
    )


def _event(kind: str, data: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + (b"" if data is None else orjson.dumps(data)) + b"\n\n"


def expiry(token: str) -> float:
    """When a verified token expires, in Unix seconds; never for a stranger."""
    if not token:
        return float("inf")
    return float(jwt.decode(token, options={"verify_signature": False})["exp"])
