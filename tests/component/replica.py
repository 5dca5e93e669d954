"""One replica of a service that handles events, as a process of its own that can be killed.

`python replica.py <NATS URL> <stream> <folder>`. It writes `<pid> begin|end <value>` to `<folder>/log`, and
does not end an event that it has begun with while there is a file `<folder>/<pid>`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import nats
from google.protobuf.wrappers_pb2 import StringValue

from kit import consumer
from kit.consumer import Consumer, Event, Subscription


def subscription(stream: str, folder: Path) -> Subscription:
    """What every replica listens to."""
    failed: set[str] = set()

    def note(what: str, value: str) -> None:
        with (folder / "log").open("a") as log:
            log.write(f"{os.getpid()} {what} {value}\n")

    async def handle(event: Event) -> None:
        value = event.message.value
        if value.endswith("3") and value not in failed:  # it may pass, and does
            failed.add(value)
            raise ConnectionError("away")
        note("begin", value)
        await asyncio.sleep(0)
        while (folder / str(os.getpid())).exists():  # noqa: ASYNC110 (another process makes it)
            await asyncio.sleep(0.02)
        note("end", value)

    return Subscription(f"test-{stream}", stream, {StringValue: handle})


async def main(url: str, stream: str, folder: str) -> None:
    """Handles until killed."""
    consumer._LOOK = 0.5  # partitions are shared out sooner
    client = await nats.connect(url)
    await Consumer(client, subscription(stream, Path(folder))).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
