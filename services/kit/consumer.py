"""Streams and durable consumers of JetStream, and the loop that hands events to handlers.

Events of one subscription are handled one after the other, over all replicas and across crashes
(`max_ack_pending` 1), so an aggregate's events arrive in order. A subscription that says `ordered=False`
handles several at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import nats.errors
import nats.js.errors
from google.protobuf.message import DecodeError, Message
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as Inbox
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StorageType, StreamConfig
from opentelemetry import trace

from kit import clock
from kit.errors import Conflict, DomainError, RateLimited, Unauthenticated, Unavailable
from kit.events import subject
from kit.telemetry import (
    EVENTS_DEAD,
    EVENTS_HANDLED,
    EVENTS_PENDING,
    EVENTS_REDELIVERED,
    EVENTS_UNACKNOWLEDGED,
    parent_from,
    tracer,
)

DEAD = "DEAD"
_ACK_WAIT = 10.0  # seconds of silence after which an event is given to another
_PARALLEL = 8  # events handled at once when their order does not matter
_FETCH = 2.0  # seconds that a fetch waits, and that a lost one costs after a reconnect
_MEASURE = 10.0  # seconds between two looks at how far behind the consumers are
_BACKOFF = (0.2, 1.0, 3.0, 10.0, 20.0, 30.0, 30.0)  # seconds before the next attempt
# Refusals that say nothing of the event: a lost race, or a called service that is busy or does not know our
# token (its keys have just changed). They are worth all attempts.
_PASSING = (Conflict, RateLimited, Unauthenticated)
_NOTHING = ("404", "408", "409")  # answers to a fetch: nothing there, nothing came, ended by the server
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that happened elsewhere. `id` is the same at every delivery."""

    id: str
    type: str
    subject: str
    time: datetime
    message: Any


Handler = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True)
class Subscription:
    """What a service wants to hear: `durable` is `<service>-<purpose>`, `stream` the announcing context.

    `attempts` bounds the tries of one event; after that it goes to the DEAD stream.
    """

    durable: str
    stream: str
    types: Mapping[type[Message], Handler]
    attempts: int = 8
    ordered: bool = True


async def provision_stream(jetstream: JetStreamContext, context: str, replicas: int = 1) -> None:
    """Makes a context's stream (or DEAD), or corrects what differs from what we want."""
    wanted: dict[str, Any] = {
        "subjects": ["dead.>"] if context == DEAD else [f"motcua.{context}.>"],
        "num_replicas": replicas,
        "duplicate_window": 120.0,
    }
    try:
        known = (await jetstream.stream_info(context)).config
    except nats.js.errors.NotFoundError:
        await jetstream.add_stream(StreamConfig(name=context, storage=StorageType.FILE, **wanted))
        return
    if any(getattr(known, name) != value for name, value in wanted.items()):
        log.warning("stream %s differs and is corrected", context)
        await jetstream.update_stream(replace(known, **wanted))


async def provision_consumer(jetstream: JetStreamContext, subscription: Subscription) -> None:
    """Makes a durable pull consumer, or corrects what differs; made anew where JetStream cannot change it,
    then from after the last event that it had acknowledged."""
    name, stream = subscription.durable, subscription.stream
    wanted: dict[str, Any] = {
        "ack_policy": AckPolicy.EXPLICIT,
        "ack_wait": _ACK_WAIT,
        # We count attempts: the server would drop an event whose last attempt died with its process.
        "max_deliver": -1,
        "filter_subjects": sorted(subject(stream, kind.DESCRIPTOR.name, ">") for kind in subscription.types),
        "max_ack_pending": 1 if subscription.ordered else _PARALLEL,
    }
    fresh = ConsumerConfig(durable_name=name, deliver_policy=DeliverPolicy.ALL, **wanted)
    try:
        known = await jetstream.consumer_info(stream, name)
    except nats.js.errors.NotFoundError:
        await jetstream.add_consumer(stream, fresh)
        return
    config = known.config
    single = [config.filter_subject] if config.filter_subject else []
    config = replace(config, filter_subjects=sorted(config.filter_subjects or single), filter_subject=None)
    if config.deliver_subject is None and all(getattr(config, key) == wanted[key] for key in wanted):
        return
    log.warning("consumer %s differs and is corrected", name)
    try:
        if config.deliver_subject is not None:
            raise nats.js.errors.BadRequestError(description="a push consumer")
        await jetstream.add_consumer(stream, replace(config, **wanted))
    except nats.js.errors.APIError as error:
        after = known.ack_floor.stream_seq if known.ack_floor else 0
        log.warning("consumer %s is made anew after event %d: %s", name, after, error.description)
        await jetstream.delete_consumer(stream, name)
        fresh.deliver_policy, fresh.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, after + 1
        await jetstream.add_consumer(stream, fresh)


async def measure(jetstream: JetStreamContext, subscriptions: Iterable[Subscription]) -> None:
    """Measures how far behind the consumers are, and what is set aside, until cancelled."""
    wanted = list(subscriptions)
    while True:
        with suppress(nats.errors.Error, OSError):  # no value then; who publishes and fetches says so
            for subscription in wanted:
                info = await jetstream.consumer_info(subscription.stream, subscription.durable)
                labels = (subscription.stream, subscription.durable)
                EVENTS_PENDING.set(info.num_pending or 0, *labels)
                EVENTS_UNACKNOWLEDGED.set(info.num_ack_pending or 0, *labels)
                EVENTS_REDELIVERED.set(info.num_redelivered or 0, *labels)
            EVENTS_DEAD.set((await jetstream.stream_info(DEAD)).state.messages)
        await asyncio.sleep(_MEASURE)


class Consumer:
    """Runs one subscription until stopped or cancelled."""

    def __init__(self, client: Client, subscription: Subscription) -> None:
        self._client = client
        self._jetstream = client.jetstream()
        self._subscription = subscription
        self._by_type = {kind.DESCRIPTOR.full_name: (kind, do) for kind, do in subscription.types.items()}
        self._running: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(1 if subscription.ordered else _PARALLEL)
        self._stopping = asyncio.Event()
        self._own: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Fetches and handles; whatever happens to NATS is a wait. Returns after `stop`. On cancellation the
        events in hand are given back."""
        self._own = asyncio.current_task()
        pause = 0.1
        try:
            while not self._stopping.is_set():
                started = time.monotonic()
                try:
                    await provision_consumer(self._jetstream, self._subscription)
                    await self._fetch()
                except (nats.errors.Error, OSError) as error:
                    log.warning("consumer %s waits for NATS: %s", self._subscription.durable, error)
                pause = 0.1 if time.monotonic() - started > _FETCH else min(pause * 2, 5.0)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)
            if self._running:
                await asyncio.wait(self._running)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def stop(self, grace: float = 10.0) -> None:
        """Ends `run`: from now on nothing new is fetched, and what arrives all the same goes back to the
        server at once; an event in hand has `grace` seconds to be handled, then it is given back as well.

        Returns when all is settled. The connection must still be open; may be called twice, or before `run`.
        """
        self._stopping.set()
        if self._own is None or self._own.done():
            return
        await asyncio.wait((self._own,), timeout=grace)
        self._own.cancel()
        await asyncio.gather(self._own, return_exceptions=True)

    async def _fetch(self) -> None:
        address = self._client.new_inbox()
        inbox = await self._client.subscribe(address)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while True:
                await self._room.acquire()
                message = None
                try:
                    if self._stopping.is_set():
                        return
                    message = await self._next(inbox, address, stopping)
                finally:
                    if message is None:
                        self._room.release()
                if message is not None:
                    task = asyncio.create_task(self._handle(message))
                    self._running.add(task)
                    task.add_done_callback(self._done)
        finally:
            stopping.cancel()
            with suppress(nats.errors.Error):  # it would hide the cancellation that ends us
                await inbox.unsubscribe()

    async def _next(self, inbox: Inbox, address: str, stopping: asyncio.Task[bool]) -> Msg | None:
        """The next event, or None when there is none yet. Raises APIError when the consumer is not there."""
        name, stream = self._subscription.durable, self._subscription.stream
        asked = time.monotonic()
        request = json.dumps({"batch": 1, "expires": int(_FETCH * 1e9)}).encode()
        await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", request, address)
        arriving = asyncio.create_task(inbox.next_msg(_FETCH + 1))
        try:
            await asyncio.wait((arriving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                # What the server had sent before it knew that we stop comes in, and nothing after it.
                with suppress(nats.errors.Error, TimeoutError):
                    await asyncio.wait_for(inbox.drain(), 1)  # type: ignore[no-untyped-call]
        finally:
            arriving.cancel()
            [message] = await asyncio.gather(arriving, return_exceptions=True)
        if isinstance(message, nats.errors.TimeoutError | asyncio.CancelledError):
            return None  # the request or its answer was lost, or we stop
        if isinstance(message, BaseException):
            raise message
        status = (message.headers or {}).get("Status")
        if status is None and stopping.done():
            await message.nak()
            return None
        if status is None:
            return message
        if status not in _NOTHING:
            raise nats.js.errors.APIError.from_msg(message)
        if time.monotonic() - asked < 1:  # it had to be ended early
            await asyncio.sleep(0.5)
        return None

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._room.release()

    async def _handle(self, message: Msg) -> None:
        headers = message.headers or {}
        kind = headers.get("ce-type", "")
        consumer = self._subscription.durable
        started = time.perf_counter()
        outcome = "lost"
        with tracer.start_as_current_span(
            f"handle {kind} {consumer}",
            parent_from(headers.get("traceparent")),
            kind=trace.SpanKind.CONSUMER,
            attributes={"event.id": headers.get("ce-id", "")},
        ) as span:
            beating = asyncio.create_task(self._beat(message))
            try:
                outcome = await self._attempt(message, kind, headers)
            except asyncio.CancelledError:
                with suppress(nats.errors.Error):
                    await message.nak()
                raise
            except (nats.errors.Error, OSError) as error:
                # Not acknowledged: it comes again, and the handler knows what it has handled.
                log.warning("event %s not settled: %s", headers.get("ce-id"), error)
            finally:
                beating.cancel()
                span.set_attribute("event.outcome", outcome)
                EVENTS_HANDLED.labels(consumer, kind, outcome).observe(time.perf_counter() - started)

    async def _beat(self, message: Msg) -> None:
        while True:
            await asyncio.sleep(_ACK_WAIT / 3)
            try:
                await message.in_progress()
            except (nats.errors.Error, OSError) as error:
                log.info("no heartbeat: %s", error)

    async def _attempt(self, message: Msg, kind: str, headers: Mapping[str, str]) -> str:
        if kind and kind not in self._by_type:
            await message.ack()
            return "unknown"
        try:
            decode, handler = self._by_type[kind]
            event = Event(
                id=headers["ce-id"],
                type=kind,
                subject=message.subject,
                time=clock.from_text(headers["ce-time"]),
                message=decode.FromString(message.data),
            )
        except (KeyError, ValueError, DecodeError) as error:
            await self._bury(message, "UNDECODABLE", repr(error))
            return "dead"
        tries = message.metadata.num_delivered
        failure: Exception
        try:
            await handler(event)
        except Unavailable as error:  # not the event's fault: as long as it takes
            return await self._again(message, event, tries, error)
        except DomainError as error:
            if not isinstance(error, _PASSING):
                await self._bury(message, error.reason, error.message)
                return "dead"
            reason, failure = error.reason, error
        except Exception as error:
            log.exception("event %s (%s) failed in %s", event.id, kind, self._subscription.durable)
            reason, failure = type(error).__name__, error
        else:
            await message.ack()
            return "handled"
        if tries >= self._subscription.attempts:
            await self._bury(message, reason, str(failure))
            return "dead"
        return await self._again(message, event, tries, failure)

    async def _again(self, message: Msg, event: Event, tries: int, error: Exception) -> str:
        delay = _BACKOFF[min(tries, len(_BACKOFF)) - 1]
        log.warning("event %s (%s) again in %.1f s: %s", event.id, event.type, delay, type(error).__name__)
        await message.nak(delay=delay)
        return "again"

    async def _bury(self, message: Msg, reason: str, why: str) -> None:
        consumer, about = self._subscription.durable, message.metadata
        headers = {
            **(message.headers or {}),
            "Nats-Msg-Id": f"{consumer}:{about.stream}:{about.sequence.stream}",
            "dead-reason": reason,
            "dead-error": " ".join(why.split())[:500],
            "dead-subject": message.subject,
            "dead-consumer": consumer,
        }
        await self._jetstream.publish(f"dead.{consumer}", message.data, timeout=5, headers=headers)
        await message.term()
        log.error("event %s is in %s: %s from %s", headers.get("ce-id"), DEAD, reason, consumer)
