"""What happens now: one NATS subscription a context and process, shared by all who watch.

Core NATS, not JetStream: a watcher wants the present, and reads the object itself when told that it
changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg

from kit import origin
from kit.errors import Unavailable
from kit.sessions import Ended, EndedSessions
from kit.tls import Files, nats_context, renewing
from motcua.notify.v1.events_pb2 import NoticeCreated


async def _nothing() -> list[Ended]:
    return []


log = logging.getLogger(__name__)
_NOTICES = "motcua.notify.v1.notice_created.>"
_BEHIND = 1000  # notices a watcher may be behind before its stream ends


class Live:
    """The hub between NATS and the watchers of this process."""

    def __init__(self, ended: EndedSessions | None = None) -> None:
        self.ended = EndedSessions(_nothing) if ended is None else ended
        self._client: Client | None = None
        self._dossiers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._notices: dict[str, set[asyncio.Queue[str]]] = defaultdict(set)

    @property
    def connected(self) -> bool:
        """Whether events arrive now."""
        return self._client is not None and self._client.is_connected

    async def start(self, url: str, tls: Files | None = None) -> None:
        """Connects in the background as long as it takes, and again whenever the connection is lost."""
        context = nats_context(url, tls)

        async def failed(error: Exception) -> None:
            log.warning("NATS: %s", str(error) or type(error).__name__)

        self._client = Client()
        await self._client.connect(
            url.split(","),
            name="gateway",
            connect_timeout=2,
            reconnect_time_wait=1,
            max_reconnect_attempts=-1,
            ping_interval=10,
            max_outstanding_pings=2,
            error_cb=failed,
            disconnected_cb=renewing(context, tls),
            reconnected_cb=self._missed,
            tls=context,
        )
        await self.ended.listen(self._client)
        await self._client.subscribe("motcua.dossier.v1.>", cb=self._dossier_event)
        await self._client.subscribe(_NOTICES, cb=self._notice_event)

    async def stop(self) -> None:
        """Ends the connection; watchers simply hear nothing more."""
        if self._client is not None:
            await self._client.close()

    @asynccontextmanager
    async def watch_dossier(self, id: str) -> AsyncIterator[AsyncIterator[None]]:
        """Yields an iterator that steps after each change of the dossier, or of the document of the vault,
        with this id; changes in a burst are one step."""
        changed = asyncio.Event()
        self._dossiers[id].add(changed)

        async def steps() -> AsyncIterator[None]:
            while True:
                await changed.wait()
                changed.clear()
                yield

        try:
            yield steps()
        finally:
            self._dossiers[id].discard(changed)
            if not self._dossiers[id]:
                del self._dossiers[id]

    @asynccontextmanager
    async def watch_notices(self, account: str) -> AsyncIterator[AsyncIterator[str]]:
        """Yields an iterator over the ids of the account's new notices. It raises Unavailable (TOO_SLOW) for
        a watcher too far behind."""
        ids: asyncio.Queue[str] = asyncio.Queue(_BEHIND)
        self._notices[account].add(ids)

        async def arriving() -> AsyncIterator[str]:
            while True:
                id = await ids.get()
                if ids not in self._notices.get(account, ()):
                    raise Unavailable("TOO_SLOW", "the stream is read too slowly")
                yield id

        try:
            yield arriving()
        finally:
            self._notices[account].discard(ids)
            if not self._notices[account]:
                del self._notices[account]

    async def _dossier_event(self, message: Msg) -> None:
        if not _is_of("dossier", message):
            return
        for changed in self._dossiers.get(message.subject.rpartition(".")[2], ()):
            changed.set()

    async def _notice_event(self, message: Msg) -> None:
        if not message.subject.startswith(_NOTICES.removesuffix(">")):
            # NATS lets a service that fetches events have them sent here. They come under their own subject.
            log.warning("%s is no announcement of notify", message.subject)
            return
        if not _is_of("notify", message):
            return
        try:
            event = NoticeCreated.FromString(message.data)
        except DecodeError:
            log.warning("not a NoticeCreated on %s", message.subject)
            return
        for ids in list(self._notices.get(event.recipient_id, ())):
            try:
                ids.put_nowait(event.notice_id)
            except asyncio.QueueFull:
                self._notices[event.recipient_id].discard(ids)

    async def _missed(self) -> None:
        """After a reconnection anything may have changed: every watcher of a dossier looks again."""
        self.ended.missed()
        for watchers in self._dossiers.values():
            for changed in watchers:
                changed.set()


def _is_of(stream: str, message: Msg) -> bool:
    if why := origin.fault_heard(stream, message):
        log.error("what %s says is not of %s: %s", message.subject, stream, why)
    return not why
