"""The relay: everything announced is published, in order, once, whatever goes away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import nats
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from nats.aio.client import Client
from nats.js import JetStreamContext
from prometheus_client import REGISTRY

from kit import clock, mongo, outbox
from kit.events import Entry, entry_of, published_subject
from kit.ids import uuid7
from kit.mongo import Store
from kit.outbox import Relay
from kit.streams import provision_stream

Eventually = Callable[..., Awaitable[Any]]


@dataclass
class Lamp:
    id: str
    switched: int = 0
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def switch(self) -> None:
        self.switched += 1
        self.events.append(str(self.switched))


class Room:
    """A store with its own stream."""

    def __init__(self, mongo_url: str, client: Client) -> None:
        self.context = f"room{uuid7()[-12:]}"
        self.client = client
        self.jetstream: JetStreamContext = client.jetstream()
        self.lamps = Store(
            mongo.connect(mongo_url, f"test_{self.context}"),
            "lamps",
            Lamp,
            announce=lambda lamp, event: StringValue(value=event),
            context=self.context,
        )

    async def seen(self) -> list[tuple[str, str]]:
        """(aggregate id, value) of every message in the stream, in its order."""
        found = []
        state = (await self.jetstream.stream_info(self.context)).state
        for number in range(1, state.last_seq + 1):
            message = await self.jetstream.get_msg(self.context, number)
            assert message.subject is not None
            assert message.data is not None
            found.append((message.subject.rpartition(".")[2], StringValue.FromString(message.data).value))
        return found

    async def count(self) -> int:
        return (await self.jetstream.stream_info(self.context)).state.messages


@asynccontextmanager
async def a_room(mongo_url: str, nats_url: str) -> AsyncIterator[Room]:
    client = await nats.connect(nats_url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    room = Room(mongo_url, client)
    await room.lamps.prepare()
    await provision_stream(room.jetstream, room.context)
    yield room
    await client.close()
    database = room.lamps.database
    await database.client.drop_database(database.name)
    database.client.close()


@pytest.fixture
async def room(mongo_url: str, nats_url: str) -> AsyncIterator[Room]:
    async with a_room(mongo_url, nats_url) as made:
        yield made


@asynccontextmanager
async def relaying(room: Room, *, poll: float = 60.0, replicas: int = 1) -> AsyncIterator[None]:
    relays = [Relay([room.lamps], room.jetstream, poll=poll) for _ in range(replicas)]

    def wake(store: Store[Any], id: str) -> None:
        for relay in relays:
            relay.wake(store, id)

    room.lamps.wake = wake
    tasks = [asyncio.create_task(relay.run()) for relay in relays]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    room.lamps.wake = None


async def emptied(room: Room) -> bool:
    return not await room.lamps.pending()


async def test_a_change_is_announced_at_once_with_its_headers(room: Room, eventually: Eventually) -> None:
    async with relaying(room):
        lamp = await room.lamps.add(Lamp(uuid7()))
        await room.lamps.change(lamp.id, Lamp.switch)
        await eventually(room.count, within=3)
        await eventually(lambda: emptied(room))
    message = await room.jetstream.get_msg(room.context, 1)
    assert message.subject is not None
    assert published_subject(message.subject) == f"motcua.{room.context}.v1.string_value.{lamp.id}"
    assert message.headers is not None
    assert message.headers["Nats-Msg-Id"] == message.headers["ce-id"]
    assert message.headers["ce-type"] == "google.protobuf.StringValue"
    assert message.headers["ce-source"] == f"motcua/{room.context}"
    assert abs((clock.from_text(message.headers["ce-time"]) - clock.now()).total_seconds()) < 30


async def test_what_a_crash_left_behind_is_found_by_looking(room: Room, eventually: Eventually) -> None:
    lamp = await room.lamps.add(Lamp(uuid7()))
    await room.lamps.change(lamp.id, Lamp.switch)
    async with relaying(room):
        await eventually(room.count, within=3)


async def test_a_crash_that_left_much_behind_is_caught_up_with_at_once(
    room: Room, eventually: Eventually
) -> None:
    async def one() -> None:
        lamp = await room.lamps.add(Lamp(uuid7()))
        await room.lamps.change(lamp.id, Lamp.switch)

    await asyncio.gather(*(one() for _ in range(250)))
    async with relaying(room):  # looks once a minute when there is little to do

        async def all_published() -> bool:
            return await room.count() == 250

        await eventually(all_published, within=30)


async def crash_before_forgetting(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that dies when it has published and not yet said so in the document."""
    crashed = asyncio.Event()

    async def crash(id: str, ids: set[str]) -> None:
        crashed.set()
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(room.lamps, "published", crash)
        async with relaying(room):
            await asyncio.wait_for(crashed.wait(), 5)


async def test_a_crash_between_publishing_and_forgetting_publishes_once(
    room: Room, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    lamp = await room.lamps.add(Lamp(uuid7()))
    await room.lamps.change(lamp.id, Lamp.switch)
    await crash_before_forgetting(room, monkeypatch)
    assert await room.lamps.pending() == [lamp.id]
    async with relaying(room):
        await eventually(lambda: emptied(room))
    assert await room.seen() == [(lamp.id, "1")]


@pytest.mark.parametrize("replicas", [1, 3])
async def test_many_writers_and_several_relays_keep_each_aggregates_order(
    room: Room, eventually: Eventually, replicas: int
) -> None:
    async with relaying(room, replicas=replicas, poll=0.05):
        lamps = [await room.lamps.add(Lamp(uuid7())) for _ in range(6)]
        await asyncio.gather(*(room.lamps.change(lamp.id, Lamp.switch) for lamp in lamps for _ in range(10)))
        await eventually(lambda: emptied(room), within=20)
    seen = await room.seen()
    for lamp in lamps:
        assert [value for id, value in seen if id == lamp.id] == [str(n) for n in range(1, 11)]


async def test_nats_being_away_is_only_a_wait(
    mongo_url: str, nats_server: Any, eventually: Eventually
) -> None:
    async with a_room(mongo_url, nats_server.url) as room, relaying(room, poll=0.2):
        lamp = await room.lamps.add(Lamp(uuid7()))
        nats_server.stop()
        for _ in range(3):
            await room.lamps.change(lamp.id, Lamp.switch)
        assert await room.lamps.pending() == [lamp.id]
        nats_server.start()
        await eventually(lambda: emptied(room), within=20)
        assert await room.seen() == [(lamp.id, "1"), (lamp.id, "2"), (lamp.id, "3")]


async def test_a_stream_that_differs_is_corrected(room: Room) -> None:
    config = (await room.jetstream.stream_info(room.context)).config
    config.duplicate_window, config.subjects = 5.0, [f"motcua.{room.context}.>"]
    config.subject_transform = None
    await room.jetstream.update_stream(config)
    await provision_stream(room.jetstream, room.context)
    corrected = (await room.jetstream.stream_info(room.context)).config
    assert corrected.duplicate_window == 120.0
    assert corrected.subjects == [f"motcua.{room.context}.*.*.*"]
    assert corrected.subject_transform


async def test_what_waits_to_be_published_can_be_seen(
    mongo_url: str, nats_server: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_LOOK", 2)

    def shown() -> float | None:
        return REGISTRY.get_sample_value("event_outbox_pending", {"collection": "lamps"})

    async with a_room(mongo_url, nats_server.url) as room, relaying(room, poll=0.1):
        await eventually(lambda: shown() == 0)
        nats_server.stop()
        lamps = [await room.lamps.add(Lamp(uuid7())) for _ in range(5)]
        for lamp in lamps:
            await room.lamps.change(lamp.id, Lamp.switch)
        await eventually(lambda: shown() == 5)
        nats_server.start()
        await eventually(lambda: shown() == 0, within=20)


async def test_an_event_published_again_after_the_window_keeps_its_id(
    room: Room, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JetStream has forgotten it by then and stores it twice; who handles it knows it by its id."""
    config = (await room.jetstream.stream_info(room.context)).config
    config.duplicate_window = 0.2
    await room.jetstream.update_stream(config)
    lamp = await room.lamps.add(Lamp(uuid7()))
    await room.lamps.change(lamp.id, Lamp.switch)
    await crash_before_forgetting(room, monkeypatch)

    async def forgotten() -> bool:
        probe = f"motcua.{room.context}.v1.probe.x"
        acknowledged = await room.jetstream.publish(probe, b"", headers={"Nats-Msg-Id": "probe"})
        return await room.count() > 2 and not acknowledged.duplicate

    await eventually(forgotten)
    async with relaying(room):
        await eventually(lambda: emptied(room))
    messages = [await room.jetstream.get_msg(room.context, number) for number in (1, await room.count())]
    first, again = ((message.headers or {})["ce-id"] for message in messages)
    assert first == again


async def test_an_id_with_dots_is_one_token_of_the_subject_also_where_it_was_written_otherwise(
    room: Room, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before(*arguments: Any) -> Entry:
        entry = entry_of(*arguments)
        return replace(entry, subject=entry.subject.replace("_15", ".15"))

    lamp = await room.lamps.add(Lamp("H32.15"))
    with monkeypatch.context() as patch:
        patch.setattr(mongo, "entry_of", before)
        await room.lamps.change(lamp.id, Lamp.switch)
    await room.lamps.change(lamp.id, Lamp.switch)
    assert [entry.subject.rpartition("value.")[2] for entry in await room.lamps.outbox("H32.15")] == [
        "H32.15",
        "H32_15",
    ]
    async with relaying(room):
        await eventually(lambda: emptied(room), within=5)
    assert await room.seen() == [("H32_15", "1"), ("H32_15", "2")]


async def test_an_event_that_nats_refuses_for_ever_holds_up_no_other_aggregate(
    room: Room, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_LOOK", 2)
    monkeypatch.setattr(room.lamps, "_bearable", lambda *_: None)  # written when NATS took more
    for number in range(3):  # more than one look finds
        await room.lamps.add(Lamp(f"large{number}", events=["x" * 1_100_000]))
    for number in range(4):
        await room.lamps.add(Lamp(f"small{number}", events=["1"]))
    async with relaying(room, poll=0.1):
        await eventually(lambda: emptied_of(room, 3))
        assert sorted(key for key, _ in await room.seen()) == [f"small{number}" for number in range(4)]
        shown = {"collection": "lamps"}
        await eventually(lambda: REGISTRY.get_sample_value("event_outbox_refused", shown) == 3)


async def emptied_of(room: Room, left: int) -> bool:
    return len(await room.lamps.pending()) == left
