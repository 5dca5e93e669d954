"""Fetches from one consumer and hands out its events: many aggregates side by side, each in its order.

JetStream gives the events of a partition to one replica, which it pins (kit.streams). That replica knows all
that is delivered and not settled, and handles an event only when it is the oldest such one of its aggregate.
So an event that is given back for later holds back what follows it in its aggregate, and nothing else.

When another replica is pinned, it does not know what the one before has in hand, or gave back for later. It
gathers what comes, without handling any of it, until all that JetStream counts as unsettled is in its own
hand: what the other had is then settled or has come again, at the latest `ACK_WAIT` after that one died.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as Inbox

from kit import streams
from kit.streams import GROUP, PIN, consumer_info

HANDS = 16  # events of a line handled at once
_ROOM = 64  # events in hand, waiting for their turn or being handled
_GATHER = 1024  # the same while it is not known what another replica has
_DEEP = 16  # events of one aggregate in hand; more come again later, so that one does not take all the room
_FETCH = 1.0  # seconds that a fetch waits, and that a lost one costs after a reconnect
_SOON = 1.0  # seconds after which what there is no room for comes again
_SETTLE = 5.0  # seconds that JetStream may take to confirm
_NOTHING = ("404", "408", "409")  # answers to a fetch: nothing there, nothing came, ended by the server
_WRONG_PIN = "423"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """The event is done with: `body` is the acknowledgement that says how."""

    body: bytes = b"+ACK"


@dataclass(frozen=True)
class Later:
    """The event is given back, and comes again after `delay` seconds (at most ACK_WAIT). With `holds`, what
    follows in its aggregate waits for it."""

    delay: float
    holds: bool = True


Work = Callable[[Msg, int], Awaitable[Settled | Later]]


@dataclass
class _Open:
    """An event that was delivered to us and is not settled."""

    heard: float  # when it was delivered, or JetStream was told that we are at it
    message: Msg | None = None  # None: given back, due to come again
    due: float = 0.0
    tries: int = 0
    running: bool = False


@dataclass
class Line:
    """What one durable consumer delivers to this replica. `work` handles an event, told which try it is;
    `ordered` is whether events of one aggregate wait for one another; `pinned` whether the consumer pins a
    replica."""

    client: Client
    stream: str
    name: str
    work: Work
    stopping: asyncio.Event
    ordered: bool = True
    pinned: bool = True
    room: int = _ROOM
    pin: str = ""
    _sure: bool = True  # whether all that is unsettled is ours
    _rest_until: float = 0.0
    _asking: bool = False
    _open: dict[str, dict[int, _Open]] = field(default_factory=dict)
    # What was given back without holding any other: when it comes again.
    _aside: dict[int, float] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(HANDS)
        self._moved = asyncio.Event()

    def limit(self, pinned: bool, number: int) -> None:
        """Whether the consumer pins; if not, so many events are in hand and handled at once."""
        self.pinned, self.room = pinned, _ROOM if pinned else number
        self._free = asyncio.Semaphore(HANDS if pinned else number)

    # --- fetching ------------------------------------------------------------------------------------------

    async def fetch(self) -> None:
        """Fetches and hands out until `stopping`. Raises nats.errors.Error when NATS or the consumer is away;
        may then be called again. What is in hand is kept."""
        address = self.client.new_inbox()
        inbox = await self.client.subscribe(address)
        stopping = asyncio.create_task(self.stopping.wait())
        beating = asyncio.create_task(self._beat())
        try:
            await self._fetch(inbox, address, stopping)
        finally:
            self._asking = False
            stopping.cancel()
            beating.cancel()
            with suppress(nats.errors.Error):  # it would hide the cancellation that ends us
                await inbox.unsubscribe()

    async def _fetch(self, inbox: Inbox, address: str, stopping: asyncio.Task[bool]) -> None:
        asked, began = 0, 0.0
        while not stopping.done():
            now = time.monotonic()
            if asked <= 0 or now - began > _FETCH + 1:
                if now < self._rest_until:
                    self._asking = False
                    await self._pause(self._rest_until - now, stopping)
                    self.pin = ""
                    continue
                if (asked := self._space()) <= 0:
                    self._moved.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._moved.wait(), PIN / 3)
                    if stopping.done() or (self._space() <= 0 and not self.pinned):
                        continue
                    asked = max(self._space(), 1)  # who does not ask is not pinned any longer
                await self._ask(address, asked)
                began, self._asking = now, True
            message = await self._next(inbox, stopping, began + _FETCH + 1 - now)
            if message is None:
                asked = 0
                continue
            # A message of JetStream itself has no reply address; an event may say anything of itself.
            status = None if message.reply else (message.headers or {}).get("Status")
            if status is None:
                asked -= 1
                await self._receive(message)
                continue
            asked, self._asking = 0, False
            if status == _WRONG_PIN:
                self.pin = ""
            elif status not in _NOTHING:
                raise nats.js.errors.APIError.from_msg(message)
            elif time.monotonic() - began < _FETCH / 2:  # it had to be ended early
                await self._pause(0.2, stopping)

    async def _ask(self, address: str, batch: int) -> None:
        request: dict[str, object] = {"batch": batch, "expires": int(_FETCH * 1e9)}
        if self.pinned:
            request |= {"group": GROUP, **({"id": self.pin} if self.pin else {})}
        name = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.name}"
        await self.client.publish(name, json.dumps(request).encode(), address)

    async def _next(self, inbox: Inbox, stopping: asyncio.Task[bool], wait: float) -> Msg | None:
        """What arrives next; None when nothing does in time, or we stop; what was sent then goes back."""
        arriving = asyncio.create_task(inbox.next_msg(max(wait, 0.01)))
        try:
            await asyncio.wait((arriving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                # What the server had sent before it knew that we stop comes in, and nothing after it.
                with suppress(nats.errors.Error, TimeoutError):
                    await asyncio.wait_for(inbox.drain(), 1)  # type: ignore[no-untyped-call]
        finally:
            arriving.cancel()
            [message] = await asyncio.gather(arriving, return_exceptions=True)
        if stopping.done():
            late = [message] if isinstance(message, Msg) else []
            with suppress(asyncio.QueueEmpty):
                while True:
                    late.append(inbox._pending_queue.get_nowait())
            for one in late:
                if one.reply:
                    await self._give_back(one, 0)
            return None
        if isinstance(message, nats.errors.TimeoutError | asyncio.CancelledError):
            return None  # the request or its answer was lost
        if isinstance(message, BaseException):
            raise message
        return message

    async def _pause(self, seconds: float, stopping: asyncio.Task[bool]) -> None:
        await asyncio.wait((stopping,), timeout=seconds)

    def _space(self) -> int:
        held = sum(one.message is not None for entries in self._open.values() for one in entries.values())
        return (self.room if self._sure else max(self.room, _GATHER)) - held

    # --- order ---------------------------------------------------------------------------------------------

    async def _receive(self, message: Msg) -> None:
        now, sequence = time.monotonic(), message.metadata.sequence.stream
        pin = (message.headers or {}).get("Nats-Pin-Id", "")
        if self.pinned and pin and pin != self.pin:
            self._begin(pin)
        key = message.subject.rpartition(".")[2] if self.ordered else str(sequence)
        entries = self._open.setdefault(key, {})
        self._aside.pop(sequence, None)
        one = entries.setdefault(sequence, _Open(now))
        one.message, one.heard = message, now
        if one.running:
            return
        held = sum(other.message is not None for other in entries.values())
        if sequence != min(entries) and (self._space() < 0 or (self._sure and held > _DEEP)):
            await self._later(one, _SOON)
            return
        await self._step(key)

    def _begin(self, pin: str) -> None:
        """We are pinned. What we gave back before may be another's now, who may also have what precedes."""
        self.pin, self._sure = pin, False
        self._aside.clear()
        for key, entries in list(self._open.items()):
            for sequence in [number for number, one in entries.items() if one.message is None]:
                del entries[sequence]
            if not entries:
                del self._open[key]
        self._start(self._gather(pin))

    async def _gather(self, pin: str) -> None:
        """Until all that is unsettled is ours."""
        pause = 0.01
        while self.pin == pin and not self.stopping.is_set():
            before = self._ours()
            try:
                info = await consumer_info(self.client.jetstream(), self.stream, self.name)
            except (nats.errors.Error, OSError) as error:
                log.warning("consumer %s waits for NATS: %s", self.name, error)
            else:
                if info is None:
                    return
                # What came while we asked is not in the answer, and must not stand for what another has.
                if info["num_ack_pending"] <= len(before & self._ours()) and self.pin == pin:
                    self._sure = True
                    for key in list(self._open):
                        await self._step(key)
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)
        if self.pin != pin and not self._sure:  # another is pinned: it waits for what is in our hand
            await self.end()

    def _ours(self) -> set[int]:
        return {number for entries in self._open.values() for number in entries} | set(self._aside)

    async def _step(self, key: str) -> None:
        """Begins with the oldest event of an aggregate when it is there."""
        entries = self._open.get(key)
        if not entries:
            self._open.pop(key, None)
            return
        if not self._sure or any(one.running for one in entries.values()):
            return
        now, head = time.monotonic(), entries[min(entries)]
        if self.stopping.is_set():
            await self._followers(entries, 0)
        elif head.message is None:
            await self._followers(entries, max(head.due - now, 0.05))
        elif now - head.heard > streams.ACK_WAIT * 0.9:  # this process stood still: it is another's now
            del entries[min(entries)]
            await self._step(key)
        else:
            head.running = True
            self._start(self._take(key, min(entries), head))

    async def _followers(self, entries: dict[int, _Open], delay: float) -> None:
        for one in list(entries.values()):
            if one.message is not None and not one.running:
                await self._later(one, delay)

    async def _take(self, key: str, sequence: int, one: _Open) -> None:
        message = one.message
        assert message is not None  # noqa: S101 - else it would not have been begun with
        done: Settled | Later = Later(0)
        try:
            async with self._free:
                if not self.stopping.is_set():
                    one.tries += 1
                    tries = one.tries if self.pinned else message.metadata.num_delivered
                    done = await self.work(message, tries)
            message = one.message or message
            if isinstance(done, Settled):
                if await self._confirmed(message, done.body):
                    self._forget(key, sequence)
                else:  # it comes again, and the handler knows what it has handled
                    one.message, one.due = None, time.monotonic() + streams.ACK_WAIT
            elif done.holds:
                await self._later(one, done.delay)
            else:
                self._forget(key, sequence)
                self._aside[sequence] = time.monotonic() + done.delay
                await self._give_back(message, done.delay)
        except asyncio.CancelledError:
            await self._later(one, 0)
            raise
        finally:
            one.running = False
            self._moved.set()
        await self._step(key)

    def _forget(self, key: str, sequence: int) -> None:
        entries = self._open.get(key, {})
        entries.pop(sequence, None)
        if not entries:
            self._open.pop(key, None)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    # --- telling JetStream ---------------------------------------------------------------------------------

    async def _confirmed(self, message: Msg, body: bytes) -> bool:
        try:
            await self.client.request(message.reply, body, timeout=_SETTLE)
        except (nats.errors.Error, OSError) as error:
            log.warning("consumer %s: an event is not settled: %s", self.name, error)
            return False
        return True

    async def _later(self, one: _Open, delay: float) -> None:
        message, one.message = one.message, None
        one.due = time.monotonic() + delay
        self._moved.set()
        if message is not None:
            await self._give_back(message, delay)

    async def _give_back(self, message: Msg, delay: float) -> None:
        body = b"-NAK" + (b' {"delay": %d}' % int(delay * 1e9) if delay > 0 else b"")
        with suppress(nats.errors.Error, OSError):  # it comes again all the same, later
            await self.client.publish(message.reply, body)

    async def _beat(self) -> None:
        """Tells JetStream what we are still at; forgets what is not ours any more, or does not exist."""
        while True:
            await asyncio.sleep(streams.ACK_WAIT / 3)
            now = time.monotonic()
            for sequence in [
                number for number, due in self._aside.items() if now > due + 2 * streams.ACK_WAIT
            ]:
                del self._aside[sequence]
            for key, entries in list(self._open.items()):
                for sequence, one in list(entries.items()):
                    if one.message is None:
                        if now > one.due + 2 * streams.ACK_WAIT and not one.running:
                            entries.pop(sequence, None)
                    elif now - one.heard > streams.ACK_WAIT:
                        if not one.running:
                            entries.pop(sequence, None)
                    elif self.client.is_connected:
                        with suppress(nats.errors.Error, OSError):
                            await self.client.publish(one.message.reply, b"+WPI")
                            one.heard = now
                await self._step(key)

    # --- giving up -----------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Another replica shall be pinned: nothing is fetched until it is. What is in hand is handled."""
        self._rest_until = time.monotonic() + PIN + 1

    @property
    def owns(self) -> bool:
        """Whether we are pinned, and know that nobody else has anything in hand."""
        return bool(self.pin) and self._sure

    @property
    def waits(self) -> bool:
        """Whether a fetch of ours is open."""
        return self._asking

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """What is being handled; once `stopping`, none of it begins with another event."""
        return set(self._running)

    async def end(self) -> None:
        """Gives back what is in hand and was not begun with."""
        for entries in list(self._open.values()):
            await self._followers(entries, 0)
