"""A service: its API, its stores, what it announces and hears, started and stopped in the right order."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import sys
import time
import typing
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import nats
import uvloop
from nats.aio.client import Client
from nats.js import JetStreamContext
from pydantic import ValidationError
from pydantic_settings import SettingsError

from kit import mongo, telemetry
from kit.auth import TokenVerifier
from kit.consumer import Consumer, measure_dead
from kit.errors import DomainError, Unavailable
from kit.grpc_server import AddServicer, Server, free_to_listen
from kit.outbox import Relay
from kit.probe import Probe
from kit.sessions import EndedSessions
from kit.settings import CannotStart as CannotStart
from kit.settings import Settings, wrong
from kit.streams import DEAD, Subscription, consumer_info, stream_info
from kit.tls import nats_context, renewing

T = TypeVar("T")
log = logging.getLogger(__name__)
_LOOK = 2.0  # seconds between two looks at the database
_TELL = 10.0  # seconds between two lines that say what is away
_SETTLE = 5.0  # seconds that the last announcements get on the way out
_HEARD = 2.0  # seconds after which a cancellation is repeated
_CATCH_UP = 2.0  # seconds that a start waits for the sessions that ended before it
_MESSAGING = 10.0  # seconds that a start waits for NATS before it goes on without


class Service:
    """One service in one process (or several in one, in tests).

    `tasks` are functions that run until cancelled, started again when they fail; `opening` are awaited before
    the API answers (seeds, keys), `closing` after it has stopped (channels). `verifier` turns tokens into
    callers; without one every caller is anonymous.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        servicers: Iterable[tuple[AddServicer, Any]] = (),
        database: mongo.Database | None = None,
        stores: Iterable[mongo.Store[Any]] = (),
        subscriptions: Iterable[Subscription] = (),
        tasks: Iterable[Callable[[], Awaitable[None]]] = (),
        opening: Iterable[Callable[[], Awaitable[None]]] = (),
        closing: Iterable[Callable[[], Awaitable[None]]] = (),
        verifier: TokenVerifier | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.stores = tuple(stores)
        self.subscriptions = tuple(subscriptions)
        self.nats: Client | None = None
        self.metrics_port = 0
        self._database = database if database is not None else next((s.database for s in self.stores), None)
        self._tasks = tuple(tasks)
        self._opening = tuple(opening)
        self._closing = tuple(closing)
        ended = verifier.ended if verifier is not None else None
        self._ended = ended if isinstance(ended, EndedSessions) else None
        self._server = Server(settings, servicers, verifier)
        self._probe = Probe(settings.probe_listen)
        self._running: list[asyncio.Task[None]] = []
        self._talking: asyncio.Task[None] | None = None
        self._consumers: list[Consumer] = []
        self._relay: Relay | None = None
        self._ready = False
        self._patient_until = 0.0
        self._told = 0.0
        self._unprepared = ""  # the stream or consumer that NATS does not have

    @property
    def port(self) -> int:
        """Where the API listens, once started."""
        return self._server.port

    @property
    def probe_port(self) -> int:
        """Where health for the kubelet listens, once started; 0 without PROBE_LISTEN."""
        return self._probe.port

    async def start(self) -> None:
        """Returns when the service is ready. Raises CannotStart."""
        try:
            await self._start()
        except (OSError, DomainError) as error:
            await self.stop()
            raise CannotStart(f"{self.name}: {error}") from error
        except mongo.Refused as error:
            await self.stop()
            raise CannotStart(f"{self.name}: the database at MONGODB_URL refuses: {error}") from error
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        await self._probe.start()
        free_to_listen(self.settings.grpc_listen)  # said now, not after a wait
        if self.settings.metrics_listen:
            self.metrics_port = telemetry.serve_metrics(self.settings.metrics_listen)
        self._patient_until = time.monotonic() + self.settings.start_patience
        if (database := self._database) is not None:
            kind = await self._reach(lambda: mongo.kind_of(database))
            if self.settings.environment == "production" and kind not in ("replica set", "sharded"):
                raise CannotStart(
                    f"{self.name}: production needs a MongoDB replica set; MONGODB_URL leads to a {kind}"
                )
        for store in self.stores:
            await self._reach(store.prepare)
        if self._own_streams() or self.subscriptions:
            connected = asyncio.Event()
            self._talking = asyncio.create_task(_forever(lambda: self._messaging(connected)))
            await self._await_messaging(connected)
        for step in self._opening:
            await self._reach(step)
        if (ended := self._ended) is not None:
            with suppress(TimeoutError):  # identity is away: tokens are good until they expire
                await asyncio.wait_for(ended.catch_up(), _CATCH_UP)
            self._spawn(lambda: ended.run(lambda: self.nats is not None and self.nats.is_connected))
        for task in self._tasks:
            self._spawn(task)
        await self._server.start()  # last: whoever finds the port open may call
        self._ready = True
        await self._server.ready(True)
        await self._probe.ready(True)
        if self._database is not None:
            self._spawn(self._watch)
        log.info("%s ready on port %d", self.name, self.port)

    async def _await_messaging(self, connected: asyncio.Event) -> None:
        """Waits for NATS, and goes on without when it does not answer: events wait in their documents. Where
        it answers but nobody prepared it for this version, the start waits as long as that takes: in a
        rollout the replicas of before serve meanwhile."""
        while not connected.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(connected.wait(), _MESSAGING)
            if not connected.is_set() and not self._unprepared:
                log.warning("NATS does not answer at %s; events wait", self.settings.nats_servers)
                return

    async def _reach(self, step: Callable[[], Awaitable[T]]) -> T:
        """Takes a step of the start, again and again while what it needs is away and there is patience."""
        while True:
            try:
                return await step()
            except Unavailable as error:
                if time.monotonic() >= self._patient_until:
                    raise
                if self._due_to_tell():
                    log.warning("%s waits to start: %s", self.name, error)
            await asyncio.sleep(1)

    async def stop(self) -> None:
        """Not ready first, while `drain` lets callers go elsewhere. Then no new calls; those that run have
        `grace` seconds, as have the events in hand from the beginning on. What is behind them ends last."""
        drain, grace = self.settings.drain if self._ready else 0.0, self.settings.grace
        self._ready = False
        await self._probe.ready(False)
        await self._server.leave()
        hearing = [asyncio.create_task(consumer.stop(drain + grace)) for consumer in self._consumers]
        if drain:
            await asyncio.sleep(drain)
        await asyncio.gather(self._server.stop(), *hearing, _ended(*self._running), return_exceptions=True)
        self._running.clear()
        await self._end_messaging()
        for step in self._closing:
            await step()
        if self._database is not None:
            self._database.client.close()
        await self._probe.stop()

    async def _end_messaging(self) -> None:
        """What the last calls and events had to announce goes out if it can, then the connection ends."""
        if self._relay is not None and self.nats is not None and self.nats.is_connected:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._relay.settled(), min(_SETTLE, self.settings.grace))
        if self._talking is not None:
            await _ended(self._talking)
        if self.nats is not None:
            await self.nats.close()

    async def run(self) -> None:
        """Starts, and runs until SIGTERM or SIGINT; a second one ends the process there and then."""
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()

        def ask(number: int) -> None:
            if asked.is_set():
                os._exit(128 + number)
            asked.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ask, number)
        starting = asyncio.create_task(self.start())
        waiting = asyncio.create_task(asked.wait())
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        try:
            await starting
            await waiting
            log.info("%s stops", self.name)
            await self.stop()
        finally:
            waiting.cancel()

    def _own_streams(self) -> set[str]:
        return {store.context for store in self.stores if store.context}

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        self._running.append(asyncio.create_task(_forever(work)))

    async def _messaging(self, connected: asyncio.Event) -> None:
        if self.nats is not None:
            await self.nats.close()
        context = nats_context(self.settings.nats_url, self.settings.tls)
        client = self.nats = await nats.connect(
            self.settings.nats_url.split(","),
            name=self.name,
            inbox_prefix=f"_INBOX.{self.name}",  # so that NATS can keep others from reading our answers
            connect_timeout=2,
            reconnect_time_wait=0.5,
            max_reconnect_attempts=-1,
            ping_interval=10,
            max_outstanding_pings=2,
            error_cb=self._nats_away,
            disconnected_cb=renewing(context, self.settings.tls),
            reconnected_cb=self._nats_back,
            tls=context,
        )
        if self._ended is not None:
            await self._ended.listen(client)
        jetstream = client.jetstream()
        while True:
            try:
                if not (missing := await self._missing(jetstream)):
                    break
                self._unprepared = missing
                if self._due_to_tell():
                    log.warning("%s waits for `python -m ops.prepare`: NATS has no %s", self.name, missing)
            except (nats.errors.Error, OSError) as error:
                self._unprepared = ""
                await self._nats_away(error)
            await asyncio.sleep(1)
        self._unprepared = ""
        relay = self._relay = Relay(self.stores, jetstream)
        for store in self.stores:
            store.wake = relay.wake
        connected.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(relay.run())
            tasks.create_task(measure_dead(jetstream))
            self._consumers = [
                Consumer(client, subscription, unmarked=self.settings.unmarked_events)
                for subscription in self.subscriptions
            ]
            for consumer in self._consumers:
                tasks.create_task(consumer.run())

    async def _missing(self, jetstream: JetStreamContext) -> str:
        """The first stream or consumer of ours that is not there, in words; empty when all are."""
        heard = {subscription.stream for subscription in self.subscriptions}
        for stream in sorted(self._own_streams() | {DEAD} | heard):
            if await stream_info(jetstream, stream) is None:
                return f"stream {stream}"
        for subscription in self.subscriptions:
            if await consumer_info(jetstream, subscription.stream, subscription.durable) is None:
                return f"consumer {subscription.durable} of stream {subscription.stream}"
        return ""

    async def _nats_away(self, error: Exception) -> None:
        if self._due_to_tell():
            log.warning("NATS: %s; events wait", str(error) or type(error).__name__)

    def _due_to_tell(self) -> bool:
        if time.monotonic() - self._told <= _TELL:
            return False
        self._told = time.monotonic()
        return True

    async def _nats_back(self) -> None:
        log.info("NATS answers again")
        if self._ended is not None:
            self._ended.missed()

    async def _watch(self) -> None:
        """On the API's port, what people and the gateway ask: ready only while the database answers."""
        ready = True
        while True:
            await asyncio.sleep(_LOOK)
            answers = self._database is None or await mongo.answers(self._database, _LOOK)
            if answers != ready:
                ready = answers
                log.warning("database %s", "answers again" if ready else "does not answer; not ready")
                await self._server.ready(ready)


async def _ended(*tasks: asyncio.Task[None]) -> None:
    """Cancels them until they hear it: an answer, or a refused connection, that comes at the same moment
    hides a cancellation (`wait_for` before Python 3.12)."""
    rest = set(tasks)
    while rest:
        for task in rest:
            task.cancel()
        _, rest = await asyncio.wait(rest, timeout=_HEARD)


async def _forever(work: Callable[[], Awaitable[None]]) -> None:
    pause = 0.5
    while True:
        try:
            await work()
            return
        except Exception:
            log.exception("a background task failed and starts again in %.1f s", pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 10.0)


def main(build: Callable[[Any], Service | Awaitable[Service]]) -> NoReturn:
    """The whole of a `__main__.py`: `main(build)`. The settings class is `build`'s annotation of `settings`.

    Ends with 0 after a signal, with 2 and one clear line when it cannot start.
    """
    kind = typing.get_type_hints(build)[next(iter(inspect.signature(build).parameters))]
    name = build.__module__.partition(".")[0]
    try:
        settings = kind()
        telemetry.setup(settings, name)
        uvloop.run(_run(build, settings))
    except ValidationError as error:
        print(f"{name}: bad setting: {wrong(error)}", file=sys.stderr)
        telemetry.end(2)
    except SettingsError as error:
        print(f"{name}: bad setting: {error}", file=sys.stderr)
        telemetry.end(2)
    except CannotStart as error:
        print(error, file=sys.stderr)
        telemetry.end(2)
    telemetry.end(0)


async def _run(build: Callable[[Any], Service | Awaitable[Service]], settings: Settings) -> None:
    built = build(settings)
    await (await built if inspect.isawaitable(built) else built).run()
