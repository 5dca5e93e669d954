"""A poisoned event holds back its own aggregate at most, and is set aside at once if it cannot succeed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

from kit import clock, dead
from kit.consumer import DEAD, Consumer, Event, Subscription
from kit.errors import Unavailable
from kit.events import subject
from kit.ids import uuid7
from kit.streams import provision_consumer, provision_stream

Eventually = Callable[..., Awaitable[Any]]
KEYS = [f"k{number}" for number in range(24)]


class Room:
    """A stream and a subscription to it; `handle` is what the handler does."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.jetstream = client.jetstream()
        self.stream = f"room{uuid7()[-12:]}"
        self.seen: list[str] = []
        self.tries = 0
        self.handle: Callable[[str], Awaitable[None]] = self.note

    async def note(self, value: str) -> None:
        self.seen.append(value)

    @property
    def subscription(self) -> Subscription:
        async def handler(event: Event) -> None:
            self.tries += 1
            await self.handle(event.message.value)

        return Subscription(f"test-{self.stream}", self.stream, {StringValue: handler})

    async def publish(self, message: Message, key: str, kind: str = "") -> None:
        id = uuid7()
        headers = {
            "Nats-Expected-Stream": self.stream,
            "ce-id": id,
            "ce-type": kind or message.DESCRIPTOR.full_name,
            "ce-time": clock.to_text(clock.now()),
        }
        name = subject(self.stream, "StringValue", key)
        await self.jetstream.publish(name, message.SerializeToString(), headers=headers)

    async def reasons(self) -> list[str]:
        found = await dead.messages(self.jetstream)
        return [(one.headers or {})["dead-reason"] for one in found if self.stream in str(one.headers)]


@pytest.fixture
async def room(nats_url: str) -> AsyncIterator[Room]:
    client = await nats.connect(nats_url)
    made = Room(client)
    await provision_stream(made.jetstream, made.stream)
    await provision_stream(made.jetstream, DEAD)
    await provision_consumer(made.jetstream, made.subscription)
    yield made
    await client.close()


@asynccontextmanager
async def consuming(room: Room) -> AsyncIterator[None]:
    running = Consumer(room.client, room.subscription)
    task = asyncio.create_task(running.run())
    yield
    await running.stop(grace=0.1)
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.proof("9.13")
@pytest.mark.parametrize(
    "fault", [OverflowError("date value out of range"), KeyError("x"), ValueError("x"), TypeError("x")]
)
async def test_what_can_never_succeed_is_set_aside_at_the_first_try(
    room: Room, eventually: Eventually, fault: Exception
) -> None:
    async def handle(value: str) -> None:
        if value == "bad":
            raise fault
        room.seen.append(value)

    room.handle = handle
    async with consuming(room):
        await room.publish(StringValue(value="bad"), "k1")
        await room.publish(StringValue(value="good"), "k1")
        await eventually(lambda: room.seen == ["good"], message="the next event waits for retries", within=9)
    assert room.tries == 2
    assert await room.reasons() == [type(fault).__name__]


@pytest.mark.proof("9.13")
async def test_an_event_that_fails_holds_back_only_its_own_aggregate(
    room: Room, eventually: Eventually
) -> None:
    away = True

    async def handle(value: str) -> None:
        if away and value == "k0:0":
            raise Unavailable("AWAY")
        room.seen.append(value)

    room.handle = handle
    async with consuming(room):
        for number in range(3):
            for key in KEYS:
                await room.publish(StringValue(value=f"{key}:{number}"), key)
        others = 3 * (len(KEYS) - 1)
        await eventually(lambda: len(room.seen) == others, message="others wait for it", within=9)
        assert not any(value.startswith("k0:") for value in room.seen)
        away = False
        await eventually(lambda: len(room.seen) == 3 * len(KEYS), within=40)
    for key in KEYS:
        assert [v for v in room.seen if v.startswith(f"{key}:")] == [f"{key}:{n}" for n in range(3)]


@pytest.mark.proof("9.13")
async def test_an_aggregate_whose_handler_is_slow_holds_up_no_other(
    room: Room, eventually: Eventually
) -> None:
    done = asyncio.Event()

    async def handle(value: str) -> None:
        if value == "k0":
            await done.wait()
        room.seen.append(value)

    room.handle = handle
    async with consuming(room):
        for key in KEYS:
            await room.publish(StringValue(value=key), key)
        await eventually(lambda: len(room.seen) == len(KEYS) - 1, message="others wait for it", within=9)
        done.set()
        await eventually(lambda: len(room.seen) == len(KEYS))


@pytest.mark.proof("9.13")
async def test_a_type_that_nobody_knows_yet_is_given_back_and_holds_nobody_up(
    room: Room, eventually: Eventually
) -> None:
    async with consuming(room):
        for key in KEYS:
            await room.publish(StringValue(), key, kind="motcua.newer.v2.StringValue")
            await room.publish(StringValue(value=key), key)
        await eventually(lambda: len(room.seen) == len(KEYS), within=9)
    left = [await room.jetstream.consumer_info(room.stream, name) for name in room.subscription.durables]
    assert sum((info.num_ack_pending or 0) + (info.num_pending or 0) for info in left) == len(KEYS)
    assert await room.reasons() == []


@pytest.mark.proof("9.13")
async def test_a_message_with_a_field_that_is_not_known_is_not_set_aside_when_it_fails(
    room: Room, eventually: Eventually
) -> None:
    async def handle(value: str) -> None:
        if value == "newer":
            raise KeyError("what the field would say")
        room.seen.append(value)

    room.handle = handle
    newer = StringValue(value="newer").SerializeToString() + b"\x7a\x01x"  # field 15
    async with consuming(room):
        await room.publish(StringValue.FromString(newer), "k1")
        await room.publish(
            StringValue.FromString(StringValue(value="fine").SerializeToString() + b"\x7a\x01x"), "k2"
        )
        await eventually(lambda: room.seen == ["fine"], within=9)
        await room.publish(StringValue(value="next"), "k1")
        await eventually(lambda: "next" in room.seen, message="it holds up the next", within=9)
    assert await room.reasons() == []


def test_what_a_message_says_that_is_not_known_is_found() -> None:
    from kit.consumer import unknown_in

    assert unknown_in(Duration(seconds=1)) is None
    assert unknown_in(Duration.FromString(b"\x7a\x01x")) == "a field of google.protobuf.Duration"
