"""Runs a subscription: fetches its events by kit.lines, hands them to handlers, and decides about failures.

What can never succeed goes to the DEAD stream at the first try; what may pass is tried again, and holds back
its own aggregate only; what a newer publisher says in a way that we do not know is given back without limit.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import grpc
import nats.errors
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from opentelemetry import trace

from kit import clock, origin, streams
from kit.errors import Conflict, DomainError, RateLimited, Unauthenticated, Unavailable
from kit.events import published_subject, wire_size
from kit.ids import uuid7
from kit.lines import Later, Line, Settled
from kit.streams import DEAD as DEAD
from kit.streams import Event as Event
from kit.streams import Handler as Handler
from kit.streams import Subscription as Subscription
from kit.streams import consumer_info, pinned, undivided
from kit.telemetry import (
    EVENTS_DEAD,
    EVENTS_FOREIGN,
    EVENTS_HANDLED,
    EVENTS_PENDING,
    EVENTS_REDELIVERED,
    EVENTS_UNACKNOWLEDGED,
    parent_from,
    tracer,
)

_LOOK = 10.0  # seconds between two looks at the consumers: are they there, how far behind
# Seconds before the next attempt. None is longer than ACK_WAIT: so long a replica that takes over waits at
# most for what the one before gave back (kit.lines).
_BACKOFF = (0.2, 1.0, 3.0, 10.0)
_UNKNOWN = 10.0  # seconds until an event that we do not know comes again
# What DEAD keeps of an event's headers. Others would be instructions to JetStream, by whoever wrote them.
_KEPT = ("ce-id", "ce-type", "ce-source", "ce-time", origin.SUBJECT, "traceparent")
_LONG = 500  # characters of a header in DEAD
# Refusals that say nothing of the event: a lost race, or a called service that is busy or does not know our
# token (its keys have just changed).
_PASSING = (Conflict, RateLimited, Unauthenticated)
# Failures around us rather than in the event or in our code: of the network, of a called service that masks
# its own (INTERNAL), of memory. All else that nobody expected is a fault in the code, which does the same
# with the same event next time: it is set aside at once, and replayed when the fault is mended.
_AROUND = (OSError, nats.errors.Error, grpc.RpcError, MemoryError)
log = logging.getLogger(__name__)


async def measure_dead(jetstream: JetStreamContext) -> None:
    """Measures how much is set aside, until cancelled."""
    own = asyncio.current_task()
    while own is None or not own.cancelling():  # an answer of NATS may hide a cancellation: see kit.outbox
        with suppress(nats.errors.Error, OSError):  # no value then; who publishes and fetches says so
            EVENTS_DEAD.set((await jetstream.stream_info(DEAD)).state.messages)
        await asyncio.sleep(_LOOK)


class Consumer:
    """Runs one subscription until stopped or cancelled. `unmarked`: take events that do not name their stream
    (kit.origin), as versions before did not."""

    def __init__(self, client: Client, subscription: Subscription, *, unmarked: bool = False) -> None:
        origin.strict(client)
        self._client = client
        self._unmarked = unmarked
        self._jetstream = client.jetstream()
        self._subscription = subscription
        self._by_type = {kind.DESCRIPTOR.full_name: (kind, do) for kind, do in subscription.types.items()}
        self._lines: dict[str, Line] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}
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
            if self._fetching:
                await asyncio.wait(self._fetching.values())
            await self._end()
            while rest := self._tasks():
                await asyncio.wait(rest)
        finally:
            stopping.cancel()
            # Who asks no more is sent nothing: what is given back before that would come back to us.
            for tasks in (set(self._fetching.values()), self._tasks()):
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await self._end()

    def _tasks(self) -> set[asyncio.Task[None]]:
        running = {task for line in self._lines.values() for task in line.tasks}
        return running | {task for task in self._fetching.values() if not task.done()}

    async def _end(self) -> None:
        for line in self._lines.values():
            await line.end()

    async def stop(self, grace: float = 10.0) -> None:
        """Ends `run`: from now on nothing new is fetched, and what arrives all the same, or waits in hand for
        its turn, goes back to the server at once; an event being handled has `grace` seconds, then it is
        given back as well.

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
                if wanted.ordered and undivided(info["config"]):
                    whole = True  # of before there were partitions: it has all
                    break
        labels = (wanted.stream, wanted.durable)
        EVENTS_PENDING.set(sum(info["num_pending"] for info in found.values()), *labels)
        EVENTS_UNACKNOWLEDGED.set(sum(info["num_ack_pending"] for info in found.values()), *labels)
        EVENTS_REDELIVERED.set(sum(info["num_redelivered"] for info in found.values()), *labels)
        for name, info in found.items():
            self._fetch_from(name, pinned(info["config"]))
        self._share(found)
        if len(found) == len(wanted.durables):
            return _LOOK
        if not whole:
            missing = next(name for name in wanted.durables if name not in found)
            log.warning("consumer %s is not there; it waits for `python -m ops.prepare`", missing)
        return min(_LOOK, 1.0)

    def _fetch_from(self, name: str, pins: bool) -> None:
        line = self._lines.get(name)
        if line is None:
            ordered = self._subscription.ordered
            # Unpinned and ordered: of an older version, which delivers one event at a time.
            line = Line(self._client, self._subscription.stream, name, self._handle, self._stopping, ordered)
            self._lines[name] = line
            line.limit(pins, 1 if ordered else streams.PARALLEL)
        elif line.pinned != pins:
            line.limit(pins, 1)
        task = self._fetching.get(name)
        if task is None:
            task = self._fetching[name] = asyncio.create_task(self._keep_fetching(line))
            task.add_done_callback(lambda _: self._look.set())
        elif task.done() and not self._stopping.is_set():
            task.result()  # it raises what no waiting mends

    def _share(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Lets one partition go when we have more than our share of them and another replica waits for it."""
        own = [name for name in found if self._lines[name].owns]
        waiting = max(
            (info["num_waiting"] - self._lines[name].waits for name, info in found.items()), default=0
        )
        if len(own) > math.ceil(len(found) / (1 + max(waiting, 0))):
            self._lines[own[-1]].let_go()

    async def _keep_fetching(self, line: Line) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                await line.fetch()
            except (nats.errors.Error, OSError) as error:
                log.warning("consumer %s waits for NATS: %s", line.name, error)
            pause = 0.1 if time.monotonic() - started > 1 else min(pause * 2, 5.0)
            self._look.set()  # is it still there?
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _handle(self, message: Msg, tries: int) -> Settled | Later:
        headers = message.headers or {}
        kind = headers.get("ce-type", "")
        consumer = self._subscription.durable
        started = time.perf_counter()
        outcome = "lost"
        done: Settled | Later = Later(streams.ACK_WAIT)
        with tracer.start_as_current_span(
            f"handle {kind} {consumer}",
            parent_from(headers.get("traceparent")),
            kind=trace.SpanKind.CONSUMER,
            attributes={"event.id": headers.get("ce-id", "")},
        ) as span:
            try:
                if why := self._foreign(message):
                    kind = ""  # anybody may have made it up
                    outcome, done = await self._bury(message, origin.FOREIGN, why)
                    EVENTS_FOREIGN.inc()
                else:
                    outcome, done = await self._attempt(message, kind, headers, tries)
            except (nats.errors.Error, OSError) as error:
                # It could not be set aside: it comes again, and the handler knows what it has handled.
                log.warning("event %s not settled: %s", headers.get("ce-id"), error)
            finally:
                span.set_attribute("event.outcome", outcome)
                EVENTS_HANDLED.labels(consumer, kind, outcome).observe(time.perf_counter() - started)
        return done

    def _foreign(self, message: Msg) -> str:
        if self._unmarked and origin.STREAM not in (message.headers or {}):
            return ""
        return origin.fault(self._subscription.stream, message.subject, message.headers)

    async def _attempt(
        self, message: Msg, kind: str, headers: Mapping[str, str], tries: int
    ) -> tuple[str, Settled | Later]:
        if kind and kind not in self._by_type:
            return self._unknown(message, f"the type {kind}")
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
            return await self._bury(message, "UNDECODABLE", repr(error))
        try:
            await handler(event)
        except Unavailable as error:  # not the event's fault: as long as it takes
            return self._again(event, tries, error)
        except DomainError as error:
            if isinstance(error, _PASSING):
                if tries < self._subscription.attempts:
                    return self._again(event, tries, error)
            elif (newer := unknown_in(event.message)) is not None:
                return self._unknown(message, newer)
            return await self._bury(message, error.reason, error.message)
        except _AROUND as error:
            if tries < self._subscription.attempts:
                return self._again(event, tries, error)
            return await self._bury(message, type(error).__name__, str(error))
        except Exception as error:
            log.exception("event %s (%s) failed in %s", event.id, kind, self._subscription.durable)
            if (newer := unknown_in(event.message)) is not None:
                return self._unknown(message, newer)
            return await self._bury(message, type(error).__name__, str(error))
        return "handled", Settled()

    def _unknown(self, message: Msg, what: str) -> tuple[str, Later]:
        """A newer publisher said it: it comes again until a newer version of us understands it. What follows
        in its aggregate goes on meanwhile: it may take as long as a release."""
        event = (message.headers or {}).get("ce-id")
        log.warning("event %s of %s: %s is not known here", event, self._subscription.durable, what)
        return "unknown", Later(_UNKNOWN, holds=False)

    def _again(self, event: Event, tries: int, error: Exception) -> tuple[str, Later]:
        delay = _BACKOFF[min(tries, len(_BACKOFF)) - 1]
        log.warning("event %s (%s) again in %.1f s: %s", event.id, event.type, delay, type(error).__name__)
        return "again", Later(delay)

    async def _bury(self, message: Msg, reason: str, why: str) -> tuple[str, Settled]:
        consumer, about = self._subscription.durable, message.metadata
        told = message.headers or {}
        original = f"{about.stream}:{about.sequence.stream}"
        headers = {
            **{name: told[name][:_LONG] for name in _KEPT if name in told},
            "Nats-Msg-Id": f"{consumer}:{original}",
            origin.STREAM: DEAD,
            "dead-original": original,
            "dead-reason": reason,
            "dead-error": " ".join(why.split())[:500],
            "dead-subject": published_subject(message.subject),
            "dead-consumer": consumer,
        }
        data, name = message.data, f"dead.{consumer}"
        if wire_size(headers, data) > self._client.max_payload:  # with what we say of it
            data = b""
        done = await self._jetstream.publish(name, data, timeout=5, headers=headers)
        if done.duplicate:
            # It is there from a try before that we know nothing of; or somebody used its id, which can be
            # guessed, to hide it. Better twice than not at all.
            headers["Nats-Msg-Id"] = uuid7()
            await self._jetstream.publish(name, data, timeout=5, headers=headers)
        log.error("event %s is in %s: %s from %s", headers.get("ce-id"), DEAD, reason, consumer)
        return "dead", Settled(b"+TERM")


def unknown_in(message: Message) -> str | None:
    """What a message says that this version does not know, in words: a field, or the value of an enum; None
    when it knows all. Such a message is handled like any other; only when that fails may this be why."""
    if len(UnknownFieldSet(message)):
        return f"a field of {message.DESCRIPTOR.full_name}"
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = list(value.values())
        else:
            values = list(value) if field.is_repeated else [value]
        for one in values:
            if isinstance(one, Message):
                if (found := unknown_in(one)) is not None:
                    return found
            elif field.enum_type is not None and one not in field.enum_type.values_by_number:
                return f"a value of {field.enum_type.full_name}"
    return None
