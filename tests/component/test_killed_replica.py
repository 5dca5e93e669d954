"""Three replicas, each a process, of which one is killed with events in hand."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
from google.protobuf.wrappers_pb2 import StringValue

from kit import clock, dead
from kit.events import subject
from kit.ids import uuid7
from kit.streams import DEAD, consumer_info, provision_consumer, provision_stream
from tests.component.replica import subscription

Eventually = Callable[..., Awaitable[Any]]
KEYS = [f"k{number}" for number in range(20)]
PATIENCE = 90.0  # seconds; it takes about 12 where nothing else runs


class Log:
    """What the replicas wrote, in the order in which they did it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "log"
        self._file.touch()

    def lines(self) -> list[tuple[str, str, str]]:
        told = self._file.read_text()
        whole = told[: told.rfind("\n") + 1].splitlines()
        return [(pid, what, value) for pid, what, value in (line.split() for line in whole)]

    def ended(self) -> set[str]:
        return {value for _, what, value in self.lines() if what == "end"}

    def replicas(self) -> set[str]:
        return {pid for pid, what, _ in self.lines() if what == "end"}

    def in_hand(self, pid: str) -> set[str]:
        own = [(what, value) for by, what, value in self.lines() if by == pid]
        return {value for what, value in own if what == "begin"} - {v for what, v in own if what == "end"}


async def test_one_of_three_replicas_is_killed_and_order_holds_and_nothing_is_lost(
    nats_url: str, tmp_path: Path, eventually: Eventually
) -> None:
    stream, log, said = f"killed{uuid7()[-12:]}", Log(tmp_path), 0
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    wanted = subscription(stream, tmp_path)
    await provision_stream(jetstream, stream)
    await provision_stream(jetstream, DEAD)
    await provision_consumer(jetstream, wanted)

    async def publish_round() -> None:
        nonlocal said
        for key in KEYS:
            id = uuid7()
            headers = {"ce-id": id, "ce-type": StringValue.DESCRIPTOR.full_name}
            headers |= {"ce-time": clock.to_text(clock.now()), "Nats-Expected-Stream": stream}
            data = StringValue(value=f"{key}:{said}").SerializeToString()
            await jetstream.publish(subject(stream, "StringValue", key), data, headers=headers)
        said += 1

    async def shared() -> bool:
        """Four partitions may be two and two: then the third replica stands by."""
        await publish_round()
        return len(log.replicas()) >= 2

    async def pins() -> set[str]:
        infos = [await consumer_info(jetstream, stream, name) for name in wanted.durables]
        groups = [group for info in infos if info for group in info["priority_groups"]]
        return {group.get("pinned_client_id", "") for group in groups}

    command = [sys.executable, str(Path(__file__).with_name("replica.py")), nats_url, stream, str(tmp_path)]
    running = [subprocess.Popen(command) for _ in range(3)]
    try:
        await eventually(shared, within=PATIENCE, every=0.5, message="one replica has all partitions")
        latest = log.lines()[-1][0]
        victim = next(one for one in running if str(one.pid) == latest)
        (tmp_path / str(victim.pid)).touch()
        for _ in range(3):
            await publish_round()
        await eventually(lambda: log.in_hand(str(victim.pid)), within=PATIENCE)
        before = await pins()
        victim.kill()
        victim.wait()
        held = log.in_hand(str(victim.pid))
        assert held
        assert not held & log.ended()
        for _ in range(3):
            await publish_round()
        every = {f"{key}:{number}" for key in KEYS for number in range(said)}
        await eventually(lambda: log.ended() == every, within=PATIENCE, message="events are lost or wait")

        async def nothing_left() -> bool:
            infos = [await consumer_info(jetstream, stream, name) for name in wanted.durables]
            return not any(info["num_pending"] + info["num_ack_pending"] for info in infos if info)

        await eventually(nothing_left, within=PATIENCE)
        assert await pins() != before
        assert [one for one in await dead.messages(jetstream) if stream in str(one.headers)] == []
    finally:
        for one in running:
            one.kill()
            one.wait()
        await jetstream.delete_stream(stream)
        await client.close()

    done: dict[str, int] = defaultdict(int)  # by aggregate: how many of its events have ended
    for _, what, value in log.lines():
        key, number = value.split(":")
        if what == "begin":
            assert int(number) <= done[key], f"{value} begins before what precedes it has ended"
        else:
            done[key] = max(done[key], int(number) + 1)
