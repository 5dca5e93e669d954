"""An antivirus daemon by clamd's protocol (clamd(8)): INSTREAM and VERSION over TCP or a Unix socket.

Nothing is held whole: a file goes through in pieces, each write waits for the daemon to take it, and every
step has a time limit.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from prometheus_client import REGISTRY

from kit.errors import Unavailable
from kit.telemetry import Measured

log = logging.getLogger(__name__)
_PIECE = 64 * 1024  # bytes of one piece; clamd's own programs send as much
_ANSWER = 4096  # most bytes of an answer: a name
_CONNECT = 5.0  # seconds
_LOOK = 30.0  # seconds between two looks at the daemon
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_DATE = re.compile(r"/\w{3} (\w{3}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4})")

UP = Measured("antivirus_up", "Whether the antivirus daemon answers", fresh=3 * _LOOK)
AGE = Measured("antivirus_signatures_age_seconds", "Age of the newest virus signatures", fresh=3 * _LOOK)
HELD_BACK = Measured(
    "files_held_back", "Documents with a file that is held back until it is checked", fresh=3 * _LOOK
)
WAITING = Measured("files_held_back_seconds", "How long the oldest of them has waited", fresh=3 * _LOOK)
for _gauge in (UP, AGE, HELD_BACK, WAITING):
    REGISTRY.register(_gauge)


@dataclass(frozen=True)
class Verdict:
    """What the daemon says of a file; `found` is the name of what it found."""

    clean: bool
    found: str = ""


class Clamd:
    """A daemon at `tcp://host:port` or `unix:///path`. `seconds` is the time limit of one piece and of the
    answer. Raises ValueError for another address."""

    def __init__(self, url: str, *, seconds: float) -> None:
        parts = urlsplit(url)
        self._path = parts.path if parts.scheme == "unix" else ""
        self._host, self._port = parts.hostname or "", parts.port or 0
        if not self._path and not (parts.scheme == "tcp" and self._host and self._port):
            raise ValueError("it is neither tcp://host:port nor unix:///path")
        self._seconds = seconds

    async def scan(self, pieces: AsyncIterator[bytes]) -> Verdict:
        """Whether the file is clean. Raises Unavailable when the daemon is away or gives no verdict."""
        async with self._connected() as (reader, writer):
            try:
                await self._send(writer, b"zINSTREAM\0")
                async for piece in pieces:
                    for start in range(0, len(piece), _PIECE):
                        part = piece[start : start + _PIECE]
                        await self._send(writer, len(part).to_bytes(4, "big") + part)
                await self._send(writer, bytes(4))
            except (ConnectionError, BrokenPipeError):
                pass  # it has said why: a limit, as a rule
            answer = await self._answer(reader)
        if answer == "stream: OK":
            return Verdict(True)
        if found := re.fullmatch(r"stream: (.+) FOUND", answer):
            return Verdict(False, found[1][:200])
        log.warning("the antivirus gives no verdict: %s", answer[:200])
        raise Unavailable("ANTIVIRUS_UNDECIDED", "the antivirus gives no verdict")

    async def signatures(self) -> datetime | None:
        """When the newest signatures were made; None where they say nothing of it. Raises Unavailable."""
        async with self._connected() as (reader, writer):
            await self._send(writer, b"zVERSION\0")
            answer = await self._answer(reader)
        return signed_at(answer)

    async def measure(self, held_back: Callable[[], Awaitable[tuple[int, float]]]) -> None:
        """Goes on measuring the daemon, and what is held back: how many, and for how many seconds."""
        while True:
            try:
                made = await self.signatures()
                UP.set(1)
                if made is not None:
                    AGE.set((datetime.now(UTC) - made).total_seconds())
            except Unavailable as error:
                UP.set(0)
                log.warning("antivirus: %s", error)
            waiting, seconds = await held_back()
            HELD_BACK.set(waiting)
            WAITING.set(seconds)
            await asyncio.sleep(_LOOK)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        try:
            async with asyncio.timeout(_CONNECT):
                if self._path:
                    reader, writer = await asyncio.open_unix_connection(self._path, limit=_ANSWER)
                else:
                    reader, writer = await asyncio.open_connection(self._host, self._port, limit=_ANSWER)
        except (OSError, TimeoutError) as error:
            raise Unavailable("ANTIVIRUS_UNAVAILABLE", f"no antivirus: {type(error).__name__}") from None
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        try:
            async with asyncio.timeout(self._seconds):
                await writer.drain()
        except TimeoutError:
            raise Unavailable("ANTIVIRUS_UNDECIDED", "the antivirus takes nothing more") from None

    async def _answer(self, reader: asyncio.StreamReader) -> str:
        try:
            async with asyncio.timeout(self._seconds):
                answer = await reader.readuntil(b"\0")
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Unavailable("ANTIVIRUS_UNDECIDED", f"no answer: {type(error).__name__}") from None
        return answer.rstrip(b"\0").decode("ascii", "replace").strip()


def signed_at(version: str) -> datetime | None:
    """The date in an answer to VERSION: `ClamAV 1.4.3/27827/Sat Nov 28 09:12:00 2026`, in UTC. None without:
    a daemon that has signatures of one's own only gives none."""
    found = _DATE.search(version)
    if found is None or found[1] not in _MONTHS:
        return None
    try:
        day, hour, minute, second, year = (int(found[n]) for n in range(2, 7))
        return datetime(year, _MONTHS.index(found[1]) + 1, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
