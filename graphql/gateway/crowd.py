"""How much of the gateway one account and one address may have at once, and how often they may ask.

Each limit is for the whole installation; a replica gives its share of it. Behind one address there may be an
office of many officials, so what an address gets is many times what an account gets.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import Counter as Metric
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.address import group
from gateway.messages import text
from gateway.settings import GatewaySettings
from kit.errors import RateLimited

log = logging.getLogger(__name__)
REFUSED = Metric("gateway_refused", "Connections and requests refused or cut off", ("why",))
_KEPT = 50_000  # accounts and addresses whose rate is remembered; the longest quiet ones go first
_LOOK = 15.0  # seconds between two counts of the replicas
_FREE = frozenset({"/livez", "/readyz"})


Resolve = Callable[[str], Awaitable[Iterable[str]]]
"""The addresses of a name; raises OSError without an answer."""


async def _resolved(name: str) -> set[str]:
    found = await asyncio.get_running_loop().getaddrinfo(name, None)
    return {str(where[0]) for *_, where in found}


class Replicas:
    """How many of us are ready: by the addresses of a headless Service, else as the settings say."""

    def __init__(self, settings: GatewaySettings, resolve: Resolve = _resolved) -> None:
        self._service = settings.gateway_peers
        self._resolve = resolve
        self.count = settings.gateway_replicas

    async def watch(self) -> None:
        """Counts for as long as we run."""
        while self._service:
            await self.look()
            await asyncio.sleep(_LOOK)

    async def look(self) -> None:
        """Counts once; without an answer the last count stands."""
        try:
            self.count = max(1, len(set(await self._resolve(self._service))))
        except OSError as error:
            log.debug("%s: %s", self._service, error)


class Rates:
    """How often each key may do something: `burst` at once, then `per_second`."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, *, burst: float, per_second: float) -> float:
        """Takes one. 0 when there was one, else the seconds until there is."""
        now = time.monotonic()
        left, at = self._left.pop(key, (burst, now))
        left = min(burst, left + (now - at) * per_second)
        wait = 0.0 if left >= 1 else (1 - left) / per_second
        self._left[key] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _KEPT:
            self._left.popitem(last=False)
        return wait


class Crowd:
    """The counts of this process."""

    def __init__(self, settings: GatewaySettings, resolve: Resolve = _resolved) -> None:
        self.replicas = Replicas(settings, resolve)
        self._settings = settings
        self._held: Counter[str] = Counter()
        self._rates = Rates()

    def share(self, limit: int) -> int:
        """This process' share of a limit, at least 1."""
        return max(1, math.ceil(limit / self.replicas.count))

    @contextmanager
    def hold(self, what: str, *, account: str, address: str) -> Iterator[None]:
        """Around a `stream` (a WebSocket or SSE) or an `upload`. Raises RateLimited TOO_MANY_OPEN."""
        release = self.take(what, account=account, address=address)
        try:
            yield
        finally:
            release()

    def take(self, what: str, *, account: str, address: str) -> Release:
        """As `hold`; calling the answer gives it back, once. An empty account or address has no limit."""
        settings = self._settings
        by_account, by_address = {
            "stream": (settings.streams_per_account, settings.streams_per_address),
            "upload": (settings.uploads_per_account, settings.uploads_per_address),
        }[what]
        wanted = {}
        if address:
            wanted[f"{what} of {group(address)}"] = by_address
        if account:
            wanted[f"{what} by {account}"] = by_account
        for key, limit in wanted.items():
            if self._held[key] >= self.share(limit):
                REFUSED.labels(what).inc()
                raise RateLimited("TOO_MANY_OPEN", "too many at once", retry_after=30)
        self._held.update(wanted.keys())
        return Release(self._held, tuple(wanted))

    def ask(self, *, account: str) -> None:
        """Counts a request of an account. Raises RateLimited TOO_MANY_REQUESTS."""
        self._count(f"by {account}", self._settings.requests_per_account)

    def ask_from(self, address: str) -> None:
        """Counts a request from an address. Raises RateLimited TOO_MANY_REQUESTS."""
        self._count(f"of {group(address)}", self._settings.requests_per_address)

    def _count(self, key: str, per_minute: int) -> None:
        share = self.share(per_minute)
        wait = self._rates.take(key, burst=share, per_second=share / 60)
        if wait:
            REFUSED.labels("rate").inc()
            raise RateLimited("TOO_MANY_REQUESTS", "too many requests", retry_after=math.ceil(wait))


class Release:
    """Gives back what was taken; again does nothing."""

    def __init__(self, held: Counter[str], keys: tuple[str, ...]) -> None:
        self._held = held
        self._keys = keys

    def __call__(self) -> None:
        keys, self._keys = self._keys, ()
        for key in keys:
            self._held[key] -= 1
            if self._held[key] <= 0:
                del self._held[key]


class Turnstile:
    """The layer that counts requests by address, whatever they are for."""

    def __init__(self, app: ASGIApp, crowd: Crowd) -> None:
        self._app = app
        self._crowd = crowd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _FREE and scope.get("client"):
            try:
                self._crowd.ask_from(scope["client"][0])
            except RateLimited as error:
                await _refusal(error, Headers(scope=scope))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refusal(error: RateLimited, headers: Headers) -> JSONResponse:
    locale = "en" if headers.get("accept-language", "").lower().startswith("en") else "vi"
    told = text(error.reason, locale, kind="RATE_LIMITED")
    problem = {"message": told, "extensions": {"code": "RATE_LIMITED", "reason": error.reason}}
    after = {"retry-after": error.metadata["retry_after"]}
    return JSONResponse({"message": told, "errors": [problem]}, 429, headers=after)
