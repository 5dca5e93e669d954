"""Files that are held back until the antivirus has found them clean.

A version is held back from the moment it is stored; nobody reads it before, neither officials nor its owner.
A dossier may be submitted with it meanwhile, so that an antivirus that is away costs nobody a day; what is
found in it later is told to the owner, and the desk asks for another file. Away or undecided, the antivirus
is asked again. What came while there was no antivirus is checked when somebody first wants to read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time

from dossier.domain.document import Version
from dossier.handlers import Antivirus, Ports
from dossier.handlers.vault import content_key
from kit.errors import DomainError

log = logging.getLogger(__name__)
_SHORTEST, _LONGEST = 5.0, 600.0  # seconds between two tries of one file that gets no verdict


class Checking:
    """Asks the antivirus about what is held back, `at_once` files at a time, whenever it is woken and else
    every `seconds`. Replicas do not share the work out: what two ask about is asked twice, and told once."""

    def __init__(
        self, ports: Ports, antivirus: Antivirus, woken: asyncio.Event, *, at_once: int, seconds: float
    ) -> None:
        self._ports = ports
        self._antivirus = antivirus
        self._woken = woken
        self._room = asyncio.Semaphore(at_once)
        self._seconds = seconds
        self._again: dict[tuple[str, int], tuple[float, float]] = {}  # when, and the pause before that

    async def run(self) -> None:
        """Goes on until cancelled."""
        while True:
            self._woken.clear()
            await self.once()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._woken.wait()

    async def once(self) -> None:
        """Asks about everything that is held back and whose time has come, while the antivirus is there."""
        token = ""
        while True:
            page = await self._ports.documents.page({"checking": 1}, size=100, token=token)
            documents = list(page.items)
            random.shuffle(documents)  # so that replicas meet less often
            there = await asyncio.gather(*(self._check(d.id, v) for d in documents for v in d.held_back))
            if not all(there) or not (token := page.next_token):
                return

    async def _check(self, document: str, version: Version) -> bool:
        """False when the antivirus is away."""
        key, ports = (document, version.number), self._ports
        due, pause = self._again.get(key, (0.0, _SHORTEST))
        if time.monotonic() < due:
            return True
        async with self._room:
            fresh = await ports.documents.find(document)
            if fresh is None or version.number not in {v.number for v in fresh.held_back}:
                return True  # another replica has been faster
            try:
                verdict = await self._antivirus.scan(
                    ports.objects.read(content_key(version.sha256), 0, version.size)
                )
            except (DomainError, FileNotFoundError) as error:
                if isinstance(error, DomainError) and error.reason == "ANTIVIRUS_UNAVAILABLE":
                    return False
                log.warning("a file could not be checked: %s", error)
                self._again[key] = (time.monotonic() + pause, min(pause * 2, _LONGEST))
                return True
            self._again.pop(key, None)
            if not verdict.clean:
                log.warning("a file is refused: %s", verdict.found)
            await ports.documents.change(
                document, lambda d: d.judge(version.number, clean=verdict.clean, found=verdict.found)
            )
            return True


async def waiting(ports: Ports) -> tuple[int, float]:
    """How many documents have something held back, and for how many seconds the oldest of it has been."""
    count = await ports.documents.count({"checking": 1})
    if not count:
        return 0, 0.0
    oldest = await ports.documents.page({"checking": 1}, size=1, order="+checking_since")
    since = [v.created for d in oldest.items for v in d.held_back]
    return count, max(0.0, (ports.clock() - min(since, default=ports.clock())).total_seconds())
