"""Work that goes on after the answer, because the time it takes would tell the one who asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Final

from kit.errors import DomainError

_GOING: Final[set[asyncio.Task[None]]] = set()

log = logging.getLogger(__name__)


def after_answer(work: Coroutine[None, None, None]) -> None:
    """Does the work soon. What it cannot do is logged and lost: it must be something to ask for again."""

    async def run() -> None:
        try:
            await work
        except DomainError as error:
            log.warning("work after an answer: %s", error.reason)

    task = asyncio.create_task(run())
    _GOING.add(task)
    task.add_done_callback(_GOING.discard)


async def finish() -> None:
    """Waits for all that goes on."""
    await asyncio.gather(*_GOING, return_exceptions=True)
