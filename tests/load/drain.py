"""How fast a backlog of events drains: one line of events as before, partitions, and more replicas.

python -m tests.load.drain [--events 400] [--seconds 0.02] [--replicas 1,2,4]

Each replica is a process of its own. A handler that waits (for a database) is handled side by side in one
replica already; one that computes needs the cores of several. Compare the figures of one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nats
from google.protobuf.wrappers_pb2 import StringValue
from nats.aio.client import Client
from rich.console import Console
from rich.table import Table

from dev.leash import leashed
from dev.options import HOST, free_port
from kit import clock
from kit.consumer import Consumer, Event, Subscription
from kit.events import PARTITIONS, subject
from kit.ids import uuid7
from kit.streams import provision_consumer, provision_stream


def subscription(stream: str, seconds: float, computes: bool) -> Subscription:
    """Events of a stream, each with a handler that waits or computes that long."""

    async def handle(event: Event) -> None:
        if not computes:
            await asyncio.sleep(seconds)
            return
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    return Subscription(f"drain-{stream}", stream, {StringValue: handle})


async def replica(url: str, stream: str, seconds: float, computes: bool) -> None:
    """Handles until the process is ended."""
    client = await nats.connect(url)
    await Consumer(client, subscription(stream, seconds, computes)).run()


@contextmanager
def a_server() -> Iterator[str]:
    """A nats-server of our own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        command = [str(Path(sys.executable).parent / "nats-server"), "-js", "-a", HOST, "-p", str(port)]
        quiet = subprocess.DEVNULL
        server = subprocess.Popen(leashed([*command, "-sd", home]), stdout=quiet, stderr=quiet)
        try:
            while server.poll() is None:
                with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                    break
                time.sleep(0.05)
            yield f"nats://{HOST}:{port}"
        finally:
            server.terminate()
            server.wait()


@contextmanager
def replicas(url: str, count: int, stream: str, seconds: float, computes: bool) -> Iterator[None]:
    """Several processes that handle."""
    own = [sys.executable, "-m", "tests.load.drain", "--of", url, stream, "--seconds", str(seconds)]
    running = [subprocess.Popen(leashed([*own, *(["--computes"] if computes else [])])) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


async def drained(client: Client, wanted: Subscription, every: float) -> None:
    """Returns when nothing is left."""
    jetstream = client.jetstream()
    while True:
        found = [await jetstream.consumer_info(wanted.stream, name) for name in wanted.durables]
        if not any(info.num_pending or info.num_ack_pending for info in found):
            return
        await asyncio.sleep(every)


async def fetching(client: Client, wanted: Subscription, count: int) -> None:
    """Returns when all replicas wait for events."""
    while True:
        found = [await client.jetstream().consumer_info(wanted.stream, name) for name in wanted.durables]
        if all((info.num_waiting or 0) >= count for info in found):
            return
        await asyncio.sleep(0.05)


async def measured(url: str, events: int, keys: int, count: int, seconds: float, computes: bool) -> float:
    """Events handled per second, with that many replicas and events of that many aggregates."""
    stream = f"drain{uuid7()[-12:]}"
    wanted = subscription(stream, seconds, computes)
    client = await nats.connect(url)
    jetstream = client.jetstream()
    try:
        await provision_stream(jetstream, stream)
        await provision_consumer(jetstream, wanted)
        with replicas(url, count, stream, seconds, computes):
            await fetching(client, wanted, count)
            began = time.monotonic()
            for number in range(events):
                id = uuid7()
                headers = {
                    "Nats-Expected-Stream": stream,
                    "ce-id": id,
                    "ce-type": StringValue.DESCRIPTOR.full_name,
                    "ce-time": clock.to_text(clock.now()),
                }
                name = subject(stream, "StringValue", f"k{number % keys}")
                await jetstream.publish_async(name, b"", headers=headers)
            await jetstream.publish_async_completed()
            await drained(client, wanted, 0.02)
            return events / (time.monotonic() - began)
    finally:
        await jetstream.delete_stream(stream)
        await client.close()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=0.02, help="that a handler takes")
    parser.add_argument("--replicas", default="1,2,4", help="how many, by commas")
    parser.add_argument("--of", nargs=2, metavar=("URL", "STREAM"), help=argparse.SUPPRESS)
    parser.add_argument("--computes", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.of:
        url, stream = arguments.of
        asyncio.run(replica(url, stream, arguments.seconds, arguments.computes))
        return 0
    counts = [int(number) for number in arguments.replicas.split(",")]
    table = Table("a handler that", "aggregates", "replicas", "events/s", "times one line")
    console = Console()
    with a_server() as url, console.status("draining"):
        for computes in (False, True):
            line = 0.0
            for keys, count in [(1, 1), *((64, count) for count in counts)]:
                seconds = arguments.seconds
                rate = asyncio.run(measured(url, arguments.events, keys, count, seconds, computes))
                line = line or rate
                named = f"{'computes' if computes else 'waits'} {seconds * 1000:.0f} ms"
                many = f"{keys} (one line)" if keys == 1 else str(keys)
                table.add_row(named, many, str(count), f"{rate:.0f}", f"{rate / line:.1f}")
    console.print(table)
    load = os.getloadavg()[0]
    console.print(f"{PARTITIONS} partitions, {os.cpu_count()} cores, load {load:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
