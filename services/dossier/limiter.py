"""How often something may be tried. Counted in this process: with n replicas the bound is n times as high."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from kit.errors import RateLimited


class Limiter:
    """At most `tries` a key in `seconds`, refilled evenly; remembers at most `keys` keys."""

    def __init__(
        self,
        tries: int,
        seconds: float,
        *,
        keys: int = 10_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tries = tries
        self._rate = tries / seconds
        self._keys = keys
        self._monotonic = monotonic
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, key: str) -> None:
        """Counts a try. Raises RateLimited with `retry_after` seconds when there were too many."""
        now = self._monotonic()
        left, then = self._left.pop(key, (float(self._tries), now))
        left = min(self._tries, left + (now - then) * self._rate)
        if left < 1:
            self._left[key] = (left, now)
            wait = max(1, round((1 - left) / self._rate))
            raise RateLimited("TOO_MANY_TRIES", "too many tries; wait a little", retry_after=wait)
        self._left[key] = (left - 1, now)
        if len(self._left) > self._keys:
            self._left.popitem(last=False)
