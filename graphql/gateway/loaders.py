"""Batched, per-request loading of what other objects refer to by key: one `BatchGet` a type and level."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Generic, TypeVar

V = TypeVar("V")
R = TypeVar("R")
_BATCH = 100  # most that a BatchGet takes


class Loader(Generic[V]):
    """Collects the keys asked for in one turn of the event loop and fetches each of them once.

    `fetch` gets at most 100 keys and answers what it found by key; what is missing is None. Call it in a
    running loop.
    """

    def __init__(self, fetch: Callable[[list[str]], Awaitable[Mapping[str, V]]]) -> None:
        self._fetch = fetch
        self._found: dict[str, V | None] = {}
        self._wanted: dict[str, None] = {}
        self._round: asyncio.Future[None] | None = None
        self._running: set[asyncio.Task[None]] = set()

    def prime(self, key: str, value: V) -> None:
        """Keeps a value that came another way."""
        self._found[key] = value

    def load(self, key: str) -> V | Awaitable[V | None] | None:
        """The value when it is here already, else an awaitable of it; None for the empty key."""
        if not key:
            return None
        if key in self._found:
            return self._found[key]
        return self._after(self._request([key]), lambda: self._found[key])

    def many(self, keys: Iterable[str]) -> list[V] | Awaitable[list[V]]:
        """The values in the order of their keys, without the missing ones."""
        keys = list(keys)
        missing = [key for key in keys if key not in self._found]
        if not missing:
            return self._present(keys)
        return self._after(self._request(missing), lambda: self._present(keys))

    def _present(self, keys: list[str]) -> list[V]:
        return [value for value in map(self._found.__getitem__, keys) if value is not None]

    def _request(self, keys: Iterable[str]) -> asyncio.Future[None]:
        self._wanted.update(dict.fromkeys(keys))
        if self._round is None:
            loop = asyncio.get_running_loop()
            self._round = loop.create_future()
            loop.call_soon(self._start, self._round)
        return self._round

    def _start(self, round_: asyncio.Future[None]) -> None:
        self._round = None
        wanted, self._wanted = list(self._wanted), {}
        task = asyncio.get_running_loop().create_task(self._run(wanted, round_))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, keys: list[str], round_: asyncio.Future[None]) -> None:
        try:
            if len(keys) <= _BATCH:
                parts = [await self._fetch(keys)]
            else:
                parts = await asyncio.gather(
                    *(self._fetch(keys[start : start + _BATCH]) for start in range(0, len(keys), _BATCH))
                )
        except Exception as error:
            if not round_.cancelled():
                round_.set_exception(error)
                round_.exception()  # whoever waits gets it; nobody waiting is no news
            return
        for key in keys:
            self._found[key] = next((part[key] for part in parts if key in part), None)
        if not round_.cancelled():
            round_.set_result(None)

    @staticmethod
    def _after(round_: asyncio.Future[None], answer: Callable[[], R]) -> Awaitable[R]:
        """A future of the answer, set when the round is done: cheaper than a coroutine and a task each."""
        future: asyncio.Future[R] = round_.get_loop().create_future()

        def done(finished: asyncio.Future[None]) -> None:
            if future.done():
                return
            error = finished.exception()
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(answer())

        round_.add_done_callback(done)
        return future
