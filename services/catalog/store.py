"""Procedures in MongoDB, and what keeps the index in memory up to date with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import cast

from google.protobuf.message import Message

from catalog.domain import Procedure, Published
from catalog.search import Index
from kit import clock
from kit.clock import Clock, vietnam_day
from kit.errors import Conflict, Unavailable
from kit.mongo import Database, Request, Store
from kit.mongo import Index as StoredIndex
from motcua.catalog.v1 import events_pb2

_OVERLAP = timedelta(seconds=30)  # clocks of replicas differ, and a write may land long after its stamp
log = logging.getLogger(__name__)


def store_of(
    database: Database, wake: Callable[[Store[Procedure], str], None] | None = None
) -> Store[Procedure]:
    """The collection of procedures."""
    return Store(
        database,
        "procedures",
        Procedure,
        announce=_announce,
        indexes=[StoredIndex("updated")],
        context="catalog",
        wake=wake,
    )


def _announce(procedure: Procedure, event: Published) -> Message:
    return events_pb2.ProcedurePublished(
        code=event.code,
        version=event.version,
        name=event.name,
        effective_from=event.effective_from.isoformat(),
    )


class MongoProcedures:
    """The port `Procedures` over a Store."""

    def __init__(self, store: Store[Procedure]) -> None:
        self._store = store

    async def find(self, code: str) -> Procedure | None:
        """The procedure, or None."""
        return await self._store.find(code)

    async def batch(self, codes: Sequence[str]) -> list[Procedure]:
        """Those that exist."""
        return await self._store.batch(codes)

    async def add(self, procedure: Procedure) -> bool:
        """Stores a new one; False when its code is taken."""
        try:
            await self._store.add(procedure)
        except Conflict:
            return False
        return True

    async def change(
        self,
        code: str,
        change: Callable[[Procedure], None],
        *,
        request: object | None = None,
        etag: str | None = None,
    ) -> Procedure:
        """Changes one that exists; once for each request."""
        return await self._store.change(code, change, request=cast("Request | None", request), etag=etag)


class Freshness:
    """Keeps the index saying what the store says.

    Our own writes are put into it at once. Those of other replicas are found by the time of the last write,
    every `seconds`; a new day puts everything again, since versions begin and end by date.
    """

    def __init__(
        self, store: Store[Procedure], index: Index, *, seconds: float, now: Clock = clock.now
    ) -> None:
        self._store = store
        self._index = index
        self._seconds = seconds
        self._now = now
        self._since: datetime | None = None
        self._day: date | None = None

    async def catch_up(self) -> int:
        """Reads what has changed since the last time, everything the first time and on a new day. Answers how
        many procedures were put."""
        begun = self._now()
        today = vietnam_day(begun)
        everything = self._since is None or today != self._day
        since = None if everything or self._since is None else clock.to_text(self._since - _OVERLAP)
        put = 0
        async for procedure in self._store.scan({"updated": {"$gte": since}} if since else {}):
            if everything or self._index.revision(procedure.id) != procedure.revision:
                self._index.put(procedure, today)
                put += 1
        self._since, self._day = begun, today
        return put

    async def run(self) -> None:
        """Catches up for ever; while the store is away the index stays as it is."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.catch_up()
            except Unavailable as error:
                log.warning("catalogue index not refreshed: %s", error)
