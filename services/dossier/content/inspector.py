"""Has files looked into: fetched from object storage into a folder of their own, read by a worker process."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

from dossier.content.finding import Finding
from dossier.content.inspect import inspect
from dossier.content.recognise import recognise
from kit.bounded import Workers

_MOST_RENDITION = 64 * 2**20  # bytes; the process that wrote it may have been taken over


class Storage(Protocol):
    """Where the file is."""

    async def fetch(self, key: str, path: Path) -> None: ...


class Inspector:
    """At most `count` files at a time are looked into, and lie on this machine's disk; more wait. `folder` is
    where they lie; empty: the system's folder for such."""

    def __init__(
        self,
        storage: Storage,
        *,
        count: int,
        cpu_seconds: float,
        memory_bytes: int,
        wall_seconds: float,
        folder: str = "",
    ) -> None:
        self._storage = storage
        self._folder = folder or None
        self._room = asyncio.Semaphore(count)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._workers = Workers(
            count,
            cpu_seconds=cpu_seconds,
            memory_bytes=memory_bytes,
            wall_seconds=wall_seconds,
            modules=("dossier.content.inspect",),
        )

    async def look(self, key: str, head: bytes, owner: str = "") -> tuple[Finding, bytes]:
        """What the object is, by its first bytes and then by all of it, and its rendition (empty for none).
        One owner's files are looked into one after the other, so that nobody takes all the room.

        Raises InvalidInput with the reason why it is not taken, also when looking takes too much; Unavailable
        when storage or the workers are away.
        """
        recognise(head)
        async with self._turns.setdefault(owner, asyncio.Lock()), self._room:
            with tempfile.TemporaryDirectory(prefix="motcua-", dir=self._folder) as folder:
                file, rendition = Path(folder, "file"), Path(folder, "rendition")
                await self._storage.fetch(key, file)
                finding = await self._workers.run(inspect, str(file), str(rendition))
                made = b""
                if finding.rendition:
                    made = await asyncio.to_thread(lambda: rendition.open("rb").read(_MOST_RENDITION))
        return finding, made

    async def close(self) -> None:
        """Ends the processes."""
        await self._workers.close()
