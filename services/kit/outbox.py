"""The relay: publishes to JetStream what aggregates have to announce, then takes it out of their documents.

A crash between the two only publishes the same event id again, which JetStream drops. Replicas may run side
by side: each publishes an aggregate's entries in order and waits for every PubAck.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from opentelemetry import trace

from kit import origin
from kit.errors import Unavailable
from kit.events import Entry, plain_subject, wire_size
from kit.mongo import Store
from kit.telemetry import EVENTS_PUBLISHED, EVENTS_REFUSED, OUTBOX_PENDING, parent_from, traceparent, tracer

_PARALLEL = 16  # aggregates published at the same time
_LOOK = 100  # aggregates found at one look
_ASIDE = 600.0  # seconds until an event that NATS refuses for ever is tried again
_TOO_LARGE = 10054  # JetStream's code for a message larger than its stream takes
log = logging.getLogger(__name__)


class Refused(Exception):
    """NATS will not take this event however often it is told."""


class Relay:
    """Publishes for some stores. `poll` is how often (s) it looks for what a crash left behind."""

    def __init__(
        self, stores: Iterable[Store[Any]], jetstream: JetStreamContext, *, poll: float = 5.0
    ) -> None:
        self._stores = [store for store in stores if store.context]  # the others announce nothing
        self._jetstream = jetstream
        self._poll = poll
        self._due: asyncio.Queue[tuple[Store[Any], str]] = asyncio.Queue()
        self._queued: set[tuple[str, str]] = set()
        self._again: set[tuple[str, str]] = set()
        self._refused: dict[tuple[str, str], float] = {}  # set aside, and when they are tried again

    def wake(self, store: Store[Any], id: str) -> None:
        """Says that this aggregate has something to announce; returns at once."""
        key = (store.name, id)
        if key in self._queued:
            self._again.add(key)
        else:
            self._queued.add(key)
            self._due.put_nowait((store, id))

    async def run(self) -> None:
        """Publishes until cancelled. NATS or the database being away is only a wait."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look())
            for _ in range(_PARALLEL):
                tasks.create_task(self._work())

    async def settled(self) -> None:
        """Returns when all that was woken so far has been tried."""
        await self._due.join()

    async def _look(self) -> None:
        while True:
            pause = self._poll
            for store in self._stores:
                try:
                    aside = {id for name, id in self._refused if name == store.name}
                    limit = _LOOK + len(aside)  # what is refused must not keep the others from being found
                    found = await store.pending(limit)
                    many = len(found) == limit
                    waiting = await store.count({"outbox_pending": 1}) if many else len(found)
                except Unavailable as error:
                    log.warning("outbox of %s not read: %s", store.name, error)
                    continue
                OUTBOX_PENDING.set(waiting, store.name)
                EVENTS_REFUSED.set(len(aside), store.name)
                for id in found:
                    if (store.name, id) not in self._queued and not self._waits((store.name, id)):
                        self.wake(store, id)
                if many:
                    pause = min(self._poll, 0.5)
            await asyncio.sleep(pause)

    def _waits(self, key: tuple[str, str]) -> bool:
        return self._refused.get(key, 0.0) > time.monotonic()

    async def _work(self) -> None:
        own = asyncio.current_task()
        # An answer of NATS that comes with a cancellation hides it (wait_for before Python 3.12), so it is
        # looked for between two aggregates; else stopping would wait for ever.
        while own is None or not own.cancelling():
            store, id = await self._due.get()
            key = (store.name, id)
            try:
                if not self._waits(key):
                    await self._relay(store, id)
                    self._refused.pop(key, None)
            except Refused as error:
                # NATS will never take it as it is. It stays in its document, before what follows there; all
                # other aggregates go on, and it is tried again now and then: the limit may have been raised.
                self._refused[key] = time.monotonic() + _ASIDE
                self._again.discard(key)
                log.error("event of %s %s is refused by NATS and set aside: %s", *key, error)
            except Exception as error:
                # It stays pending in its document; the next look finds it.
                log.warning("events of %s %s not published yet: %s: %s", *key, type(error).__name__, error)
                self._again.discard(key)
            self._queued.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.wake(store, id)
            self._due.task_done()

    async def _relay(self, store: Store[Any], id: str) -> None:
        done: set[str] = set()
        try:
            for entry in await store.outbox(id):
                await self._publish(entry)
                done.add(entry.id)
        except Exception:
            await store.published(id, done)
            raise
        await store.published(id, done)

    async def _publish(self, entry: Entry) -> None:
        name = f"publish {entry.type}"
        with tracer.start_as_current_span(
            name,
            parent_from(entry.traceparent),
            kind=trace.SpanKind.PRODUCER,
            attributes={"event.id": entry.id},
        ) as span:
            subject, pause = plain_subject(entry.subject), 0.1
            headers = {
                "Nats-Msg-Id": entry.id,
                origin.STREAM: subject.split(".")[1],
                origin.SUBJECT: subject,
                "ce-id": entry.id,
                "ce-type": entry.type,
                "ce-source": entry.source,
                "ce-time": entry.time,
                "traceparent": traceparent(span) or entry.traceparent,
            }
            data = entry.payload()
            while True:
                try:
                    if wire_size(headers, data) > self._jetstream._nc.max_payload:
                        raise nats.errors.MaxPayloadError
                    await self._jetstream.publish(subject, data, timeout=5, headers=headers)
                except nats.errors.MaxPayloadError as error:
                    EVENTS_PUBLISHED.labels(entry.type, "refused").inc()
                    raise Refused(f"{entry.type} is larger than NATS takes") from error
                except nats.errors.ConnectionClosedError:
                    EVENTS_PUBLISHED.labels(entry.type, "refused").inc()
                    raise
                except nats.js.errors.APIError as error:
                    if error.err_code == _TOO_LARGE:
                        EVENTS_PUBLISHED.labels(entry.type, "refused").inc()
                        raise Refused(f"{entry.type} is larger than its stream takes") from error
                    EVENTS_PUBLISHED.labels(entry.type, "again").inc()
                    log.warning("event %s not taken: %s", entry.id, error.description)
                except (nats.errors.Error, OSError) as error:  # a timeout says nothing: same id, once more
                    EVENTS_PUBLISHED.labels(entry.type, "again").inc()
                    log.warning("event %s not acknowledged: %s", entry.id, error)
                else:
                    EVENTS_PUBLISHED.labels(entry.type, "published").inc()
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
