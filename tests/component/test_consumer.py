"""Consumers: every event is handled, in order, until its effect is stored; what cannot be is set aside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import nats
import nats.errors
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, RawStreamMsg
from prometheus_client import REGISTRY

from kit import clock, consumer, dead, lines, streams, telemetry
from kit.consumer import (
    DEAD,
    Consumer,
    Event,
    Subscription,
    measure_dead,
)
from kit.errors import Conflict, FailedPrecondition, RateLimited, Unauthenticated, Unavailable
from kit.events import PARTITIONS, subject
from kit.ids import uuid7
from kit.streams import provision_consumer, provision_stream

Eventually = Callable[..., Awaitable[Any]]


class Line:
    """A stream with one consumer, and what its handler saw."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.jetstream = client.jetstream()
        self.stream = f"line{uuid7()[-12:]}"
        self.seen: list[str] = []
        self.tries = 0
        self.fail: Exception | None = None
        self.handler: Callable[[Event], Awaitable[None]] = self.note

    async def note(self, event: Event) -> None:
        self.tries += 1
        if self.fail is not None:
            raise self.fail
        self.seen.append(event.message.value)

    def subscription(self, **options: Any) -> Subscription:
        async def handle(event: Event) -> None:
            await self.handler(event)

        return Subscription(f"test-{self.stream}", self.stream, {StringValue: handle}, **options)

    async def publish(
        self,
        message: Message,
        key: str = "k",
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        id = uuid7()
        known = {
            "Nats-Msg-Id": id,
            "Nats-Expected-Stream": self.stream,
            "ce-id": id,
            "ce-type": message.DESCRIPTOR.full_name,
            "ce-time": clock.to_text(clock.now()),
        }
        name = subject(self.stream, "StringValue", key)
        payload = message.SerializeToString() if data is None else data
        await self.jetstream.publish(name, payload, headers={**known, **(headers or {})})

    async def publish_dead(self, headers: dict[str, str]) -> int:
        return (await self.jetstream.publish(f"dead.test-{self.stream}", b"x", headers=headers)).seq

    async def consumers(self) -> dict[str, ConsumerInfo]:
        return {info.name: info for info in await self.jetstream.consumers_info(self.stream)}

    async def unsettled(self) -> int:
        found = (await self.consumers()).values()
        return sum((info.num_pending or 0) + (info.num_ack_pending or 0) for info in found)

    async def waiting(self) -> bool:
        """Whether all partitions are being fetched from."""
        found = await self.consumers()
        return len(found) == PARTITIONS and all(info.num_waiting for info in found.values())

    async def buried(self) -> list[RawStreamMsg]:
        return [
            message for message in await dead.messages(self.jetstream) if self.stream in str(message.headers)
        ]


@asynccontextmanager
async def a_line(url: str) -> AsyncIterator[Line]:
    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    made = Line(client)
    await provision_stream(made.jetstream, made.stream)
    await provision_stream(made.jetstream, DEAD)
    yield made
    await client.close()


@pytest.fixture
async def line(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Line]:
    monkeypatch.setattr(consumer, "_BACKOFF", (0.05,))
    async with a_line(nats_url) as made:
        yield made


@asynccontextmanager
async def consuming(line: Line, **options: Any) -> AsyncIterator[None]:
    await provision_consumer(line.jetstream, line.subscription(**options))
    task = asyncio.create_task(Consumer(line.client, line.subscription(**options)).run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def settled(line: Line) -> bool:
    return await line.unsettled() == 0


async def one_left(line: Line) -> bool:
    return await line.unsettled() == 1


async def test_events_are_handled_in_order_and_acknowledged(line: Line, eventually: Eventually) -> None:
    for number in range(20):
        await line.publish(StringValue(value=str(number)))
    async with consuming(line):
        await eventually(lambda: len(line.seen) == 20)
        await eventually(lambda: settled(line))
    assert line.seen == [str(number) for number in range(20)]


async def test_the_handler_gets_the_event_whole(line: Line, eventually: Eventually) -> None:
    got: list[Event] = []

    async def keep(event: Event) -> None:
        got.append(event)

    line.handler = keep
    await line.publish(StringValue(value="bàn"), key="a-b", headers={"ce-id": "e1"})
    async with consuming(line):
        await eventually(lambda: got)
    [event] = got
    assert (event.id, event.type) == ("e1", "google.protobuf.StringValue")
    assert event.message == StringValue(value="bàn")
    assert event.subject.endswith(".string_value.a-b")
    assert abs((event.time - clock.now()).total_seconds()) < 30


@pytest.mark.parametrize(
    "failure",
    [
        Conflict("LOST_RACE"),
        Unavailable("AWAY"),
        Unauthenticated("TOKEN_INVALID"),
        RateLimited("BUSY"),
        ConnectionError("boom"),
    ],
)
async def test_what_may_pass_is_tried_again_and_keeps_its_place(
    line: Line, eventually: Eventually, failure: Exception
) -> None:
    line.fail = failure
    async with consuming(line):
        await line.publish(StringValue(value="first"))
        await line.publish(StringValue(value="second"))
        await eventually(lambda: line.tries >= 3)
        line.fail = None
        await eventually(lambda: settled(line))
    assert line.seen == ["first", "second"]
    assert await line.buried() == []


async def test_a_permanent_refusal_is_set_aside_with_the_original(line: Line, eventually: Eventually) -> None:
    line.fail = FailedPrecondition("WRONG_STATE", "not now")
    await line.publish(StringValue(value="refused"), headers={"ce-id": "e7"})
    async with consuming(line):
        [buried] = await eventually(line.buried)
        await eventually(lambda: settled(line))
    assert line.tries == 1
    assert StringValue.FromString(buried.data or b"").value == "refused"
    headers = buried.headers or {}
    assert headers["dead-reason"] == "WRONG_STATE"
    assert headers["dead-subject"] == subject(line.stream, "StringValue", "k")
    assert headers["dead-consumer"] == f"test-{line.stream}"
    assert headers["ce-id"] == "e7"


async def test_the_last_attempt_is_set_aside_and_the_next_event_goes_on(
    line: Line, eventually: Eventually
) -> None:
    async def only_second(event: Event) -> None:
        line.tries += 1
        if event.message.value == "first":
            raise ConnectionError("boom")
        line.seen.append(event.message.value)

    line.handler = only_second
    async with consuming(line, attempts=3):
        await line.publish(StringValue(value="first"))
        await line.publish(StringValue(value="second"))
        await eventually(lambda: line.seen == ["second"])
    assert line.tries == 4
    assert [(message.headers or {})["dead-reason"] for message in await line.buried()] == ["ConnectionError"]


async def both(line: Line) -> list[RawStreamMsg]:
    buried = await line.buried()
    return buried if len(buried) == 2 else []


async def test_undecodable_bytes_are_set_aside(line: Line, eventually: Eventually) -> None:
    await line.publish(StringValue(), data=b"\xff\xff\xff")
    await line.publish(StringValue(value="good"), headers={"ce-time": "yesterday"})
    async with consuming(line):
        buried = await eventually(lambda: both(line))
        await eventually(lambda: settled(line))
    assert [(message.headers or {})["dead-reason"] for message in buried] == ["UNDECODABLE"] * 2
    assert line.tries == 0


async def test_a_type_that_nobody_knows_holds_nobody_up_and_is_kept(
    line: Line, eventually: Eventually
) -> None:
    await line.publish(Duration(seconds=1))
    await line.publish(StringValue(value="known"))
    async with consuming(line):
        await eventually(lambda: line.seen == ["known"])
        await eventually(lambda: one_left(line))
    assert await line.buried() == []


async def test_a_slow_handler_keeps_its_event(
    line: Line, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "ACK_WAIT", 1.0)
    done = asyncio.Event()

    async def slow(event: Event) -> None:
        line.tries += 1
        await done.wait()
        line.seen.append(event.message.value)

    line.handler = slow
    await line.publish(StringValue(value="slow"))
    async with consuming(line), consuming(line):
        await eventually(lambda: line.tries == 1)
        loop = asyncio.get_running_loop()
        until = loop.time() + 2.5  # more than two of its ack waits
        await eventually(lambda: loop.time() > until)
        done.set()
        await eventually(lambda: settled(line))
    assert (line.tries, line.seen) == (1, ["slow"])


async def test_an_event_in_hand_at_the_end_is_given_back_at_once(line: Line, eventually: Eventually) -> None:
    async def never(event: Event) -> None:
        line.tries += 1
        await asyncio.Event().wait()

    line.handler = never
    await line.publish(StringValue(value="kept"))
    async with consuming(line):
        await eventually(lambda: line.tries == 1)
    line.handler = line.note
    async with consuming(line):
        await eventually(lambda: line.seen == ["kept"], within=9)


async def test_stopping_finishes_the_event_in_hand_and_takes_no_other(
    line: Line, eventually: Eventually
) -> None:
    done = asyncio.Event()

    async def slow(event: Event) -> None:
        line.tries += 1
        await done.wait()
        line.seen.append(event.message.value)

    line.handler = slow
    await line.publish(StringValue(value="in hand"))
    await line.publish(StringValue(value="next"))
    await provision_consumer(line.jetstream, line.subscription())
    stopped = Consumer(line.client, line.subscription())
    running = asyncio.create_task(stopped.run())
    await eventually(lambda: line.tries == 1)
    stopping = asyncio.create_task(stopped.stop(grace=30))
    await asyncio.sleep(0)
    assert not stopping.done()
    done.set()
    await asyncio.wait_for(stopping, 5)
    assert running.done()
    assert line.seen == ["in hand"]
    await eventually(lambda: one_left(line))
    async with consuming(line):
        await eventually(lambda: line.seen == ["in hand", "next"], within=9)


async def test_stopping_gives_back_what_outlasts_its_grace(line: Line, eventually: Eventually) -> None:
    async def never(event: Event) -> None:
        line.tries += 1
        await asyncio.Event().wait()

    line.handler = never
    await line.publish(StringValue(value="kept"))
    await provision_consumer(line.jetstream, line.subscription())
    stopped = Consumer(line.client, line.subscription())
    running = asyncio.create_task(stopped.run())
    await eventually(lambda: line.tries == 1)
    await stopped.stop(grace=0.1)
    assert running.done()
    line.handler = line.note
    async with consuming(line):
        await eventually(lambda: line.seen == ["kept"], within=9)


async def test_stopping_ends_although_nats_is_slow_to_let_go(
    line: Line, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(event: Event) -> None:
        line.tries += 1
        await asyncio.Event().wait()

    async def slow(*_args: Any, **_options: Any) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    line.handler = never
    await line.publish(StringValue(value="kept"))
    await provision_consumer(line.jetstream, line.subscription())
    stopped = Consumer(line.client, line.subscription())
    running = asyncio.create_task(stopped.run())
    await eventually(lambda: line.tries == 1)
    monkeypatch.setattr(consumer, "consumer_info", slow)
    stopped._look.set()
    await asyncio.sleep(0)
    await asyncio.wait_for(stopped.stop(grace=0.1), 10)
    assert running.done()


async def test_what_arrives_while_it_stops_goes_to_another_at_once(
    line: Line, eventually: Eventually
) -> None:
    for number in range(30):  # each time the event and the end meet somewhere else on the way
        await provision_consumer(line.jetstream, line.subscription())
        stopped = Consumer(line.client, line.subscription())
        running = asyncio.create_task(stopped.run())
        await eventually(lambda: line.waiting(), every=0)
        publishing = asyncio.create_task(line.publish(StringValue(value=str(number))))
        await asyncio.sleep(number * 0.0001)
        await stopped.stop()
        await publishing
        assert running.done()
    async with consuming(line):
        await eventually(lambda: len(line.seen) >= 30, within=9)  # less than the wait for one lost event
    assert line.seen == [str(number) for number in range(30)]


async def test_stopping_an_idle_consumer_does_not_wait_for_its_fetch(
    line: Line, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_FETCH", 60.0)
    await provision_consumer(line.jetstream, line.subscription())
    idle = Consumer(line.client, line.subscription())
    running = asyncio.create_task(idle.run())
    await eventually(lambda: line.waiting())
    await asyncio.wait_for(idle.stop(grace=50), 10)
    assert running.done()
    await idle.stop()


async def test_an_event_of_a_process_that_died_comes_again(
    line: Line, nats_url: str, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "ACK_WAIT", 1.0)

    async def never(event: Event) -> None:
        line.tries += 1
        await asyncio.Event().wait()

    line.handler = never
    await line.publish(StringValue(value="kept"))
    await line.publish(StringValue(value="next"))
    doomed = await nats.connect(nats_url)
    await provision_consumer(line.jetstream, line.subscription())
    task = asyncio.create_task(Consumer(doomed, line.subscription()).run())
    await eventually(lambda: line.tries == 1)
    await doomed.close()  # nothing of it reaches the server any more
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    line.handler = line.note
    async with consuming(line):
        await eventually(lambda: line.seen == ["kept", "next"])


async def test_two_replicas_share_the_events_and_keep_the_order(line: Line, eventually: Eventually) -> None:
    async with consuming(line), consuming(line):
        for number in range(30):
            await line.publish(StringValue(value=str(number)))
        await eventually(lambda: len(line.seen) >= 30)
        await eventually(lambda: settled(line))
    assert line.seen == [str(number) for number in range(30)]


async def test_events_without_order_are_handled_side_by_side(line: Line, eventually: Eventually) -> None:
    together = asyncio.Barrier(5)

    async def meet(event: Event) -> None:
        await together.wait()
        line.seen.append(event.message.value)

    line.handler = meet
    for number in range(5):
        await line.publish(StringValue(value=str(number)))
    async with consuming(line, ordered=False):
        await eventually(lambda: len(line.seen) == 5)


async def test_a_consumer_that_differs_is_corrected(line: Line, eventually: Eventually) -> None:
    name = f"test-{line.stream}"
    wrong = ConsumerConfig(
        durable_name=name,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=77.0,
        max_deliver=2,
        filter_subject=f"motcua.{line.stream}.v1.other.>",
    )
    await line.jetstream.add_consumer(line.stream, wrong)
    await provision_consumer(line.jetstream, line.subscription())
    config = (await line.jetstream.consumer_info(line.stream, name)).config
    assert (config.ack_wait, config.max_deliver, config.max_ack_pending) == (10.0, -1, -1)
    single = [config.filter_subject] if config.filter_subject else []
    assert (config.filter_subjects or single) == [
        subject(line.stream, "StringValue", key) for key in ("*", "0.*")
    ]


async def test_a_consumer_that_cannot_be_corrected_goes_on_from_where_it_was(
    line: Line, eventually: Eventually
) -> None:
    name = f"test-{line.stream}"
    await line.jetstream.add_consumer(
        line.stream, ConsumerConfig(durable_name=name, ack_policy=AckPolicy.ALL)
    )
    for value in ("old", "new"):
        await line.publish(StringValue(value=value))
    pull = await line.jetstream.pull_subscribe_bind(consumer=name, stream=line.stream)
    [message] = await pull.fetch(1)
    await message.ack_sync()
    await pull.unsubscribe()
    async with consuming(line):
        await eventually(lambda: line.seen)
        await eventually(lambda: settled(line))
    assert line.seen == ["new"]


async def test_a_consumer_deleted_under_way_is_waited_for(
    line: Line, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async with consuming(line):
        await line.publish(StringValue(value="before"))
        await eventually(lambda: line.seen == ["before"])
        await eventually(lambda: settled(line))
        await line.jetstream.delete_consumer(line.stream, f"test-{line.stream}")
        await line.publish(StringValue(value="after"))
        await eventually(lambda: "waits for `python -m ops.prepare`" in caplog.text)
        await provision_consumer(line.jetstream, line.subscription())
        await eventually(lambda: "after" in line.seen, within=15)


async def test_nats_being_away_is_only_a_wait(nats_server: Any, eventually: Eventually) -> None:
    async with a_line(nats_server.url) as line, consuming(line):
        await line.publish(StringValue(value="before"))
        await eventually(lambda: line.seen == ["before"])
        nats_server.stop()
        await eventually(lambda: not line.client.is_connected)
        nats_server.start()
        await eventually(lambda: line.client.is_connected)
        await line.publish(StringValue(value="after"))
        await eventually(lambda: line.seen == ["before", "after"], within=20)


async def test_what_was_set_aside_can_be_replayed(line: Line, eventually: Eventually) -> None:
    line.fail = FailedPrecondition("WRONG_STATE")
    await line.publish(StringValue(value="later"), headers={"ce-id": "e9"})
    async with consuming(line):
        [buried] = await eventually(line.buried)
        line.fail = None
        assert buried.seq is not None
        await dead.replay(line.jetstream, buried.seq)
        await eventually(lambda: line.seen == ["later"])
    assert await line.buried() == []


async def test_what_is_too_large_for_dead_is_replayed_from_its_stream(
    line: Line, eventually: Eventually
) -> None:
    """NATS takes the event, but not with what DEAD says of it beside."""
    most = 2**20 - 330  # letters; a little more as a message
    line.fail = FailedPrecondition("WRONG_STATE")
    await line.publish(StringValue(value="x" * most))
    async with consuming(line):
        [buried] = await eventually(line.buried)
        assert not buried.data
        line.fail = None
        await dead.replay(line.jetstream, buried.seq or 0)
        await eventually(lambda: line.seen == ["x" * most])
    assert await line.buried() == []


async def test_what_says_not_which_event_it_was_is_not_replayed(line: Line) -> None:
    for headers, why in (
        ({}, "does not say"),
        ({"dead-original": "DEAD:1"}, "does not say"),
        ({"dead-original": "*:1"}, "does not say"),
        ({"dead-original": f"{line.stream}:9" + "9" * 30}, "does not say"),
        ({"dead-original": f"{line.stream}:999999"}, "not there any more"),
        ({"dead-original": "nowhere:1"}, "not there any more"),
    ):
        done = await line.publish_dead(headers)
        with pytest.raises(dead.NotReplayed, match=why):
            await dead.replay(line.jetstream, done)


async def test_events_of_before_they_named_their_stream_are_taken_when_told_so(
    line: Line, eventually: Eventually
) -> None:
    told = {"ce-id": "e1", "ce-type": StringValue.DESCRIPTOR.full_name, "ce-time": clock.to_text(clock.now())}
    name, data = subject(line.stream, "StringValue", "k"), StringValue(value="old").SerializeToString()
    await line.jetstream.publish(name, data, headers=told)
    async with consuming(line):
        [buried] = await eventually(line.buried)
        assert (buried.headers or {})["dead-reason"] == "FOREIGN"
        with pytest.raises(dead.NotReplayed):
            await dead.replay(line.jetstream, buried.seq or 0)
        await dead.replay(line.jetstream, buried.seq or 0, unmarked=True)
        await eventually(lambda: line.seen == ["old"])
    taking = Consumer(line.client, line.subscription(), unmarked=True)
    running = asyncio.create_task(taking.run())
    await line.jetstream.publish(name, data, headers=told)
    await line.jetstream.publish(name, data, headers={**told, "Nats-Expected-Stream": line.stream})
    await eventually(lambda: line.seen == ["old"] * 3)
    await taking.stop()
    await running


class Gauges:
    """What this process shows of a line's consumer."""

    def __init__(self, line: Line) -> None:
        self._labels = {"stream": line.stream, "consumer": f"test-{line.stream}"}

    def __call__(self, name: str) -> float | None:
        return REGISTRY.get_sample_value(f"event_consumer_{name}", self._labels)


async def test_how_far_behind_a_consumer_is_can_be_seen(
    line: Line, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_LOOK", 0.05)
    hold, done = asyncio.Event(), asyncio.Event()

    async def slow(event: Event) -> None:
        hold.set()
        await done.wait()

    line.handler = slow
    shown = Gauges(line)
    async with consuming(line):
        for number in range(5):
            await line.publish(StringValue(value=str(number)), key=str(number % 2))
        await asyncio.wait_for(hold.wait(), 10)
        await eventually(lambda: (shown("pending") or 0) + (shown("unacknowledged") or 0) == 5)
        assert shown("unacknowledged")
        assert shown("redelivered") == 0
        done.set()
        await eventually(lambda: (shown("pending"), shown("unacknowledged")) == (0, 0))


async def test_an_event_that_comes_again_and_what_is_set_aside_can_be_seen(
    line: Line, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_LOOK", 0.05)
    line.fail = ConnectionError("boom")
    shown = Gauges(line)
    measuring = asyncio.create_task(measure_dead(line.jetstream))
    async with consuming(line):
        before = len(await dead.messages(line.jetstream))
        await line.publish(StringValue(value="bad"))
        await eventually(lambda: shown("redelivered") == 1)
        line.fail = FailedPrecondition("WRONG_STATE")
        await eventually(lambda: REGISTRY.get_sample_value("events_dead") == before + 1)
    measuring.cancel()
    await asyncio.gather(measuring, return_exceptions=True)


async def test_without_nats_nothing_is_shown_rather_than_what_was(
    nats_server: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_LOOK", 0.05)
    monkeypatch.setattr(telemetry.EVENTS_PENDING, "_fresh", 0.5)
    async with a_line(nats_server.url) as line, consuming(line):
        shown = Gauges(line)
        await eventually(lambda: shown("pending") == 0)
        nats_server.stop()
        await eventually(lambda: shown("pending") is None)
        nats_server.start()
        await eventually(lambda: shown("pending") == 0, within=30)


async def test_measuring_ends_although_an_answer_hides_that_it_shall(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_LOOK", 0.01)
    asked = asyncio.Event()

    async def hiding(name: str) -> Any:  # as wait_for does before Python 3.12
        asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        raise nats.errors.TimeoutError

    monkeypatch.setattr(line.jetstream, "stream_info", hiding)
    measuring = asyncio.create_task(measure_dead(line.jetstream))
    await asked.wait()
    measuring.cancel()
    done, _ = await asyncio.wait((measuring,), timeout=5)
    measuring.cancel()
    assert done
