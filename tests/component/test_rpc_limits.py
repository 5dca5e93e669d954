"""What one connection may ask of a gRPC server: metadata of some kilobytes, and so many calls at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from kit.grpc_server import Server
from kit.settings import Settings

NAME = "test.Limits"


class Waiting:
    """Keeps every call until it is let go."""

    def __init__(self) -> None:
        self.now = self.most = self.metadata = 0
        self.full, self.go_on = asyncio.Event(), asyncio.Event()

    async def say(self, request: StringValue, context: Any) -> StringValue:
        self.metadata = max(self.metadata, *(len(value) for _, value in context.invocation_metadata()))
        return request

    async def wait(self, request: StringValue, context: Any) -> StringValue:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == 10:
            self.full.set()
        try:
            await self.go_on.wait()
        finally:
            self.now -= 1
        return request


def add(servicer: Waiting, server: Any) -> None:
    unary = grpc.unary_unary_rpc_method_handler
    read, write = StringValue.FromString, StringValue.SerializeToString
    handlers = {
        name: unary(getattr(servicer, name), request_deserializer=read, response_serializer=write)
        for name in ("say", "wait")
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))


@pytest.fixture
async def waiting() -> AsyncIterator[tuple[Waiting, grpc.aio.Channel]]:
    """A server that takes ten calls at once, and one connection to it, whose client has no limits."""
    servicer = Waiting()
    server = Server(Settings(environment="test", grace=2, grpc_max_streams=10), [(add, servicer)])
    await server.start()
    options = [("grpc.max_metadata_size", 2**20), ("grpc.absolute_max_metadata_size", 2**20)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        yield servicer, channel
        servicer.go_on.set()
    await server.stop()


def method(channel: grpc.aio.Channel, name: str) -> Any:
    return channel.unary_unary(
        f"/{NAME}/{name}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )


async def test_metadata_has_a_size_and_the_connection_outlives_its_refusal(
    waiting: tuple[Waiting, grpc.aio.Channel],
) -> None:
    servicer, channel = waiting
    say = method(channel, "say")
    await say(StringValue(value="a"), metadata=[("x", "a" * 8 * 1024)], timeout=20)  # a large token
    assert servicer.metadata == 8 * 1024
    for size in (64, 500):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(StringValue(value="a"), metadata=[("x", "a" * size * 1024)], timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert servicer.metadata == 8 * 1024, "none of it has reached the service"
    assert (await say(StringValue(value="b"), timeout=20)).value == "b"


async def test_of_the_calls_on_one_connection_so_many_are_under_way_and_the_others_wait(
    waiting: tuple[Waiting, grpc.aio.Channel],
) -> None:
    """Where a place becomes free and is taken in the same moment, gRPC may refuse the call that takes it;
    the service has not seen it then, and our clients try it again."""
    servicer, channel = waiting
    wait = method(channel, "wait")
    await method(channel, "say")(StringValue(), metadata=[("x", "a")], timeout=20)  # it knows the limit now
    calls = [wait(StringValue(value=str(number)), timeout=30) for number in range(35)]
    answers = asyncio.gather(*calls, return_exceptions=True)
    await asyncio.wait_for(servicer.full.wait(), 20)
    late = wait(StringValue(value="late"), timeout=0.5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # it had no turn while the ten were kept
        await late
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert servicer.now == 10
    servicer.go_on.set()
    refused = [answer for answer in await answers if isinstance(answer, BaseException)]
    assert {error.code() for error in refused if isinstance(error, grpc.aio.AioRpcError)} <= {
        grpc.StatusCode.UNAVAILABLE
    }
    assert len(calls) - len(refused) >= 10
    assert servicer.most == 10
