"""Clients that wait instead of asking, against the gateway as a process of its own, over real sockets."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from dev.options import free_port

QUICK = {"HEADER_SECONDS": "1", "SPEED_WINDOW": "1", "LEAST_SPEED": "1000"}
HEAD = "Host: gateway\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
WITHIN = 8.0  # seconds after which a client that the gateway keeps counts as kept for ever
GRAPHQL_WS = [Subprotocol("graphql-transport-ws")]


class Edge:
    """A gateway's process."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def open(self, text: str, *, source: str = "127.0.0.1") -> Any:
        """A connection on which this has been sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))
        writer.write(text.encode())
        await writer.drain()
        return reader, writer

    async def serves(self, *, source: str = "127.0.0.1") -> bool:
        """Whether somebody who behaves is served at once."""
        transport = httpx.AsyncHTTPTransport(local_address=source)
        async with httpx.AsyncClient(transport=transport, base_url=self.url, timeout=5) as http:
            return (await http.get("/readyz")).status_code == 200


@pytest.fixture
def edge(target: str, nats_url: str, eventually: Any) -> Any:
    """`async with edge(HEADER_SECONDS="1") as gateway`, in front of the fakes."""

    @asynccontextmanager
    async def start(**settings: str) -> AsyncIterator[Edge]:
        port = free_port()
        services = ("IDENTITY", "CATALOG", "DOSSIER", "PAYMENT", "NOTIFY")
        environment = {f"{name}_TARGET": target for name in services} | {
            "ENVIRONMENT": "test",
            "NATS_URL": nats_url,
            "GATEWAY_PORT": str(port),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", env=os.environ | environment | settings
        )
        found = Edge(port)

        async def ready() -> bool:
            with suppress(OSError, httpx.HTTPError):
                return await found.serves()
            return False

        try:
            await eventually(ready, within=120, every=0.2)
            yield found
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    return start


async def ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, drip: bytes = b"") -> str:
    """The first line that the gateway says before it ends the connection; `kept` when it does not."""
    said = b""
    until = time.monotonic() + WITHIN
    while time.monotonic() < until:
        try:
            part = await asyncio.wait_for(reader.read(65536), 0.2)
            if not part:
                return said.split(b"\r\n")[0].decode()
            said += part
        except TimeoutError:
            with suppress(OSError):
                writer.write(drip)
                await writer.drain()
        except OSError:
            return said.split(b"\r\n")[0].decode()
    return "kept"


@pytest.mark.proof("9.10")
async def test_headers_that_never_end_are_not_waited_for(edge: Any) -> None:
    async with edge(**QUICK) as gateway:
        clients = [await gateway.open("POST /graphql HTTP/1.1\r\nHost: gateway\r\n") for _ in range(20)]
        said = await asyncio.gather(*(ended(*client, drip=b"X-A: b\r\n") for client in clients))
        assert set(said) == {"HTTP/1.1 408 Request Timeout"}
        silent = await gateway.open("")
        assert await ended(*silent) != "kept"
        assert await gateway.serves()


@pytest.mark.proof("9.10")
@pytest.mark.parametrize(
    ("head", "drip"),
    [
        ("Content-Length: 100000\r\n\r\n{", b"a"),
        ("Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n1;", b"ext"),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: a\r\n"),
    ],
    ids=["slow", "chunked", "extension", "trailers"],
)
async def test_a_body_that_does_not_come_is_not_waited_for(edge: Any, head: str, drip: bytes) -> None:
    async with edge(**QUICK) as gateway:
        client = await gateway.open(f"POST /graphql HTTP/1.1\r\n{HEAD}{head}")
        assert await ended(*client, drip=drip) != "kept"
        assert await gateway.serves()


@pytest.mark.proof("9.10")
async def test_an_endless_body_ends_with_its_answer(edge: Any) -> None:
    async with edge(**QUICK) as gateway:
        head = f"POST /graphql HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n"
        reader, writer = await gateway.open(head)
        chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
        assert "413" in await ended(reader, writer, drip=chunk * 8)


async def test_a_slow_body_that_moves_is_taken(edge: Any) -> None:
    async with edge(**QUICK) as gateway:
        body = b'{"query": "{ __typename }"' + b" " * 6000 + b"}"
        reader, writer = await gateway.open(
            f"POST /graphql HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n"
        )
        for at in range(0, len(body), 500):  # 2,500 bytes a second
            writer.write(body[at : at + 500])
            await writer.drain()
            await asyncio.sleep(0.2)
        assert b"200" in await asyncio.wait_for(reader.readline(), 5)


async def test_an_upload_that_stalls_is_cut_off_and_resumes(
    edge: Any, fakes: Any, issue: Any, eventually: Any
) -> None:
    fakes.upload_size = 200_000
    head = (
        "PATCH /files/upload-1 HTTP/1.1\r\nHost: gateway\r\nTus-Resumable: 1.0.0\r\n"
        f"Authorization: Bearer {issue()}\r\nContent-Type: application/offset+octet-stream\r\n"
    )
    async with edge(**QUICK) as gateway:
        stalled = await gateway.open(
            f"{head}Upload-Offset: 0\r\nContent-Length: 200000\r\n\r\n" + "a" * 50_000
        )
        assert await ended(*stalled) != "kept"
        assert await eventually(lambda: len(fakes.upload) == 50_000)
        rest = f"{head}Upload-Offset: 50000\r\nContent-Length: 150000\r\n\r\n" + "b" * 150_000
        reader, _ = await gateway.open(rest)
        assert b"204" in await asyncio.wait_for(reader.readline(), 5)
        assert len(fakes.upload) == 200_000


@pytest.mark.proof("9.10")
async def test_a_reader_that_stops_reading_is_cut_off(edge: Any, fakes: Any) -> None:
    fakes.document = b"a" * 64 * 2**20
    async with edge(**QUICK) as gateway:
        reader, writer = await gateway.open(
            "GET /files/d/token-1 HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
        )
        assert b"200" in await reader.readline()
        writer.transport.pause_reading()
        await asyncio.sleep(WITHIN / 2)
        writer.transport.resume_reading()
        got = 0
        with suppress(OSError):
            while part := await asyncio.wait_for(reader.read(2**20), 5):
                got += len(part)
        assert got < len(fakes.document)
        assert await gateway.serves()


@pytest.mark.proof("9.10")
async def test_five_hundred_sockets_of_one_address_leave_room_for_another(edge: Any) -> None:
    async with edge(CONNECTIONS_PER_ADDRESS="100", HEADER_SECONDS="60") as gateway:
        clients = [
            await gateway.open("POST /graphql HTTP/1.1\r\nHost: gateway\r\n", source="127.0.0.2")
            for _ in range(500)
        ]
        looks = await asyncio.gather(*(_turned_away(reader) for reader, _ in clients))
        assert sum(looks) == 400
        assert await gateway.serves(source="127.0.0.3")
        for _, writer in clients:
            writer.close()


async def _turned_away(reader: asyncio.StreamReader) -> bool:
    """Whether the gateway ended this connection, with or without the client reading why."""
    try:
        await asyncio.wait_for(reader.readline(), 3)
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.proof("9.10")
@pytest.mark.parametrize(
    "request_text",
    [
        "GET /readyz HTTP/1.1\r\nHost: gateway\r\n" + "X-A: b\r\n" * 200 + "\r\n",
        "GET /readyz HTTP/1.1\r\nHost: gateway\r\nX-A: " + "b" * 70_000 + "\r\n\r\n",
        "GET /readyz?" + "a" * 70_000 + " HTTP/1.1\r\nHost: gateway\r\n\r\n",
        "GET /readyz HTTP/1.1\r\nHost: gateway\r\nHost: other\r\n\r\n",
        "GET /readyz HTTP/1.1\r\n\r\n",
    ],
    ids=["many headers", "a huge header", "a long address", "two hosts", "no host"],
)
async def test_headers_have_bounds(edge: Any, request_text: str) -> None:
    async with edge() as gateway:
        line = (await ended(*await gateway.open(request_text))).split()
        assert line[1:2] in (["431"], ["400"])


@pytest.mark.parametrize(
    "request_text",
    [
        f"POST /graphql HTTP/1.1\r\n{HEAD}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"POST /graphql HTTP/1.1\r\n{HEAD}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        f"POST /graphql HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        f"POST /graphql HTTP/1.1\r\n{HEAD}Content-Length: +4\r\n\r\nabcd",
        f"POST /graphql HTTP/1.1\r\n{HEAD}Content-Length : 4\r\n\r\nabcd",
    ],
)
async def test_a_length_that_can_be_read_in_two_ways_is_refused(edge: Any, request_text: str) -> None:
    async with edge(**QUICK) as gateway:
        assert (await ended(*await gateway.open(request_text))).split()[1:2] == ["400"]


async def test_a_trailer_does_not_pass_for_a_header(edge: Any, fakes: Any, issue: Any) -> None:
    body = '{"query": "{ viewer { account { id } } }"}'
    async with edge() as gateway:
        chunked = f"{len(body):x}\r\n{body}\r\n0\r\nAuthorization: Bearer {issue()}\r\n\r\n"
        close = "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        reader, _ = await gateway.open(f"POST /graphql HTTP/1.1\r\n{HEAD}{close}{chunked}")
        await asyncio.wait_for(reader.read(), 5)
        assert not any("authorization" in seen for seen in fakes.metadata.values())


async def test_requests_one_after_the_other_share_a_connection(edge: Any) -> None:
    one = "GET /readyz HTTP/1.1\r\nHost: gateway\r\n\r\n"
    async with edge(**QUICK) as gateway:
        reader, writer = await gateway.open(one * 3)
        for _ in range(3):
            await asyncio.wait_for(reader.readuntil(b"ready"), 5)
        await asyncio.sleep(1.5)  # longer than headers may take: an idle connection is not one that begins
        writer.write(one.encode())
        await asyncio.wait_for(reader.readuntil(b"ready"), 5)


async def init(socket: Any, bearer: str = "") -> None:
    payload = f', "payload": {{"authorization": "Bearer {bearer}"}}' if bearer else ""
    await socket.send('{"type": "connection_init"' + payload + "}")


async def code_of(socket: Any) -> int:
    """With which code the gateway closes the socket; 0 when it stays open."""
    try:
        async with asyncio.timeout(WITHIN):
            while True:
                await socket.recv()
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006
    except TimeoutError:
        return 0


def socket_to(gateway: Edge, **how: Any) -> Any:
    url = gateway.url.replace("http", "ws") + "/graphql"
    return connect(url, subprotocols=GRAPHQL_WS, **how)


@pytest.mark.proof("9.10")
async def test_a_socket_ends_after_its_time_and_says_come_again(edge: Any) -> None:
    async with edge(STREAM_MINUTES="0.02") as gateway, socket_to(gateway) as socket:
        await init(socket)
        assert await code_of(socket) == 1001


@pytest.mark.proof("9.10")
async def test_a_flood_of_messages_ends_a_socket(edge: Any) -> None:
    async with edge() as gateway, socket_to(gateway) as socket:
        await init(socket)
        with suppress(ConnectionClosed):
            for _ in range(500):
                await socket.send('{"type": "ping"}')
        assert await code_of(socket) == 4429


@pytest.mark.proof("9.10")
async def test_an_account_and_an_address_have_so_many_sockets(edge: Any, issue: Callable[..., str]) -> None:
    async with edge(STREAMS_PER_ACCOUNT="2", STREAMS_PER_ADDRESS="5") as gateway:
        sockets = [await socket_to(gateway) for _ in range(3)]
        for socket in sockets:
            await init(socket, issue())
        codes = await asyncio.gather(*(asyncio.wait_for(_first(socket), 5) for socket in sockets))
        assert sorted(codes) == ["", "", "1013"]
        more = [await socket_to(gateway) for _ in range(3)]
        refused = 0
        try:
            more.append(await socket_to(gateway))
        except InvalidStatus as error:
            refused = error.response.status_code
        assert refused == 429
        for socket in [*sockets, *more]:
            await socket.close()


async def _first(socket: Any) -> str:
    try:
        await socket.recv()
    except ConnectionClosed as closed:
        return str(closed.rcvd.code if closed.rcvd else 1006)
    return ""


@pytest.mark.proof("9.10")
async def test_requests_of_an_account_and_an_address_are_counted(edge: Any, issue: Any) -> None:
    async with edge(REQUESTS_PER_ACCOUNT="5", REQUESTS_PER_ADDRESS="40") as gateway:
        async with httpx.AsyncClient(base_url=gateway.url) as http:
            headers = {"authorization": f"Bearer {issue()}"}
            ask: dict[str, Any] = {"json": {"query": "{ __typename }"}}
            mine = [(await http.post("/graphql", headers=headers, **ask)).status_code for _ in range(7)]
            assert mine == [200] * 5 + [429] * 2
            answers = [await http.post("/graphql", **ask) for _ in range(60)]
            late = answers[-1]
            assert (late.status_code, late.json()["errors"][0]["extensions"]["code"]) == (429, "RATE_LIMITED")
            assert int(late.headers["retry-after"]) >= 1
        assert await gateway.serves(), "a probe is never refused"
