"""A whole service: what it does at start, at the end, and between two of its kind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import trace
from pymongo.errors import OperationFailure

from kit import mongo, telemetry
from kit.consumer import Event, Subscription
from kit.grpc_client import connect
from kit.ids import uuid7
from kit.mongo import Store
from kit.service import CannotStart, Service, main
from kit.settings import Settings
from kit.telemetry import parent_from, traceparent
from tests.conftest import prepare_for

Eventually = Callable[..., Awaitable[Any]]


@dataclass
class Bell:
    id: str
    rung: int = 0
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def ring(self) -> None:
        self.rung += 1
        self.events.append(str(self.rung))


def settings(mongo_url: str, nats_url: str, **more: Any) -> Settings:
    return Settings(environment="test", mongodb_url=mongo_url, nats_url=nats_url, grace=1, **more)


def bells(mongo_url: str, context: str, announce: bool = True) -> Store[Bell]:
    return Store(
        mongo.connect(mongo_url, f"test_{context}"),
        "bells",
        Bell,
        announce=(lambda bell, event: StringValue(value=event)) if announce else None,
        context=context if announce else "",
    )


async def health(port: int) -> int:
    async with connect(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest())).status)


async def test_an_event_of_one_service_changes_another_once_and_in_the_same_trace(
    mongo_url: str, nats_url: str, eventually: Eventually
) -> None:
    context = f"tower{uuid7()[-12:]}"
    here, there = bells(mongo_url, context), bells(mongo_url, f"{context}2", announce=False)
    traces: list[str] = []

    async def echo(event: Event) -> None:
        traces.append(traceparent())
        for _ in range(2):  # a second delivery of the same event
            await there.change("echo", lambda bell: setattr(bell, "rung", bell.rung + 1), handled=event.id)

    conf = settings(mongo_url, nats_url)
    one = Service("one", conf, stores=[here])
    heard = Subscription(f"two-{context}", context, {StringValue: echo})
    two = Service("two", conf, stores=[there], subscriptions=[heard])
    await prepare_for(nats_url, [context], [heard])
    await one.start()
    await two.start()
    assert await health(one.port) == health_pb2.HealthCheckResponse.SERVING
    await there.add(Bell("echo"))
    await here.add(Bell("bell"))
    parent = parent_from("00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    with trace.get_tracer("test").start_as_current_span("ring", parent):
        for _ in range(3):
            await here.change("bell", Bell.ring)

    async def echoed() -> bool:
        return (await there.get("echo")).rung == 3

    await eventually(echoed)
    assert {parent.split("-")[1] for parent in traces} == {"1af7651916cd43dd8448eb211c80319c"}
    await two.stop()
    await one.stop()


async def test_without_nats_a_service_serves_and_announces_later(
    mongo_url: str, nats_server: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kit.service._MESSAGING", 0.3)
    context = f"tower{uuid7()[-12:]}"
    store = bells(mongo_url, context)
    nats_server.stop()
    service = Service("one", settings(mongo_url, nats_server.url), stores=[store])
    await service.start()
    await store.add(Bell("bell"))
    await store.change("bell", Bell.ring)
    assert await health(service.port) == health_pb2.HealthCheckResponse.SERVING
    nats_server.start()
    await prepare_for(nats_server.url, [context])

    async def announced() -> bool:
        return not await store.pending()

    await eventually(announced, within=20)
    await service.stop()


async def test_the_stand_in_is_refused_in_production(mongo_url: str, nats_url: str) -> None:
    database = mongo.connect(mongo_url, "test")
    if await mongo.kind_of(database) in ("replica set", "sharded"):
        pytest.skip("this is a MongoDB that production may use")
    conf = settings(mongo_url, nats_url).model_copy(update={"environment": "production"})
    with pytest.raises(CannotStart, match="production needs a MongoDB replica set"):
        await Service("one", conf, database=database).start()


async def test_a_database_that_does_not_let_us_in_is_said_in_one_line(
    mongo_url: str, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(database: mongo.Database) -> str:
        raise OperationFailure("Authentication failed.", 18)

    monkeypatch.setattr(mongo, "kind_of", refuse)
    database = mongo.connect(mongo_url, "test_refused")
    with pytest.raises(CannotStart, match=r"^one: .*MONGODB_URL.*Authentication failed\.$"):
        await Service("one", settings(mongo_url, nats_url), database=database).start()


async def test_a_task_that_fails_is_started_again(
    mongo_url: str, nats_url: str, eventually: Eventually
) -> None:
    runs: list[int] = []

    async def shaky() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("boom")
        await asyncio.Event().wait()

    service = Service("one", settings(mongo_url, nats_url), tasks=[shaky])
    await service.start()
    await eventually(lambda: len(runs) == 2)
    await service.stop()


async def test_metrics_are_served(mongo_url: str, nats_url: str) -> None:
    service = Service("one", settings(mongo_url, nats_url, metrics_listen="127.0.0.1:0"))
    await service.start()
    await health(service.port)
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{service.metrics_port}/metrics")
    assert 'rpc_server_seconds_count{code="OK",method="/grpc.health.v1.Health/Check"}' in answer.text
    await service.stop()


def tiny(settings: Settings) -> Service:
    return Service("tiny", settings, database=mongo.connect(settings.mongodb_url, "tiny"))


PROGRAM = """
from kit import mongo
from kit.service import Service, main
from kit.settings import Settings

def build(settings: Settings) -> Service:
    return Service("tiny", settings, database=mongo.connect(settings.mongodb_url, "tiny"))

main(build)
"""


async def test_a_signal_ends_a_process_cleanly(mongo_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        env={**os.environ, "LOG_FORMAT": "json", "MONGODB_URL": mongo_url},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    first = json.loads(await asyncio.wait_for(process.stderr.readline(), 60))
    assert first["level"] == "INFO"
    assert "ready on port" in first["message"]
    process.send_signal(signal.SIGTERM)
    _, rest = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert b"Traceback" not in rest


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"GRACE": "long"}, "bad setting: GRACE: Input should be a valid number"),
        ({"ENVIRONMENT": "prod"}, "bad setting: ENVIRONMENT: Input should be 'development', 'test' or"),
        ({"GRPC_LISTEN": "127.0.0.1:BUSY"}, "tiny: cannot listen on 127.0.0.1:"),
        ({"GRPC_LISTEN": "somewhere"}, "tiny: cannot listen on somewhere"),
        ({"MONGODB_URL": "mongodb://"}, "bad setting: MONGODB_URL"),
    ],
)
def test_what_keeps_a_process_from_starting_is_one_line(
    mongo_url: str,
    environment: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    busy = mongo_url.partition("?")[0].rstrip("/").rpartition(":")[2]
    monkeypatch.setattr(telemetry, "setup", lambda settings, name: None)
    monkeypatch.setattr(telemetry, "end", sys.exit)
    monkeypatch.setenv("MONGODB_URL", mongo_url)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("BUSY", busy))
    with pytest.raises(SystemExit) as ended:
        main(tiny)
    [line] = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert said in line
