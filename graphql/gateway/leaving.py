"""How the gateway leaves: not ready, then no streams, then gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Leaving:
    """What every request and stream of this process can see of its end.

    `begun`: clients are sent elsewhere, and served still. `streams_end` is set when subscriptions are to end.
    """

    def __init__(self) -> None:
        self.begun = False
        self.streams_end = asyncio.Event()
        self._sockets = 0
        self._no_sockets = asyncio.Event()
        self._no_sockets.set()

    @contextmanager
    def socket(self) -> Iterator[None]:
        """Around the life of a WebSocket, which is waited for."""
        self._sockets += 1
        self._no_sockets.clear()
        try:
            yield
        finally:
            self._sockets -= 1
            if not self._sockets:
                self._no_sockets.set()

    async def end_streams(self, seconds: float) -> None:
        """Ends subscriptions. Returns when all sockets are closed, at the latest after so many seconds."""
        self.streams_end.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._no_sockets.wait(), seconds)
