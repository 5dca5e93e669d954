"""Citizens who file over and over while something happens, and what it cost them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from dev.person import Tally
from tests.cluster.lab import eventually
from tests.whole_town import (
    Filed,
    Town,
    accounts_add_up,
    at_rest,
    caught_mails,
    file_and_follow,
    left_behind,
)

JSON = dict[str, Any]
CITIZENS = 3
BOUND = 30.0  # seconds within which the journey has to go on


@dataclass
class Figures:
    """One line of the summary."""

    what: str
    filings: int
    tally: Tally
    silence: float  # longest time (s) in which no request at all was answered
    slowest: float  # seconds of the longest filing
    more: str = ""

    def __str__(self) -> str:
        tally = self.tally
        asked = tally.at_once + tally.second_try + tally.more_tries
        waits = f"for an answer {tally.longest:.1f} s, for an effect {tally.longest_effect:.1f} s"
        return (
            f"{self.what:<52} {self.filings:>3} filings, {asked:>5} requests, "
            f"{tally.second_try:>2} sent twice, {tally.more_tries:>2} failed after that; "
            f"longest wait {waits}; "
            f"silence {self.silence:.1f} s; slowest filing {self.slowest:.0f} s; {self.more}"
        )


@dataclass
class Load:
    """So many citizens file at once, each again and again, from entering to leaving the context.

    Leaving lets everybody finish; a filing that fails ends the context with its error.
    """

    town: Town
    citizens: int = CITIZENS
    filed: list[Filed] = field(default_factory=list)
    slowest: float = 0.0

    async def __aenter__(self) -> Self:
        self._before = await caught_mails(self.town)
        self._ending = False
        self._began = time.monotonic()
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        for _ in range(self.citizens):
            self._group.create_task(self._file())
        return self

    async def __aexit__(self, *raised: Any) -> None:
        self._ending = True
        await self._group.__aexit__(*raised)
        self._ended = time.monotonic()

    async def goes_on(self, filings: int = 1) -> None:
        """Returns when so many more filings have come to their end."""
        wanted = len(self.filed) + filings

        async def there() -> bool:
            return len(self.filed) >= wanted

        await eventually(there, f"{filings} filings more", every=0.1)

    async def _file(self) -> None:
        while not self._ending:
            began = time.monotonic()
            self.filed.append(await file_and_follow(self.town))
            self.slowest = max(self.slowest, time.monotonic() - began)

    def figures(self, what: str, more: str = "") -> Figures:
        """What it came to; once it is over."""
        answered = sorted(moment for moment in self.town.tally.answered if moment > self._began)
        moments = [self._began, *answered, self._ended]
        silence = max(later - earlier for earlier, later in pairwise(moments))
        return Figures(what, len(self.filed), self.town.tally, silence, self.slowest, more)

    async def nothing_lost_and_nothing_twice(self, expected: JSON, *, mail_twice: bool = False) -> None:
        """What all these filings left behind is what an undisturbed one does, and the books are right."""
        await at_rest(self.town)
        for filed in self.filed:
            assert await left_behind(self.town, filed) == expected
        await accounts_add_up(self.town, self._before, mail_twice=mail_twice)
