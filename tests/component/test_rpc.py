"""gRPC as every service speaks it, over a real socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kit import grpc_server, status
from kit.auth import Caller, TokenVerifier
from kit.errors import FieldViolation, Forbidden, InvalidInput, Unauthenticated, Unavailable
from kit.grpc_client import Channel, connect
from kit.grpc_server import Server, current_caller, current_token
from kit.settings import Settings
from kit.telemetry import parent_from, traceparent

Eventually = Callable[..., Awaitable[Any]]
NAME = "test.Echo"


def _ask() -> Any:
    """A message with a request id, as every write has."""
    file = descriptor_pb2.FileDescriptorProto(name="kit_test.proto", package="kit_test", syntax="proto3")
    message = file.message_type.add(name="Ask")
    for number, name in enumerate(("request_id", "text"), 1):
        message.field.add(name=name, number=number, type=9, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("kit_test.Ask"))


Ask = _ask()


class Echo:
    """Answers by what it is told; keeps what it saw."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.failures: list[Exception] = []
        self.cancelled = 0
        self.away = 0
        self.away_after: int | None = None
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()

    async def say(self, request: Any, context: Any) -> StringValue:
        self.asked.append(request)
        if self.failures:
            raise self.failures.pop(0)
        return StringValue(value=getattr(request, "text", None) or request.value)

    async def who(self, request: StringValue, context: Any) -> StringValue:
        return StringValue(value=f"{current_caller().subject}|{current_token()}")

    async def left(self, request: StringValue, context: Any) -> StringValue:
        return StringValue(value=f"{context.time_remaining() or 0:.0f}")

    async def wait(self, request: StringValue, context: Any) -> StringValue:
        self.started.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request

    async def letters(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        for letter in request.value:
            yield StringValue(value=letter)
        if self.failures:
            raise self.failures.pop(0)

    async def read(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        if self.away:
            self.away -= 1
            raise Unavailable("AWAY")
        for number, letter in enumerate(request.value):
            if number == self.away_after:
                raise Unavailable("AWAY")
            yield StringValue(value=letter)

    async def join(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        return StringValue(value="".join([request.value async for request in requests]))

    async def shout(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield StringValue(value=request.value.upper())

    async def parent(self, request: StringValue, context: Any) -> StringValue:
        return StringValue(value=traceparent())


def add(echo: Echo, server: Any) -> None:
    """What a generated `add_…_to_server` does."""

    def coders(kind: Any = StringValue) -> dict[str, Any]:
        return {"request_deserializer": kind.FromString, "response_serializer": StringValue.SerializeToString}

    handlers = {
        "GetSaid": grpc.unary_unary_rpc_method_handler(echo.say, **coders()),
        "Say": grpc.unary_unary_rpc_method_handler(echo.say, **coders()),
        "SayOnce": grpc.unary_unary_rpc_method_handler(echo.say, **coders(Ask)),
        "Who": grpc.unary_unary_rpc_method_handler(echo.who, **coders()),
        "Left": grpc.unary_unary_rpc_method_handler(echo.left, **coders()),
        "Wait": grpc.unary_unary_rpc_method_handler(echo.wait, **coders()),
        "Parent": grpc.unary_unary_rpc_method_handler(echo.parent, **coders()),
        "Letters": grpc.unary_stream_rpc_method_handler(echo.letters, **coders()),
        "ReadLetters": grpc.unary_stream_rpc_method_handler(echo.read, **coders()),
        "Join": grpc.stream_unary_rpc_method_handler(echo.join, **coders()),
        "Shout": grpc.stream_stream_rpc_method_handler(echo.shout, **coders()),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))


class Verifier(TokenVerifier):
    """Takes the token for the name."""

    def __init__(self) -> None:
        pass

    async def verify(self, token: str) -> Caller:
        if token == "forged":
            raise Unauthenticated("TOKEN_INVALID", "forged")
        return Caller(token, "citizen")


class Talk:
    """A server, a channel to it, and calls by name."""

    def __init__(self, echo: Echo, server: Server, channel: Channel) -> None:
        self.echo = echo
        self.server = server
        self.channel = channel

    def call(self, name: str, kind: str = "unary_unary", request: Any = StringValue) -> Any:
        make = getattr(self.channel, kind)
        return make(
            f"/{NAME}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=StringValue.FromString,
        )

    async def say(self, name: str, text: str = "x", **options: Any) -> str:
        return str((await self.call(name)(StringValue(value=text), **options)).value)


@asynccontextmanager
async def talking(bearer: Any = None, **settings: Any) -> AsyncIterator[Talk]:
    echo = Echo()
    server = Server(Settings(environment="test", grace=2, **settings), [(add, echo)], Verifier())
    await server.start()
    await server.ready(True)
    channel = connect(f"127.0.0.1:{server.port}", bearer=bearer)
    yield Talk(echo, server, channel)
    await channel.close()
    await server.stop()


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    async with talking() as made:
        yield made


async def failure(call: Awaitable[Any]) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


async def test_all_four_kinds_of_call_work(talk: Talk) -> None:
    async def words() -> AsyncIterator[StringValue]:
        for word in ("a", "b"):
            yield StringValue(value=word)

    assert await talk.say("Say", "bàn") == "bàn"
    letters = talk.call("Letters", "unary_stream")(StringValue(value="abc"))
    assert [reply.value async for reply in letters] == ["a", "b", "c"]
    assert (await talk.call("Join", "stream_unary")(words())).value == "ab"
    assert [reply.value async for reply in talk.call("Shout", "stream_stream")(words())] == ["A", "B"]


async def test_an_expected_failure_arrives_as_itself(talk: Talk) -> None:
    talk.echo.failures = [
        InvalidInput(violations=[FieldViolation("value", "TOO_SHORT", "more")]),
        Forbidden("NOT_YOURS", "of another", dossier="d1"),
    ]
    first = status.from_rpc(await failure(talk.say("Say")))
    assert isinstance(first, InvalidInput)
    assert first.violations == [FieldViolation("value", "TOO_SHORT", "more")]
    second = status.from_rpc(await failure(talk.say("Say")))
    assert isinstance(second, Forbidden)
    assert second.metadata == {"dossier": "d1"}


async def test_an_unexpected_failure_is_masked_and_the_log_has_its_id(
    talk: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    talk.echo.failures = [RuntimeError("password is hunter2")]
    with caplog.at_level(logging.ERROR):
        error = await failure(talk.say("Say"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in repr(error)
    error_id = error.details().rpartition(" ")[2]
    [record] = [record for record in caplog.records if error_id in record.getMessage()]
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])


async def test_a_stream_that_fails_half_way_gives_what_it_had_and_the_reason(talk: Talk) -> None:
    talk.echo.failures = [Forbidden("ENOUGH")]
    letters = talk.call("Letters", "unary_stream")(StringValue(value="ab"))
    assert [(await anext(letters)).value for _ in range(2)] == ["a", "b"]
    assert (await failure(anext(letters))).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_token_names_the_caller_and_a_bad_one_is_refused(talk: Talk) -> None:
    assert await talk.say("Who") == "|"
    assert await talk.say("Who", metadata=(("authorization", "Bearer an"),)) == "an|an"
    assert await talk.say("Who") == "|"
    for header in ("Bearer forged", "Basic abc", "Bearer "):
        error = await failure(talk.say("Who", metadata=(("authorization", header),)))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_service_brings_its_own_token_unless_it_passes_one_on() -> None:
    async def own() -> str:
        return "payment"

    async with talking(own) as talk:
        assert await talk.say("Who") == "payment|payment"
        assert await talk.say("Who", metadata=(("authorization", "Bearer an"),)) == "an|an"


async def test_every_call_has_a_deadline(talk: Talk, eventually: Eventually) -> None:
    assert 5 < float(await talk.say("Left")) <= 10
    error = await failure(talk.say("Wait", timeout=0.2))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: talk.echo.cancelled == 1)


async def test_a_client_without_a_deadline_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "DEADLINE", 0.2)
    async with talking() as talk, grpc.aio.insecure_channel(f"127.0.0.1:{talk.server.port}") as bare:
        call: Any = bare.unary_unary(f"/{NAME}/Wait")
        error = await failure(call(b""))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_request_too_large_is_refused() -> None:
    async with talking(grpc_max_message_bytes=2048) as talk:
        error = await failure(talk.say("Say", "x" * 4096))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert talk.echo.asked == []


async def test_a_read_is_tried_again_and_a_write_only_under_its_request_id(talk: Talk) -> None:
    away = [Unavailable("AWAY"), Unavailable("AWAY")]
    talk.echo.failures = list(away)
    assert await talk.say("GetSaid") == "x"
    assert len(talk.echo.asked) == 3

    talk.echo.failures, talk.echo.asked = list(away), []
    reply = await talk.call("SayOnce", request=Ask)(Ask(text="once"))
    assert reply.value == "once"
    assert len(talk.echo.asked) == 3
    [request_id] = {request.request_id for request in talk.echo.asked}
    assert request_id

    talk.echo.failures, talk.echo.asked = list(away), []
    error = await failure(talk.say("Say"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert len(talk.echo.asked) == 1


async def test_a_server_that_comes_back_costs_a_wait() -> None:
    async with talking() as talk:
        port = talk.server.port
        assert await talk.say("GetSaid") == "x"
        await talk.server.stop()
        call = asyncio.create_task(talk.say("GetSaid"))
        settings = Settings(environment="test", grpc_listen=f"127.0.0.1:{port}")
        again = Server(settings, [(add, talk.echo)], Verifier())
        await again.start()
        assert await call == "x"
        await again.stop()


async def test_a_busy_port_is_said() -> None:
    async with talking() as talk:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{talk.server.port}"):
            await Server(Settings(grpc_listen=f"127.0.0.1:{talk.server.port}"), []).start()


async def test_health_and_reflection_tell_what_is_served(talk: Talk) -> None:
    stub: Any = health_pb2_grpc.HealthStub(talk.channel)
    for name in ("", NAME):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await talk.server.ready(False)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=NAME))
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING

    async def asks() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    channel: Any = talk.channel
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    replies = stub.ServerReflectionInfo(asks())
    names = {service.name async for reply in replies for service in reply.list_services_response.service}
    assert names >= {NAME, "grpc.health.v1.Health"}


async def test_stopping_lets_a_running_call_finish(talk: Talk) -> None:
    call = asyncio.create_task(talk.say("Wait", "done"))
    await asyncio.wait_for(talk.echo.started.wait(), 5)
    stopping = asyncio.create_task(talk.server.stop())
    talk.echo.go_on.set()
    assert await call == "done"
    await stopping


async def test_a_call_is_one_trace_on_both_sides(talk: Talk) -> None:
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parent = parent_from("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    with trace.get_tracer("test").start_as_current_span("test", parent):
        seen = await talk.say("Parent")
    assert seen.startswith("00-0af7651916cd43dd8448eb211c80319c-")
    spans = {span.kind: span for span in exporter.get_finished_spans() if span.name == f"/{NAME}/Parent"}
    server, client = spans[trace.SpanKind.SERVER], spans[trace.SpanKind.CLIENT]
    assert server.parent is not None
    assert client.context is not None
    assert server.parent.span_id == client.context.span_id
