"""A client of several replicas: balanced, and not hurt by replicas that leave, are replaced or grow old."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from kit.grpc_client import Channel, connect
from kit.grpc_server import Server
from kit.settings import Settings
from tests.component.test_rpc import NAME, Ask, Echo, add

Eventually = Callable[..., Awaitable[Any]]


class Names(asyncio.DatagramProtocol):
    """A name server that knows one name: whatever is asked is at `addresses`."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        end = data.index(b"\0", 12) + 5  # of the one question
        wants_ipv4 = data[end - 4 : end - 2] == b"\0\1"
        found = self.addresses if wants_ipv4 else []
        head = data[:2] + b"\x81\x80\0\1" + len(found).to_bytes(2, "big") + b"\0\0\0\0"
        records = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) for address in found)
        self._transport.sendto(head + data[12:end] + records, addr)


@asynccontextmanager
async def names() -> AsyncIterator[tuple[Names, int]]:
    """A name server and its port."""
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        Names, local_addr=("127.0.0.1", 0)
    )
    yield protocol, transport.get_extra_info("sockname")[1]
    transport.close()


async def replica(listen: str = "127.0.0.1:0", **settings: Any) -> tuple[Server, Echo]:
    echo = Echo()
    server = Server(Settings(environment="test", grpc_listen=listen, **settings), [(add, echo)])
    await server.start()
    return server, echo


def method(channel: Channel, name: str, request: Any = StringValue) -> Any:
    return channel.unary_unary(
        f"/{NAME}/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=StringValue.FromString,
    )


class Load:
    """Calls without a pause, reads and writes, by many at once."""

    def __init__(self, channel: Channel, tasks: int = 16) -> None:
        self.done = 0
        self.failed: Counter[str] = Counter()
        self._ending = False
        self._read, self._write = method(channel, "GetSaid"), method(channel, "SayOnce", Ask)
        self._running = [asyncio.create_task(self._call(number)) for number in range(tasks)]

    async def _call(self, number: int) -> None:
        while not self._ending:
            try:
                if number % 2:
                    await self._read(StringValue(value="x"))
                else:
                    await self._write(Ask(text="x"))
                self.done += 1
            except grpc.aio.AioRpcError as error:
                self.failed[f"{error.code().name}: {error.details()}"] += 1

    async def end(self) -> None:
        self._ending = True
        await asyncio.gather(*self._running)


async def test_calls_go_to_all_replicas() -> None:
    (one, first), (two, second) = await replica(), await replica()
    async with connect(f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}") as channel:
        say = method(channel, "Say")
        await channel.channel_ready()
        while not (first.asked and second.asked):
            await say(StringValue(value="x"))
        before = len(first.asked), len(second.asked)
        for _ in range(20):
            await say(StringValue(value="x"))
        assert (len(first.asked) - before[0], len(second.asked) - before[1]) == (10, 10)
    await one.stop()
    await two.stop()


async def test_no_call_fails_while_connections_grow_old_and_replicas_are_restarted(
    eventually: Eventually,
) -> None:
    servers = [(await replica(grpc_max_connection_age=1.0))[0] for _ in range(2)]
    ports = [server.port for server in servers]
    async with connect("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)) as channel:
        load = Load(channel)
        for round in range(6):
            which = round % 2
            done = load.done
            await eventually(lambda done=done: load.done > done + 200, within=60)
            await servers[which].stop()
            done = load.done
            await eventually(lambda done=done: load.done > done + 100, within=60)
            servers[which], echo = await replica(f"127.0.0.1:{ports[which]}", grpc_max_connection_age=1.0)
            await eventually(lambda echo=echo: echo.asked, within=60)
        await load.end()
        assert load.failed == {}
    for server in servers:
        await server.stop()


async def test_when_all_replicas_are_replaced_the_new_ones_are_found(eventually: Eventually) -> None:
    server, _ = await replica("127.0.0.2:0")
    async with names() as (known, port):
        known.addresses = ["127.0.0.2"]
        async with connect(f"dns://127.0.0.1:{port}/replicas:{server.port}") as channel:
            load = Load(channel)
            await eventually(lambda: load.done > 100, within=60)
            await server.stop()
            known.addresses = ["127.0.0.3", "127.0.0.4"]
            new = [await replica(f"{address}:{server.port}") for address in known.addresses]
            await eventually(lambda: all(echo.asked for _, echo in new), within=60)
            await load.end()
            assert load.failed == {}
        for other, _ in new:
            await other.stop()


async def test_a_stream_that_has_not_begun_is_tried_again_and_one_that_has_is_not() -> None:
    server, echo = await replica()
    async with connect(f"127.0.0.1:{server.port}") as channel:
        read = channel.unary_stream(
            f"/{NAME}/ReadLetters",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        echo.away = 2
        assert [reply.value async for reply in read(StringValue(value="ab"))] == ["a", "b"]
        echo.away_after = 1
        replies = read(StringValue(value="ab"))
        assert (await anext(replies)).value == "a"
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(replies)
    await server.stop()


async def test_stopping_does_not_wait_for_the_age_that_long_uploads_are_allowed() -> None:
    server, echo = await replica(grace=0.2)
    async with connect(f"127.0.0.1:{server.port}", timeout=60) as channel:
        waiting = asyncio.create_task(method(channel, "Wait")(StringValue(value="x")))
        await asyncio.wait_for(echo.started.wait(), 10)
        await asyncio.wait_for(server.stop(), 10)
        with pytest.raises(grpc.aio.AioRpcError):
            await waiting
