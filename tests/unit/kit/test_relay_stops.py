"""The relay ends when it is told to, whatever NATS answers at that moment."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from kit.events import Entry
from kit.outbox import Relay


class Outbox:
    """A store with one announcement in each of its aggregates."""

    name = context = "things"

    async def pending(self, limit: int = 100) -> list[str]:
        return ["a", "b"]

    async def outbox(self, id: str) -> list[Entry]:
        return [Entry(id, "type", "subject", "source", "time", "", "")]

    async def published(self, id: str, ids: set[str]) -> None:
        pass


class Answering:
    """A JetStream whose answer comes together with a cancellation and hides it, as `wait_for` may do."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._nc = SimpleNamespace(max_payload=2**20)

    async def publish(self, *args: Any, **kwargs: Any) -> None:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return


async def test_a_hidden_cancellation_does_not_keep_the_relay_running() -> None:
    jetstream = Answering()
    running = asyncio.create_task(Relay([Outbox()], jetstream).run())  # type: ignore[list-item, arg-type]
    await asyncio.wait_for(jetstream.asked.wait(), 5)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    assert done
