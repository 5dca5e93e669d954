"""What a poisoned event costs an innocent one behind it, and how fast events drain: before and now.

python -m tests.load.poison [--events 400] [--seconds 0.02]

Before: consumers that deliver one event at a time in each partition, as they did until replicas were pinned.
The poisoned event fails with what may pass, and is tried again. Compare the figures of one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from typing import Any

import nats
from google.protobuf.wrappers_pb2 import StringValue
from rich.console import Console
from rich.table import Table

from kit import clock
from kit.consumer import Consumer, Event, Subscription
from kit.events import subject
from kit.ids import uuid7
from kit.streams import DEAD, ask, provision_consumer, provision_stream
from tests.load.drain import a_server

KEYS = 64


async def measured(
    url: str, before: bool, poisoned: bool, events: int, seconds: float
) -> tuple[float, float]:
    """The median seconds from publishing an innocent event to its end, and the events handled per second."""
    client = await nats.connect(url)
    jetstream, stream = client.jetstream(), f"poison{uuid7()[-12:]}"
    published: dict[str, float] = {}
    took: list[float] = []

    async def handle(event: Event) -> None:
        if event.message.value == "poison":
            raise ConnectionError("away")
        await asyncio.sleep(seconds)
        took.append(time.monotonic() - published[event.id])

    wanted = Subscription(f"load-{stream}", stream, {StringValue: handle}, attempts=4)
    await provision_stream(jetstream, stream)
    await provision_stream(jetstream, DEAD)
    await provision_consumer(jetstream, wanted)
    if before:
        for name in wanted.durables:
            config: dict[str, Any] = (await ask(jetstream, f"CONSUMER.INFO.{stream}.{name}"))["config"]
            kept = {key: value for key, value in config.items() if not key.startswith("priority")}
            request = {"stream_name": stream, "config": {**kept, "max_ack_pending": 1}}
            await ask(jetstream, f"CONSUMER.CREATE.{stream}.{name}", request)
    running = Consumer(client, wanted)
    task = asyncio.create_task(running.run())
    try:

        async def publish(value: str, key: str) -> None:
            id = uuid7()
            published[id] = time.monotonic()
            headers = {
                "Nats-Expected-Stream": stream,
                "ce-id": id,
                "ce-type": StringValue.DESCRIPTOR.full_name,
                "ce-time": clock.to_text(clock.now()),
            }
            data = StringValue(value=value).SerializeToString()
            await jetstream.publish(subject(stream, "StringValue", key), data, headers=headers)

        if poisoned:
            for number in range(8):  # enough that each partition has one
                await publish("poison", f"bad{number}")
        began = time.monotonic()
        for number in range(events):
            await publish("fine", f"k{number % KEYS}")
        while len(took) < events and time.monotonic() - began < 60:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return statistics.median(took) if took else 60.0, len(took) / (time.monotonic() - began)
    finally:
        await running.stop(grace=0.1)
        await asyncio.gather(task, return_exceptions=True)
        await jetstream.delete_stream(stream)
        await client.close()


async def table(events: int, seconds: float) -> Table:
    """All four, and what they are to one another."""
    made = Table("consumers", "behind", "median wait", "times idle", "events/s", "times before")
    rates: dict[bool, float] = {}
    with a_server() as url:
        for before in (True, False):
            idle = 0.0
            for poisoned in (False, True):
                wait, rate = await measured(url, before, poisoned, events, seconds)
                idle, first = idle or wait, rates.setdefault(poisoned, rate)
                name, behind = "before" if before else "now", "poisoned events" if poisoned else "none"
                made.add_row(
                    name,
                    behind,
                    f"{wait * 1000:.0f} ms",
                    f"{wait / idle:.1f}",
                    f"{rate:.0f}",
                    f"{rate / max(first, 0.01):.1f}",
                )
    return made


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=0.02, help="that a handler takes")
    arguments = parser.parse_args()
    Console().print(asyncio.run(table(arguments.events, arguments.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
