"""An HTTP client that costs little, so that the server is what is measured: HTTP/1.1, kept connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit


class Connection:
    """One kept connection. Use as an async context manager."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        fixed = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"POST {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\n{fixed}".encode()

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_raised: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def post(self, body: bytes) -> bytes:
        """The body of the answer. Raises AssertionError for any status but 200."""
        self._writer.write(self._head + b"content-length: %d\r\n\r\n" % len(body) + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        answer = await self._reader.readexactly(length)
        assert head.startswith(b"http/1.1 200"), head + answer
        return answer


@dataclass
class Measured:
    """What a run came to."""

    clients: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Done per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Milliseconds within which this share was done."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def measure(
    clients: int,
    seconds: float,
    url: str,
    headers: dict[str, str],
    act: Callable[[Connection], Awaitable[None]],
) -> Measured:
    """Lets each client do `act` again and again on a connection of its own, for so many seconds."""
    measured = Measured(clients)
    began = time.perf_counter()

    async def client() -> None:
        async with Connection(url, headers) as connection:
            while (start := time.perf_counter()) - began < seconds:
                await act(connection)
                measured.latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(clients)))
    measured.seconds = time.perf_counter() - began
    return measured
