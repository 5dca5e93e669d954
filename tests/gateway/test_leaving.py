"""A gateway that is told to stop: a process of its own, before real clients."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from dev.options import free_port

Eventually = Callable[..., Awaitable[Any]]
Starting = Callable[..., Any]
CHANGED = "subscription ($id: ID!) { dossierChanged(id: $id) { id } }"
ID = b64encode(b"Dossier:dossier-1").decode()
PATCH = (
    "PATCH /files/upload-1 HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n"
    "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"
    "Content-Length: {length}\r\n\r\n"
)


@dataclass
class Running:
    """A gateway's process."""

    process: asyncio.subprocess.Process
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def status(self, path: str) -> int:
        """What a probe gets; 0 when nobody listens."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return 0
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".encode())
            return int((await reader.readline()).split()[1])
        except (OSError, IndexError):
            return 0
        finally:
            writer.close()

    def leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 60)


@pytest.fixture
def running(target: str, nats_url: str, eventually: Eventually) -> Starting:
    """`async with running(DRAIN="1") as gateway`, in front of the fakes."""

    @asynccontextmanager
    async def start(**settings: str) -> AsyncIterator[Running]:
        port = free_port()
        services = ("IDENTITY", "CATALOG", "DOSSIER", "PAYMENT", "NOTIFY")
        environment = {f"{name}_TARGET": target for name in services} | {
            "ENVIRONMENT": "test",
            "NATS_URL": nats_url,
            "GATEWAY_PORT": str(port),
            "GRACE": "30",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", env=os.environ | environment | settings
        )
        gateway = Running(process, port)

        async def ready() -> bool:
            return await gateway.status("/readyz") == 200

        try:
            await eventually(ready, within=120, every=0.2)
            yield gateway
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    return start


async def not_ready(gateway: Running) -> bool:
    return await gateway.status("/readyz") == 503


async def gone(gateway: Running) -> bool:
    return await gateway.status("/readyz") == 0


async def test_nobody_notices_that_one_of_two_is_stopped(
    running: Starting, fakes: Any, issue: Any, eventually: Eventually
) -> None:
    async with running(DRAIN="2") as one, running(DRAIN="2") as two:
        rotation = [one, two]
        answered: Counter[int] = Counter()
        failed: list[str] = []
        ending = False
        headers = {"authorization": f"Bearer {issue()}"}

        async def client(number: int) -> None:
            async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=30) as http:
                while not ending:
                    number += 1
                    gateway = rotation[number % len(rotation)]
                    try:
                        answer = await http.post(
                            f"{gateway.url}/graphql", json={"query": "{ viewer { name } }"}
                        )
                        if answer.json() != {"data": {"viewer": {"name": "Nguyễn Thị An"}}}:
                            failed.append(answer.text)
                    except httpx.HTTPError as error:
                        failed.append(repr(error))
                    answered[gateway.port] += 1

        clients = [asyncio.create_task(client(number)) for number in range(8)]
        await eventually(lambda: min(answered[one.port], answered[two.port]) > 50, within=60)
        one.leave()
        await eventually(lambda: not_ready(one), every=0.1)
        rotation.remove(one)  # as whoever asks for readiness does
        assert await one.ended() == 0
        before = answered[two.port]
        await eventually(lambda: answered[two.port] > before + 50, within=60)
        ending = True
        await asyncio.gather(*clients)
        assert failed == []


async def test_while_it_leaves_it_serves_and_sends_clients_elsewhere(
    running: Starting, fakes: Any, eventually: Eventually
) -> None:
    async with (
        running(DRAIN="10") as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http,
    ):
        asked = {"query": "{ __typename }"}
        assert "connection" not in (await http.post("/graphql", json=asked)).headers
        gateway.leave()
        await eventually(lambda: not_ready(gateway))
        assert await gateway.status("/livez") == 200
        answer = await http.post("/graphql", json=asked)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")


async def test_a_running_request_is_answered(
    running: Starting, fakes: Any, issue: Any, eventually: Eventually
) -> None:
    async with running() as gateway, httpx.AsyncClient(trust_env=False, timeout=60) as http:
        held = fakes.hold["GetAccount"] = asyncio.Event()
        asking = asyncio.create_task(
            http.post(
                f"{gateway.url}/graphql",
                json={"query": "{ viewer { name } }"},
                headers={"authorization": f"Bearer {issue()}"},
            )
        )
        await eventually(lambda: fakes.calls["GetAccount"])
        gateway.leave()
        await eventually(lambda: gone(gateway))
        held.set()
        answer = await asking
        assert answer.json() == {"data": {"viewer": {"name": "Nguyễn Thị An"}}}
        assert await gateway.ended() == 0


async def test_an_upload_that_runs_is_finished(
    running: Starting, fakes: Any, issue: Any, eventually: Eventually
) -> None:
    fakes.upload_size = 2000
    async with running() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(PATCH.format(token=issue(), length=2000).encode() + b"a" * 1000)
        await eventually(lambda: fakes.calls["AppendUpload"])
        gateway.leave()
        await eventually(lambda: gone(gateway))
        writer.write(b"b" * 1000)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        assert head.startswith(b"HTTP/1.1 204")
        assert bytes(fakes.upload) == b"a" * 1000 + b"b" * 1000
        writer.close()
        assert await gateway.ended() == 0


@asynccontextmanager
async def socket(gateway: Running, bearer: str) -> AsyncIterator[ClientConnection]:
    url = f"ws://127.0.0.1:{gateway.port}/graphql"
    async with connect(url, subprotocols=[Subprotocol("graphql-transport-ws")]) as opened:
        payload = {"authorization": f"Bearer {bearer}"}
        await opened.send(json.dumps({"type": "connection_init", "payload": payload}))
        assert json.loads(await opened.recv())["type"] == "connection_ack"
        yield opened


async def subscribe(opened: ClientConnection, number: str, query: str, **variables: Any) -> None:
    payload = {"query": query, "variables": variables}
    await opened.send(json.dumps({"id": number, "type": "subscribe", "payload": payload}))


async def test_a_socket_is_closed_so_that_its_client_comes_back_and_not_before_its_query_is_answered(
    running: Starting, fakes: Any, issue: Any, eventually: Eventually
) -> None:
    async with running() as gateway, socket(gateway, issue()) as quiet, socket(gateway, issue()) as busy:
        await subscribe(quiet, "1", CHANGED, id=ID)
        assert json.loads(await quiet.recv())["type"] == "next"
        held = fakes.hold["GetAccount"] = asyncio.Event()
        await subscribe(busy, "2", "{ viewer { name } }")
        await eventually(lambda: fakes.calls["GetAccount"])
        gateway.leave()
        await asyncio.wait_for(quiet.wait_closed(), 30)
        assert quiet.close_code == 1001
        held.set()
        answer = json.loads(await busy.recv())
        assert answer["payload"] == {"data": {"viewer": {"name": "Nguyễn Thị An"}}}
        await asyncio.wait_for(busy.wait_closed(), 30)
        assert busy.close_code == 1001
        assert await gateway.ended() == 0


async def test_an_event_stream_ends_without_being_complete(running: Starting, fakes: Any, issue: Any) -> None:
    async with (
        running() as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as http,
        http.stream(
            "POST",
            "/graphql",
            json={"query": CHANGED, "variables": {"id": ID}},
            headers={"accept": "text/event-stream", "authorization": f"Bearer {issue()}"},
        ) as response,
    ):
        kinds = []
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
                gateway.leave()
        assert kinds == ["next"]
        assert await gateway.ended() == 0


async def test_a_second_signal_ends_it_at_once(running: Starting, fakes: Any, eventually: Eventually) -> None:
    async with running(DRAIN="600") as gateway:
        gateway.leave()
        await eventually(lambda: not_ready(gateway))
        gateway.leave()
        assert await gateway.ended() == 128 + signal.SIGTERM
