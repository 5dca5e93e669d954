"""The loop that fetches events from the consumers of a subscription and hands them to its handlers."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import nats.errors
import nats.js.errors
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as Inbox
from nats.js import JetStreamContext
from opentelemetry import trace

from kit import clock, streams
from kit.errors import Conflict, DomainError, RateLimited, Unauthenticated, Unavailable
from kit.events import published_subject, snake
from kit.streams import DEAD as DEAD
from kit.streams import Event as Event
from kit.streams import Handler as Handler
from kit.streams import Subscription as Subscription
from kit.streams import consumer_info, undivided
from kit.telemetry import (
    EVENTS_DEAD,
    EVENTS_HANDLED,
    EVENTS_PENDING,
    EVENTS_REDELIVERED,
    EVENTS_UNACKNOWLEDGED,
    parent_from,
    tracer,
)

_FETCH = 2.0  # seconds that a fetch waits, and that a lost one costs after a reconnect
_LOOK = 10.0  # seconds between two looks at the consumers: are they as they should be, how far behind
_BACKOFF = (0.2, 1.0, 3.0, 10.0, 20.0, 30.0, 30.0)  # seconds before the next attempt
# Refusals that say nothing of the event: a lost race, or a called service that is busy or does not know our
# token (its keys have just changed). They are worth all attempts.
_PASSING = (Conflict, RateLimited, Unauthenticated)
_NOTHING = ("404", "408", "409")  # answers to a fetch: nothing there, nothing came, ended by the server
log = logging.getLogger(__name__)


async def measure_dead(jetstream: JetStreamContext) -> None:
    """Measures how much is set aside, until cancelled."""
    own = asyncio.current_task()
    while own is None or not own.cancelling():  # an answer of NATS may hide a cancellation: see kit.outbox
        with suppress(nats.errors.Error, OSError):  # no value then; who publishes and fetches says so
            EVENTS_DEAD.set((await jetstream.stream_info(DEAD)).state.messages)
        await asyncio.sleep(_LOOK)


class Consumer:
    """Runs one subscription until stopped or cancelled."""

    def __init__(self, client: Client, subscription: Subscription) -> None:
        self._client = client
        self._jetstream = client.jetstream()
        self._subscription = subscription
        self._by_type = {kind.DESCRIPTOR.full_name: (kind, do) for kind, do in subscription.types.items()}
        self._lines: dict[str, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._look = asyncio.Event()
        self._stopping = asyncio.Event()
        self._own: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Fetches and handles; whatever happens to NATS is a wait. Returns after `stop`. On cancellation the
        events in hand are given back."""
        own = self._own = asyncio.current_task()
        stopping = asyncio.create_task(self._stopping.wait())
        pause = 0.1
        try:
            while not stopping.done():
                self._look.clear()
                tending = asyncio.create_task(self._tend())
                try:
                    await asyncio.wait((tending, stopping), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    tending.cancel()
                try:
                    wait, pause = await tending, 0.1
                except (nats.errors.Error, OSError) as error:
                    log.warning("consumer %s waits for NATS: %s", self._subscription.durable, error)
                    wait = pause = min(pause * 2, 5.0)
                except asyncio.CancelledError:
                    if not stopping.done() or (own is not None and own.cancelling()):
                        raise
                    break
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._look.wait(), wait)
            if rest := {*self._lines.values(), *self._running}:
                await asyncio.wait(rest)
        finally:
            stopping.cancel()
            rest = {*self._lines.values(), *self._running}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    async def stop(self, grace: float = 10.0) -> None:
        """Ends `run`: from now on nothing new is fetched, and what arrives all the same goes back to the
        server at once; an event in hand has `grace` seconds to be handled, then it is given back as well.

        Returns when all is settled. The connection must still be open; may be called twice, or before `run`.
        """
        self._stopping.set()
        self._look.set()
        if self._own is None or self._own.done():
            return
        await asyncio.wait((self._own,), timeout=grace)
        self._own.cancel()
        await asyncio.gather(self._own, return_exceptions=True)

    async def _tend(self) -> float:
        """Looks which consumers are there, measures them, and fetches from them. Answers after how many
        seconds to look again."""
        wanted = self._subscription
        found: dict[str, dict[str, Any]] = {}
        whole = False
        for name in wanted.durables:
            info = await consumer_info(self._jetstream, wanted.stream, name)
            if info is not None:
                found[name] = info
                if wanted.ordered and undivided(
                    info["config"]
                ):  # of before there were partitions: it has all
                    whole = True
                    break
        labels = (wanted.stream, wanted.durable)
        EVENTS_PENDING.set(sum(info["num_pending"] for info in found.values()), *labels)
        EVENTS_UNACKNOWLEDGED.set(sum(info["num_ack_pending"] for info in found.values()), *labels)
        EVENTS_REDELIVERED.set(sum(info["num_redelivered"] for info in found.values()), *labels)
        for name in found:
            if (line := self._lines.get(name)) is None:
                line = self._lines[name] = asyncio.create_task(self._line(name))
                line.add_done_callback(lambda _: self._look.set())
            elif line.done() and not self._stopping.is_set():
                line.result()  # it raises what no waiting mends
        if len(found) == len(wanted.durables):
            return _LOOK
        missing = [name for name in wanted.durables if name not in found]
        if not whole:
            log.warning("consumer %s is not there; it waits for `python -m ops.prepare`", missing[0])
        return min(_LOOK, 1.0)

    async def _line(self, name: str) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                await self._fetch(name)
            except (nats.errors.Error, OSError) as error:
                log.warning("consumer %s waits for NATS: %s", name, error)
            pause = 0.1 if time.monotonic() - started > _FETCH else min(pause * 2, 5.0)
            self._look.set()  # is it still there?
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _fetch(self, name: str) -> None:
        room = asyncio.Semaphore(1 if self._subscription.ordered else streams.PARALLEL)
        address = self._client.new_inbox()
        inbox = await self._client.subscribe(address)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while True:
                await room.acquire()
                message = None
                try:
                    if self._stopping.is_set():
                        return
                    message = await self._next(name, inbox, address, stopping)
                finally:
                    if message is None:
                        room.release()
                if message is not None:
                    task = asyncio.create_task(self._handle(message))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
                    task.add_done_callback(lambda _: room.release())
        finally:
            stopping.cancel()
            with suppress(nats.errors.Error):  # it would hide the cancellation that ends us
                await inbox.unsubscribe()

    async def _next(self, name: str, inbox: Inbox, address: str, stopping: asyncio.Task[bool]) -> Msg | None:
        """The next event, or None when there is none yet. Raises APIError when the consumer is not there."""
        asked, stream = time.monotonic(), self._subscription.stream
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
            await asyncio.sleep(streams.ACK_WAIT / 3)
            try:
                await message.in_progress()
            except (nats.errors.Error, OSError) as error:
                log.info("no heartbeat: %s", error)

    async def _attempt(self, message: Msg, kind: str, headers: Mapping[str, str]) -> str:
        if kind and kind not in self._by_type:
            return await self._pass(message, kind)
        try:
            decode, handler = self._by_type[kind]
            event = Event(
                id=headers["ce-id"],
                type=kind,
                subject=published_subject(message.subject),
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

    async def _pass(self, message: Msg, kind: str) -> str:
        """An event of a type that we do not know. Where its subject is not ours either, a newer replica asked
        for it, and gets it; it is set aside when there is none."""
        event, tries = message.subject.split(".")[3], message.metadata.num_delivered
        if event in {snake(known.DESCRIPTOR.name) for known in self._subscription.types}:
            await message.ack()
            return "unknown"
        if tries >= self._subscription.attempts:
            await self._bury(message, "UNKNOWN_TYPE", f"nobody here knows {kind}")
            return "dead"
        await message.nak(delay=_BACKOFF[min(tries, len(_BACKOFF)) - 1])
        return "again"

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
            "dead-subject": published_subject(message.subject),
            "dead-consumer": consumer,
        }
        await self._jetstream.publish(f"dead.{consumer}", message.data, timeout=5, headers=headers)
        await message.term()
        log.error("event %s is in %s: %s from %s", headers.get("ce-id"), DEAD, reason, consumer)
