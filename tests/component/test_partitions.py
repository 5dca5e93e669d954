"""Partitions: an aggregate's events stay in order, others go on beside them, and replicas share the work."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import nats
import nats.errors
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

from kit import clock, consumer, dead, streams
from kit.consumer import Consumer, Event, Subscription
from kit.errors import FailedPrecondition, Unavailable
from kit.events import PARTITIONS, plain_subject, published_subject, stream_subjects, subject
from kit.streams import provision_consumer, provision_stream
from ops.prepare import event_steps, run
from tests.component.test_consumer import Eventually, Line, a_line, consuming

Handle = Callable[[Event], Awaitable[None]]


@pytest.fixture
async def line(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Line]:
    monkeypatch.setattr(consumer, "_BACKOFF", (0.05,))
    monkeypatch.setattr(consumer, "_LOOK", 0.2)
    async with a_line(nats_url) as made:
        yield made


@asynccontextmanager
async def replicas(line: Line, count: int, **options: Any) -> AsyncIterator[list[Client]]:
    """Several consumers, each with a connection of its own."""
    await provision_consumer(line.jetstream, line.subscription(**options))
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            client = await nats.connect(line.client.servers[0].geturl(), max_reconnect_attempts=-1)
            clients.append(client)
            stack.push_async_callback(client.close)
            replica = Consumer(client, line.subscription(**options))
            running = asyncio.create_task(replica.run())
            stack.push_async_callback(replica.stop)
        yield clients
    assert running.done()


async def settled(line: Line) -> bool:
    """Whether all partitions are there, with nothing left in them."""
    return len(await line.consumers()) == PARTITIONS and await line.unsettled() == 0


async def stored(line: Line) -> list[str]:
    """The subjects in the stream, in its order."""
    last = (await line.jetstream.stream_info(line.stream)).state.last_seq
    messages = [await line.jetstream.get_msg(line.stream, number) for number in range(1, last + 1)]
    return [message.subject or "" for message in messages]


async def one_key_each(line: Line) -> list[str]:
    """An aggregate id of each partition, found by asking the server; nobody hears of it."""
    keys: dict[str, str] = {}
    for number in range(40):
        await line.jetstream.publish(subject(line.stream, "Unheard", f"k{number}"), b"")
    for name in await stored(line):
        _, partition, key = name.rsplit(".", 2)
        keys.setdefault(partition, key)
    return [keys[str(number)] for number in range(PARTITIONS)]


def an_event(id: str) -> dict[str, str]:
    return {"ce-id": id, "ce-time": clock.to_text(clock.now())}


def values(line: Line, key: str) -> list[str]:
    """What was handled of one aggregate; values are `<key>:<number>`."""
    return [value for value in line.seen if value.startswith(f"{key}:")]


async def publish(line: Line, keys: list[str], numbers: range) -> None:
    for number in numbers:
        for key in keys:
            await line.publish(StringValue(value=f"{key}:{number}"), key=key)


def in_order(line: Line, keys: list[str], count: int) -> bool:
    return all(values(line, key) == [f"{key}:{number}" for number in range(count)] for key in keys)


async def test_aggregates_spread_over_the_partitions(line: Line) -> None:
    await publish(line, [f"k{number}" for number in range(40)], range(1))
    partitions = [name.split(".")[4] for name in await stored(line)]
    assert all(partitions.count(str(number)) >= 3 for number in range(PARTITIONS))


async def test_who_listens_without_a_stream_hears_the_subject_that_was_published(
    line: Line, eventually: Eventually
) -> None:
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    await line.client.subscribe(f"motcua.{line.stream}.v1.>", cb=hear)
    await line.publish(StringValue(value="x"), key="k7")
    await eventually(lambda: heard)
    assert heard == [subject(line.stream, "StringValue", "k7")]


async def test_the_same_event_published_twice_is_stored_once(line: Line) -> None:
    for _ in range(2):
        await line.publish(StringValue(value="x"), key="k7", headers={"Nats-Msg-Id": "same"})
    assert len(await stored(line)) == 1


@pytest.mark.parametrize("count", [1, 2, 4])
async def test_each_aggregate_keeps_its_order_whatever_fails(
    line: Line, eventually: Eventually, count: int
) -> None:
    keys = [f"k{number}" for number in range(8)]
    dice = random.Random(count)  # noqa: S311
    failed: set[str] = set()

    async def fail_sometimes(event: Event) -> None:
        await asyncio.sleep(dice.random() * 0.01)
        if event.id not in failed and dice.random() < 0.3:
            failed.add(event.id)
            raise dice.choice([Unavailable("AWAY"), ConnectionError("boom")])
        line.seen.append(event.message.value)

    line.handler = fail_sometimes
    async with replicas(line, count):
        await publish(line, keys, range(8))
        await eventually(lambda: settled(line), within=30)
    assert failed
    assert in_order(line, keys, 8)
    assert len(line.seen) == 64


@pytest.mark.parametrize("count", [1, 2])
async def test_aggregates_of_different_partitions_are_handled_side_by_side(
    line: Line, eventually: Eventually, count: int
) -> None:
    together = asyncio.Barrier(PARTITIONS)

    async def meet(event: Event) -> None:
        await together.wait()
        line.seen.append(event.message.value)

    line.handler = meet
    keys = await one_key_each(line)
    async with replicas(line, count):
        await publish(line, keys, range(3))
        await eventually(lambda: len(line.seen) == 3 * PARTITIONS)
        await eventually(lambda: settled(line))
    assert in_order(line, keys, 3)


async def test_an_aggregate_that_fails_for_long_holds_back_only_its_partition(
    line: Line, eventually: Eventually
) -> None:
    bad, *good = await one_key_each(line)
    away = True

    async def fail_one(event: Event) -> None:
        if away and event.message.value.startswith(f"{bad}:"):
            line.tries += 1
            raise Unavailable("AWAY")
        line.seen.append(event.message.value)

    line.handler = fail_one
    async with replicas(line, 2):
        await publish(line, [bad, *good], range(5))
        await eventually(lambda: in_order(line, good, 5))
        assert line.tries
        assert values(line, bad) == []
        away = False
        await eventually(lambda: settled(line))
    assert in_order(line, [bad, *good], 5)


async def test_a_replica_that_dies_with_events_in_hand_loses_and_reorders_nothing(
    line: Line, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "ACK_WAIT", 1.0)
    keys = await one_key_each(line)
    stuck = asyncio.Event()

    async def hang(event: Event) -> None:
        line.tries += 1
        await stuck.wait()

    doomed = await nats.connect(line.client.servers[0].geturl())
    line.handler = hang
    await provision_consumer(line.jetstream, line.subscription())
    first = Consumer(doomed, line.subscription())
    running = asyncio.create_task(first.run())
    await publish(line, keys, range(6))
    await eventually(lambda: line.tries == PARTITIONS)
    await doomed.close()  # nothing of it reaches the server any more
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    line.handler = line.note
    async with replicas(line, 2):
        await eventually(lambda: settled(line))
    assert in_order(line, keys, 6)
    assert len(line.seen) == 6 * PARTITIONS


async def test_what_was_set_aside_is_replayed_into_its_partition(line: Line, eventually: Eventually) -> None:
    for number, key in enumerate(await one_key_each(line)):
        line.fail, line.seen = FailedPrecondition("WRONG_STATE"), []
        async with consuming(line):
            await line.publish(StringValue(value="later"), key=key)
            [buried] = await eventually(line.buried)
            assert (buried.headers or {})["dead-subject"] == subject(line.stream, "StringValue", key)
            assert buried.subject == f"dead.test-{line.stream}"
            line.fail = None
            await dead.replay(line.jetstream, buried.seq or 0)
            await eventually(lambda: line.seen == ["later"])
        assert (await stored(line))[-1].endswith(f".{number}.{key}")


async def test_without_order_there_is_one_consumer_for_all(line: Line, eventually: Eventually) -> None:
    keys = await one_key_each(line)
    async with consuming(line, ordered=False):
        await publish(line, keys, range(2))
        await eventually(lambda: len(line.seen) == 2 * PARTITIONS)
    assert list(await line.consumers()) == [f"test-{line.stream}"]


# --- from before there were partitions --------------------------------------------------------------------


class Before:
    """How stream, consumer and replica were before there were partitions."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.durable = f"test-{line.stream}"
        self.config = ConsumerConfig(
            durable_name=self.durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=10.0,
            max_deliver=-1,
            max_ack_pending=1,
            filter_subjects=[subject(line.stream, "StringValue", ">")],
        )

    async def provision(self) -> None:
        jetstream, stream = self._line.jetstream, self._line.stream
        await jetstream.delete_stream(stream)
        await jetstream.add_stream(
            StreamConfig(
                name=stream, subjects=[f"motcua.{stream}.>"], storage=StorageType.FILE, duplicate_window=120
            )
        )
        await jetstream.add_consumer(stream, self.config)

    async def handle(self, count: int) -> None:
        """What the old replica handles before it ends."""
        pull = await self._line.jetstream.pull_subscribe_bind(consumer=self.durable, stream=self._line.stream)
        for _ in range(count):
            [message] = await pull.fetch(1, timeout=5)
            self._line.seen.append(StringValue.FromString(message.data).value)
            await message.ack_sync()
        await pull.unsubscribe()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """An old replica that goes on beside the new ones."""
        pull = await self._line.jetstream.pull_subscribe_bind(consumer=self.durable, stream=self._line.stream)

        async def work() -> None:
            while True:
                try:
                    [message] = await pull.fetch(1, timeout=0.5)
                except nats.errors.TimeoutError:
                    continue
                value = StringValue.FromString(message.data).value
                if value not in self._line.seen:  # as handlers do
                    self._line.seen.append(value)
                await message.ack()

        task = asyncio.create_task(work())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await pull.unsubscribe()


@asynccontextmanager
async def preparing(line: Line) -> AsyncIterator[None]:
    """`ops.prepare` of the new version, run again and again beside the services."""

    async def work() -> None:
        while True:
            await run(
                event_steps(line.jetstream, 1, 1.0, contexts=(), subscriptions=[line.subscription()]),
                5,
                print,
            )
            await asyncio.sleep(0.1)

    task = asyncio.create_task(work())
    yield
    task.cancel()
    [end] = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(end, asyncio.CancelledError), end


async def divided(line: Line) -> bool:
    found = await line.consumers()
    filters = [name for info in found.values() for name in info.config.filter_subjects or []]
    return len(found) == PARTITIONS and not any(name.endswith(">") for name in filters)


KEYS = ["k0", "k1", "k2", "k3", "k4", "k5", "H32.15", "1.001193"]  # ids with a dot were published as they are


async def test_events_of_before_are_handled_first_and_once(line: Line, eventually: Eventually) -> None:
    before = Before(line)
    await before.provision()
    await publish(line, KEYS, range(3))
    await before.handle(len(KEYS) + 3)
    await provision_stream(line.jetstream, line.stream)
    now = [key.replace(".", "_") for key in KEYS]
    for number in range(3, 6):
        for key, old in zip(now, KEYS, strict=True):
            await line.publish(StringValue(value=f"{old}:{number}"), key=key)
    async with replicas(line, 2), preparing(line):
        await eventually(lambda: len(line.seen) >= 6 * len(KEYS))
        await eventually(lambda: divided(line))
        await eventually(lambda: settled(line))
        assert in_order(line, KEYS, 6)
        assert len(line.seen) == 6 * len(KEYS)
        await publish(line, now, range(6, 8))
        await eventually(lambda: settled(line))
        assert len(line.seen) == 8 * len(KEYS)


async def test_the_one_consumer_stays_until_the_owner_of_the_stream_makes_partitions(
    line: Line, eventually: Eventually
) -> None:
    before = Before(line)
    await before.provision()
    async with consuming(line), preparing(line):
        await publish(line, KEYS, range(3))
        await eventually(lambda: len(line.seen) == 3 * len(KEYS))
        assert list(await line.consumers()) == [before.durable]
        await provision_stream(line.jetstream, line.stream)
        await eventually(lambda: divided(line))
        now = [key.replace(".", "_") for key in KEYS]
        await publish(line, now, range(3, 5))
        await eventually(lambda: settled(line))
    assert in_order(line, KEYS[:6], 5)
    assert len(line.seen) == 5 * len(KEYS)


async def test_the_partitions_begin_where_the_one_consumer_was(line: Line, eventually: Eventually) -> None:
    before = Before(line)
    await before.provision()
    await provision_stream(line.jetstream, line.stream)  # another service was upgraded first
    keys = await one_key_each(line)
    await publish(line, keys, range(4))
    await before.handle(6)
    async with consuming(line), preparing(line):
        await eventually(lambda: divided(line))
        await eventually(lambda: settled(line))
    assert in_order(line, keys, 4)
    assert len(line.seen) == 4 * len(keys)


async def test_old_replicas_beside_new_ones_lose_and_reorder_nothing(
    line: Line, eventually: Eventually
) -> None:
    before = Before(line)
    await before.provision()
    keys = [f"k{number}" for number in range(8)]

    async def once(event: Event) -> None:
        if event.message.value not in line.seen:  # as handlers do
            line.seen.append(event.message.value)

    line.handler = once
    async with before.running():
        await publish(line, keys, range(4))
        await provision_stream(line.jetstream, line.stream)
        async with replicas(line, 2), preparing(line):
            await publish(line, keys, range(4, 8))
            await eventually(lambda: divided(line))
            await publish(line, keys, range(8, 12))
            await eventually(lambda: settled(line))
    assert in_order(line, keys, 12)


async def test_a_new_type_of_event_waits_for_the_newer_replica(line: Line, eventually: Eventually) -> None:
    newer: list[str] = []

    async def note(event: Event) -> None:
        newer.append(event.type)

    both = Subscription(f"test-{line.stream}", line.stream, {StringValue: note, Duration: note})
    async with replicas(line, 2):
        await eventually(lambda: line.waiting())
        await provision_consumer(line.jetstream, both)
        new = Consumer(line.client, both)
        running = asyncio.create_task(new.run())
        for number in range(20):
            known = {"ce-type": Duration.DESCRIPTOR.full_name}
            name = subject(line.stream, "Duration", f"k{number}")
            headers = {**an_event(f"e{number}"), **known, "Nats-Expected-Stream": line.stream}
            await line.jetstream.publish(name, b"", headers=headers)
        await publish(line, ["k1", "k2"], range(3))  # what is known goes on
        await eventually(lambda: len(line.seen) + newer.count("google.protobuf.StringValue") == 6)
    await eventually(lambda: newer.count("google.protobuf.Duration") == 20, within=30)
    await eventually(lambda: settled(line))
    await new.stop()
    await running
    assert await line.buried() == []


async def test_two_services_that_start_together_make_the_same_consumers(
    line: Line, eventually: Eventually
) -> None:
    before = Before(line)
    await before.provision()
    await publish(line, KEYS, range(2))
    await before.handle(2 * len(KEYS))
    await provision_stream(line.jetstream, line.stream)
    await asyncio.gather(*(provision_consumer(line.jetstream, line.subscription()) for _ in range(5)))
    assert await divided(line)
    await publish(line, ["k1"], range(2, 3))
    async with replicas(line, 2):
        await eventually(lambda: settled(line))
    assert line.seen[2 * len(KEYS) :] == ["k1:2"]


# --- names -------------------------------------------------------------------------------------------------

_TOKEN = st.from_regex(r"[A-Za-z0-9_\-/]{1,12}", fullmatch=True)


@given(context=_TOKEN, key=_TOKEN, partition=st.integers(0, PARTITIONS - 1))
def test_the_published_subject_is_the_stored_one_without_its_partition(
    context: str, key: str, partition: int
) -> None:
    name = subject(context, "DossierSubmitted", key)
    assert plain_subject(name) == name
    assert published_subject(name) == name
    assert published_subject(subject(context, "DossierSubmitted", f"{partition}.{key}")) == name


def test_an_id_with_dots_is_one_token_of_the_subject() -> None:
    assert plain_subject("motcua.identity.v1.agency_changed.H32.15.01") == (
        "motcua.identity.v1.agency_changed.H32_15_01"
    )


def test_all_partitions_of_a_subscription_are_named_after_it() -> None:
    async def nothing(event: Event) -> None: ...

    heard = Subscription("notify-dossier", "dossier", {Duration: nothing})
    assert heard.durables == ("notify-dossier", "notify-dossier-1", "notify-dossier-2", "notify-dossier-3")
    assert stream_subjects("dossier")[0] == "motcua.dossier.*.*.*"
