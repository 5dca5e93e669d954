"""A service from its first moment to its last: what probes see, what a start waits for, how it stops."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dev.options import free_port
from kit import mongo
from kit.consumer import Event, Subscription
from kit.errors import Unavailable
from kit.ids import uuid7
from kit.mongo import Store
from kit.service import CannotStart, Service
from kit.settings import Settings
from tests.component.test_rpc import NAME, Echo, add
from tests.component.test_service import Bell, bells
from tests.conftest import prepare_for

Eventually = Callable[..., Awaitable[Any]]
NOWHERE = "mongodb://127.0.0.1:1"

PROGRAM = """
from kit import mongo
from kit.service import Service, main
from kit.settings import Settings

def build(settings: Settings) -> Service:
    return Service("tiny", settings, database=mongo.connect(settings.mongodb_url, "tiny"))

main(build)
"""


async def probed(port: int, service: str = "") -> str:
    """What a probe hears, by name; the status of the call when that fails."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def not_ready(port: int) -> bool:
    """Whether `ready` is said to be over."""
    return await probed(port, "ready") == "NOT_SERVING"


def settings(mongo_url: str, nats_url: str = "nats://127.0.0.1:1", **more: Any) -> Settings:
    given: dict[str, Any] = {"grace": 5, "probe_listen": f"127.0.0.1:{free_port()}"} | more
    return Settings(environment="test", mongodb_url=mongo_url, nats_url=nats_url, **given)


# As a thread of obstore does now and then when the interpreter goes away under it.
UNBEARABLE = f"import atexit, os; atexit.register(os.abort)\n{PROGRAM}"


@asynccontextmanager
async def process(
    program: str = PROGRAM, **environment: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A service of its own process, and its probe port."""
    port = free_port()
    env = {**os.environ, "PROBE_LISTEN": f"127.0.0.1:{port}", **environment}
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=env, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield running, port
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        await running.communicate()


async def test_a_probe_hears_live_from_the_beginning_and_ready_until_the_end_begins(mongo_url: str) -> None:
    opened, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        opened.set()
        await go_on.wait()

    conf = settings(mongo_url, drain=0.5)
    service = Service("one", conf, database=mongo.connect(mongo_url, "probed"), opening=[slow])
    starting = asyncio.create_task(service.start())
    await asyncio.wait_for(opened.wait(), 30)
    port = service.probe_port
    assert [await probed(port, name) for name in ("live", "ready", "")] == ["SERVING", *["NOT_SERVING"] * 2]
    assert await probed(port, "other") == "NOT_FOUND"
    assert service.port == 0  # nobody calls what is not ready
    go_on.set()
    await starting
    assert [await probed(port, name) for name in ("live", "ready", "")] == ["SERVING"] * 3
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0)
    assert [await probed(port, name) for name in ("live", "ready", "")] == ["SERVING", *["NOT_SERVING"] * 2]
    assert await probed(service.port) == "NOT_SERVING"
    await stopping
    assert await probed(port, "live") == "UNAVAILABLE"


async def test_a_database_that_goes_away_does_not_take_the_service_out_of_rotation(
    mongo_url: str, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr("kit.service._LOOK", 0.05)
    service = Service("one", settings(mongo_url), database=mongo.connect(mongo_url, "probed"))
    await service.start()

    async def gone(database: mongo.Database, seconds: float) -> bool:
        return False

    monkeypatch.setattr(mongo, "answers", gone)

    async def told() -> bool:
        return await probed(service.port) == "NOT_SERVING"

    await eventually(told)
    assert [await probed(service.probe_port, name) for name in ("live", "ready")] == ["SERVING"] * 2
    await service.stop()


async def test_probes_may_watch(mongo_url: str) -> None:
    service = Service("one", settings(mongo_url), database=mongo.connect(mongo_url, "probed"))
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.probe_port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(health_pb2.HealthCheckRequest(service="ready"))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        await service.stop()
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_start_waits_for_the_database_as_long_as_it_is_told_to(
    mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = mongo.kind_of, 0

    async def late(database: mongo.Database) -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise Unavailable("DATABASE_UNAVAILABLE", "the database does not answer")
        return await ask(database)

    monkeypatch.setattr(mongo, "kind_of", late)
    database = mongo.connect(mongo_url, "probed")
    service = Service("one", settings(mongo_url, start_patience=60), database=database)
    await service.start()
    assert asked == 3
    await service.stop()


async def test_a_start_without_patience_fails_when_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kit.mongo.PATIENCE", 0.05)
    with pytest.raises(CannotStart, match="the database does not answer"):
        await Service("one", settings(NOWHERE), database=mongo.connect(NOWHERE, "probed")).start()


async def test_a_wrong_setting_is_said_at_once_however_patient_the_start(eventually: Eventually) -> None:
    async with process(MONGODB_URL=NOWHERE, START_PATIENCE="600", GRPC_LISTEN="somewhere") as (running, _):
        _, said = await asyncio.wait_for(running.communicate(), 60)
        assert running.returncode == 2
        assert said.decode().strip().splitlines()[-1].startswith("tiny: cannot listen on somewhere")


async def test_a_signal_ends_a_start_that_waits(eventually: Eventually) -> None:
    async with process(MONGODB_URL=NOWHERE, START_PATIENCE="600") as (running, port):

        async def alive() -> bool:
            return await probed(port, "live") == "SERVING"

        await eventually(alive, within=60)
        assert await probed(port, "ready") == "NOT_SERVING"
        running.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(running.communicate(), 30)
        assert running.returncode == 0
        assert b"Traceback" not in said


async def test_a_library_that_aborts_at_the_end_of_the_interpreter_makes_no_crash_of_a_good_end(
    mongo_url: str, eventually: Eventually
) -> None:
    async with process(UNBEARABLE, MONGODB_URL=mongo_url) as (running, port):

        async def ready() -> bool:
            return await probed(port, "ready") == "SERVING"

        await eventually(ready, within=60)
        running.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(running.communicate(), 30)
        assert running.returncode == 0
        assert b"tiny stops" in said
    async with process(UNBEARABLE, MONGODB_URL=NOWHERE, GRPC_LISTEN="somewhere") as (running, _):
        assert await asyncio.wait_for(running.wait(), 60) == 2


async def test_a_second_signal_ends_the_process_at_once(mongo_url: str, eventually: Eventually) -> None:
    async with process(MONGODB_URL=mongo_url, DRAIN="600") as (running, port):

        async def ready() -> bool:
            return await probed(port, "ready") == "SERVING"

        await eventually(ready, within=60)
        running.send_signal(signal.SIGTERM)
        await eventually(lambda: not_ready(port))
        running.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running.wait(), 30) == 128 + signal.SIGTERM


async def test_a_cancellation_that_the_connection_to_nats_did_not_hear_keeps_no_service_from_stopping(
    mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(*_args: Any, **_options: Any) -> None:  # as nats.connect is to one that meets a refusal
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    monkeypatch.setattr("kit.service._MESSAGING", 0.05)
    monkeypatch.setattr("kit.service._HEARD", 0.05)
    monkeypatch.setattr("nats.connect", deaf)
    service = Service("one", settings(mongo_url), stores=[bells(mongo_url, f"tower{uuid7()[-12:]}")])
    await service.start()
    await asyncio.wait_for(service.stop(), 30)


async def test_new_calls_are_served_until_callers_had_time_to_go(
    mongo_url: str, eventually: Eventually
) -> None:
    echo = Echo()
    conf = settings(mongo_url, drain=1)
    database = mongo.connect(mongo_url, "probed")
    service = Service("one", conf, database=database, servicers=[(add, echo)])
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        call: Any = channel.unary_unary(
            f"/{NAME}/Say",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        stopping = asyncio.create_task(service.stop())
        await eventually(lambda: not_ready(service.probe_port))
        assert (await call(StringValue(value="late"), wait_for_ready=True)).value == "late"
        assert not stopping.done()
        await stopping


async def test_an_event_in_hand_is_finished_and_its_own_announcement_goes_out(
    mongo_url: str, nats_url: str, eventually: Eventually
) -> None:
    context = f"tower{uuid7()[-12:]}"
    here = bells(mongo_url, context)
    there: Store[Bell] = bells(mongo_url, f"{context}x")
    ringing, go_on = asyncio.Event(), asyncio.Event()

    async def echo(event: Event) -> None:
        ringing.set()
        await go_on.wait()
        await there.change("echo", Bell.ring, handled=event.id)

    one = Service("one", settings(mongo_url, nats_url), stores=[here])
    heard = Subscription(f"two-{context}", context, {StringValue: echo})
    await prepare_for(nats_url, [context, f"{context}x"], [heard])
    two = Service(
        "two",
        settings(mongo_url, nats_url),
        stores=[there],
        subscriptions=[heard],
    )
    await one.start()
    await two.start()
    await there.add(Bell("echo"))
    await here.add(Bell("bell"))
    await here.change("bell", Bell.ring)
    await asyncio.wait_for(ringing.wait(), 30)
    stopping = asyncio.create_task(two.stop())
    await eventually(lambda: not_ready(two.probe_port))
    assert not stopping.done()
    go_on.set()
    await stopping
    again = bells(mongo_url, f"{context}x")
    assert (await again.get("echo")).rung == 1
    assert not await again.pending()
    await one.stop()
